"""Where the user's class comes from, and how it is imported."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
import time
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lsml_bento.backend_dir import is_drop_in
from lsml_bento.backend_spec import class_name
from lsml_bento.error_text import locate
from lsml_bento.errors import ModelImportError
from lsml_bento.model.base_class import (
    PREDICT_MARK,
    UPDATE_MARK,
    LabelStudioMLBase,
    rules_of,
)
from lsml_bento.model.training_policy import TrainingRules

RETRY_AFTER_S = 2.0
"""How long a failure is answered again before the user's code gets another try."""

ModelClass = type[LabelStudioMLBase]


class ModelSource:
    """The user's class, imported when it is first needed.

    Args:
        target: the class, ``"module:Class"``, or ``"module"`` for the one class in it.
        directory: put on the import path first; None where the module is found anyway.
    """

    def __init__(self, target: str | ModelClass, directory: Path | None = None) -> None:
        self._target = target
        self._directory = directory
        self._lock = threading.Lock()
        self._loaded: ModelClass | None = None
        self._rules: tuple[ModelClass, TrainingRules] | None = None
        self._failure: tuple[float, ModelImportError] | None = None

    @property
    def name(self) -> str:
        """The class's name as far as it is known without an import."""
        if isinstance(self._target, str):
            return class_name(self._target)
        return self._target.__name__

    @property
    def target(self) -> str:
        """The class as text that another process finds it by."""
        if isinstance(self._target, str):
            return self._target
        return f"{self._target.__module__}:{self._target.__qualname__}"

    @property
    def directory(self) -> Path | None:
        """What is put on the import path."""
        return self._directory

    @cached_property  # which reads files, and is asked with each event
    def is_drop_in(self) -> bool:
        """Whether it was written for ``label_studio_ml``: each event is a job."""
        return self._directory is not None and is_drop_in(self._directory)

    @property
    def rules(self) -> TrainingRules | None:
        """When the class learns; None while it is not imported."""
        loaded = self._loaded  # without the lock, which an import holds for seconds
        if loaded is None and isinstance(self._target, str):
            return None
        loaded = loaded or self.load()
        if self._rules is None or self._rules[0] is not loaded:
            self._rules = loaded, rules_of(loaded, each_event=self.is_drop_in)
        return self._rules[1]

    def load_afresh(self) -> ModelClass:
        """The class of modules imported anew, those of the directory.

        Objects of the class as it was go on with the modules that they came from.

        Raises:
            ModelImportError: as ``load``; the class as it was stays.
        """
        with self._lock:
            if isinstance(self._target, str) and self._directory is not None:
                forgotten = _forget_modules(self._directory)
                try:
                    self._loaded = self._import()
                except ModelImportError:
                    sys.modules.update(forgotten)
                    raise
        return self.load()

    def load(self) -> ModelClass:
        """The class. An import that failed is tried again after two seconds.

        Raises:
            ModelImportError: saying which file and line failed.
        """
        with self._lock:
            if self._loaded is not None:
                return self._loaded
            now = time.monotonic()
            if self._failure and now - self._failure[0] < RETRY_AFTER_S:
                raise self._failure[1].with_traceback(None)
            try:
                self._loaded = self._import()
            except ModelImportError as error:
                self._failure = (now, error)
                raise
            return self._loaded

    def _import(self) -> ModelClass:
        if not isinstance(self._target, str):
            return _checked(self._target)
        name, _, wanted = self._target.partition(":")
        if self._directory and str(self._directory) not in sys.path:
            sys.path.insert(0, str(self._directory))
        importlib.invalidate_caches()  # the file may have come since the last try
        try:
            module = importlib.import_module(name)
        except BaseException as error:
            # User code may raise SystemExit, which must not end the server.
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ModelImportError(
                f"the module {name!r} does not import: {locate(error)}"
            ) from error
        return _with_functions(_find(module, wanted), module)


def _forget_modules(directory: Path) -> dict[str, ModuleType]:
    """Take the modules of a backend's directory out of the imported ones."""
    found, root = {}, directory.resolve()
    kept = {"service", *sys.stdlib_module_names, "__main__"}
    is_below = lru_cache(None)(lambda path: path.resolve().is_relative_to(root))
    for name, module in list(sys.modules.items()):
        place = _place(module)
        # An environment inside the directory holds libraries, not the model; those of
        # torch.ops, found in "_ops.py", are nowhere.
        library = "site-packages" in place.parts or not place.is_absolute()
        if library or name.partition(".")[0] in kept or not is_below(place):
            continue
        found[name] = sys.modules.pop(name)
    return found


def _place(module: ModuleType) -> Path:
    """The directory that a module was found in; a package's own, if it has no file."""
    names = vars(module) if isinstance(module, ModuleType) else {}
    file, paths = names.get("__file__"), list(names.get("__path__") or ())
    return Path(file).parent if file else Path(*paths[:1])


def _find(module: ModuleType, wanted: str) -> ModelClass:
    candidates = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, LabelStudioMLBase)
        and value is not LabelStudioMLBase
    }
    if wanted:
        if wanted in candidates:
            return candidates[wanted]
        found = getattr(module, wanted, None)
        if found is LabelStudioMLBase:
            return LabelStudioMLBase
        raise ModelImportError(
            f"{module.__name__} has no subclass of LabelStudioMLBase named {wanted!r}; "
            f"it has: {', '.join(sorted(candidates)) or 'none'}"
        )
    own = [c for c in candidates.values() if c.__module__ == module.__name__]
    leaves = [c for c in own if not any(o is not c and issubclass(o, c) for o in own)]
    if len(leaves) == 1:
        return leaves[0]
    if not leaves and any(_marked(module, PREDICT_MARK)):
        return LabelStudioMLBase
    raise ModelImportError(
        f"{module.__name__} has {len(leaves)} subclasses of LabelStudioMLBase"
        f"{': ' + ', '.join(sorted(c.__name__ for c in leaves)) if leaves else ''}; "
        f'name the one to serve as "{module.__name__}:Class"'
    )


def _with_functions(found: ModelClass, module: ModuleType) -> ModelClass:
    """The class with the functions that ``predict_fn`` and ``update_fn`` marked."""
    predict = next(_marked(module, PREDICT_MARK), None)
    update = next(_marked(module, UPDATE_MARK), None)
    if predict is None and update is None:
        return _checked(found)
    members: dict[str, Any] = {"__module__": module.__name__}
    if predict is not None:
        members["_predict_function"] = staticmethod(predict)
    if update is not None:
        members["_update_function"] = staticmethod(update)
    name = module.__name__ if found is LabelStudioMLBase else found.__name__
    return _checked(type(name, (found,), members))


def _marked(module: ModuleType, mark: str) -> Iterator[Any]:
    return (v for v in vars(module).values() if getattr(v, mark, False) is True)


def _checked(found: ModelClass) -> ModelClass:
    if inspect.iscoroutinefunction(found.predict):
        raise ModelImportError(
            f"{found.__name__}.predict is a coroutine: write a plain function, and ask "
            "for threads=N if it waits on the network"
        )
    return found
