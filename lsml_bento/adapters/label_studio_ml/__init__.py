"""An import hook that resolves HumanSignal's module names to lsml_bento.

A directory written for ``label_studio_ml`` contains ``from label_studio_ml.model import
LabelStudioMLBase``. After ``install`` that is this package's class, even if
HumanSignal's package is installed. After ``fall_back`` it is so only if no other
package is found. Former names of label-studio-sdk's modules resolve in the same way, if
nothing else is found. pytest loads this module at every start, so it imports only the
standard library.

Source: ``HumanSignal/label-studio-ml-backend`` ``label_studio_ml/*.py``@010cc2ab, the
imports of its examples and of public projects.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_FUNCTIONS = f"{__name__}.functions"
_SDK = "label_studio_sdk"
_TOOLS = f"{_SDK}._extensions.label_studio_tools"

_MODEL = {
    "lsml_bento.model.base_class": ("LabelStudioMLBase", "predict_fn", "update_fn"),
    "lsml_bento.model.response": ("ModelResponse", "PredictionValue"),
}
_OURS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "label_studio_ml": {
        **_MODEL,
        _FUNCTIONS: ("__version__", "package_name"),
    },
    "label_studio_ml.model": {
        **_MODEL,
        f"{_SDK}.label_interface": ("LabelInterface",),
        f"{_TOOLS}.core.label_config": ("parse_config",),
        _FUNCTIONS: ("get_local_path", "is_preload_needed"),
    },
    "label_studio_ml.response": {
        "lsml_bento.model.response": (
            "ModelResponse",
            "PredictionValue",
            "SingleTaskPredictions",
        ),
    },
    "label_studio_ml.utils": {
        _FUNCTIONS: (
            "DATA_UNDEFINED_NAME",
            "InMemoryLRUDictCache",
            "compare_nested_structures",
            "get_choice",
            "get_env",
            "get_first_tag_keys",
            "get_image_local_path",
            "get_image_size",
            "get_local_path",
            "get_single_tag_keys",
            "is_preload_needed",
            "is_skipped",
            "is_valid_url",
            "match_labels",
        ),
    },
    "label_studio_ml.api": {
        "lsml_bento.testing.flask_client": ("init_app",),
        "lsml_bento.model.base_class": ("LabelStudioMLBase",),
        "lsml_bento.model.response": ("ModelResponse",),
    },
}
"""Module -> the modules that its names come from."""

_MOVED: Mapping[str, str] = {
    "label_studio_converter": f"{_SDK}.converter",
    "label_studio_sdk.objects": f"{_SDK}.label_interface.objects",
    "label_studio_tools": _TOOLS,
}
"""Modules and packages that moved to, or within, label-studio-sdk."""

_INSTEAD: Mapping[str, str] = {
    "label_studio_ml.api._server": "the app is what init_app(model_class) returns",
    "label_studio_ml.cache": "a model keeps values with self.set and self.get",
    "label_studio_ml.examples": "copy the example's directory and name its modules "
    "without this prefix",
    "label_studio_ml.exceptions": "raise any exception: the client gets its message",
    "label_studio_ml.model.CACHE": "a model keeps values with self.set and self.get",
    "label_studio_ml.server": "the command is lsml-bento",
}


def install() -> None:
    """Resolve ``label_studio_ml`` to this package, before an installed one.

    Call it before importing user code: modules of an installed package are removed from
    ``sys.modules``. A second call changes nothing.
    """
    if not any(isinstance(f, _Names) and f.is_first for f in sys.meta_path):
        sys.meta_path.insert(0, _Names(is_first=True))
    for name, module in list(sys.modules.items()):
        if _root(name) == "label_studio_ml" and not _is_alias(module):
            del sys.modules[name]
    fall_back()


def fall_back() -> None:
    """Resolve ``label_studio_ml`` to this package if no other one is found.

    A second call changes nothing.
    """
    if not any(isinstance(f, _Names) and not f.is_first for f in sys.meta_path):
        sys.meta_path.append(_Names(is_first=False))


class _Names(MetaPathFinder):
    """Finds the modules of ``_OURS``, and those of ``_MOVED`` if nothing else does."""

    def __init__(self, *, is_first: bool) -> None:
        self.is_first = is_first

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The spec of an alias, or None for any other name.

        Raises:
            ModuleNotFoundError: for an unknown name in an alias, listing known names.
        """
        if _root(fullname) == "label_studio_ml":
            return self._find_ours(fullname)
        return None if self.is_first else self._find_moved(fullname)

    def _find_ours(self, fullname: str) -> ModuleSpec | None:
        parent = fullname.rpartition(".")[0]
        if parent and not _is_alias(sys.modules.get(parent)):
            return None  # in an installed package
        if fullname not in _OURS:
            # Without name=, since Python would replace the message.
            raise ModuleNotFoundError(_nothing_at(fullname))
        # As a package, so that "from module import name" calls this finder.
        return ModuleSpec(fullname, _OursLoader(), is_package=True)

    def _find_moved(self, fullname: str) -> ModuleSpec | None:
        for old, new in _MOVED.items():
            if fullname == old or fullname.startswith(f"{old}."):
                name = new + fullname.removeprefix(old)
                found = importlib.util.find_spec(name)
                if found is None:
                    return None
                is_package = found.submodule_search_locations is not None
                return ModuleSpec(fullname, _MovedLoader(name), is_package=is_package)
        return None


class _AliasLoader(Loader):
    """Fills a module with objects of other modules."""


class _OursLoader(_AliasLoader):
    def exec_module(self, module: ModuleType) -> None:
        names: list[str] = []
        for source, wanted in _OURS[module.__name__].items():
            found = import_module(source)
            names += wanted
            vars(module).update({name: getattr(found, name) for name in wanted})

        def refuse(name: str) -> Any:
            raise AttributeError(_nothing_at(f"{module.__name__}.{name}"))

        public = sorted(name for name in names if not name.startswith("_"))
        vars(module).update(__all__=public, __getattr__=refuse)


class _MovedLoader(_AliasLoader):
    def __init__(self, new_name: str) -> None:
        self._new_name = new_name

    def exec_module(self, module: ModuleType) -> None:
        found = import_module(self._new_name)
        names = {k: v for k, v in vars(found).items() if not k.startswith("__")}
        vars(module).update(names, __doc__=found.__doc__)


def _root(name: str) -> str:
    return name.partition(".")[0]


def _is_alias(module: ModuleType | None) -> bool:
    spec = getattr(module, "__spec__", None)
    return isinstance(getattr(spec, "loader", None), _AliasLoader)


def _nothing_at(fullname: str) -> str:
    """The error message for an unknown name."""
    module, _, name = fullname.rpartition(".")
    if module == "label_studio_ml":
        known = [other.rpartition(".")[2] for other in _OURS if other != module]
    else:
        known = [n for names in _OURS.get(module, {}).values() for n in names]
    instead = _INSTEAD.get(fullname)
    return (
        f"lsml-bento has no {name!r} in {module}; it has: {', '.join(sorted(known))}"
        f"{'; ' + instead if instead else ''}"
    )
