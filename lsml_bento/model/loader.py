"""Imports and reloads the user's class."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from lsml_bento.backend_dir import imports_label_studio_ml, is_drop_in
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

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2.0
"""Seconds after a failed import until the next attempt."""

ModelClass = type[LabelStudioMLBase]

# ``has_own_load`` of each class, since it reads the files of the class's modules.
_own_load: WeakKeyDictionary[ModelClass, bool] = WeakKeyDictionary()

_set_handler = signal.signal
_thread = threading.local()


class ModelSource:
    """The user's class, imported when it is first needed.

    Args:
        target: the class, ``"module:Class"``, or ``"module"`` for its only class.
        directory: added to the import path; None if the module is importable anyway.
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
        """The class's name, as far as it is known without importing it."""
        if isinstance(self._target, str):
            return class_name(self._target)
        return self._target.__name__

    @property
    def target(self) -> str:
        """The class as ``"module:Class"``, for another process."""
        if isinstance(self._target, str):
            return self._target
        return f"{self._target.__module__}:{self._target.__qualname__}"

    @cached_property  # it reads files, and every event needs it
    def is_drop_in(self) -> bool:
        """Whether it was written for ``label_studio_ml``."""
        return self._directory is not None and is_drop_in(self._directory)

    @property
    def directory(self) -> Path | None:
        """The directory that its modules come from; None if it was not given."""
        return self._directory

    @property
    def rules(self) -> TrainingRules | None:
        """The class's training rules; None while it is not imported."""
        loaded = self._loaded  # without the lock, since an import takes seconds
        if loaded is None and isinstance(self._target, str):
            return None
        loaded = loaded or self.load()
        known = self._rules
        if known is None or known[0] is not loaded:
            known = loaded, rules_of(loaded, each_event=self.is_drop_in)
            self._rules = known
        return known[1]

    def reload(self) -> ModelClass:
        """Import the modules of the directory again, and return the new class.

        Objects of the old class keep using the old modules.

        Raises:
            ModelImportError: as ``load``; then the old class stays.
        """
        with self._lock:
            if isinstance(self._target, str) and self._directory is not None:
                forgotten = _forget_modules(self._directory)
                try:
                    self._loaded = self._import()
                except ModelImportError:
                    sys.modules.update(forgotten)
                    raise
                self._rules = None  # it keeps the old class
        return self.load()

    def load(self) -> ModelClass:
        """The class. A failed import is retried after ``RETRY_AFTER_S``.

        Raises:
            ModelImportError: naming the file and line that failed.
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
        importlib.invalidate_caches()  # the file may be new since the last attempt
        try:
            with _main_thread_allowed():
                module = importlib.import_module(name)
        except BaseException as error:
            # A SystemExit of user code must not end the server.
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ModelImportError(
                f"the module {name!r} cannot be imported: {locate(error)}"
            ) from error
        return _with_functions(_find(module, wanted), module)


def has_own_load(model: ModelClass) -> bool:
    """Whether ``load`` is a helper of a class that was written for ``label_studio_ml``.

    Only the modules of the class count: a test beside a migrated class may still import
    ``label_studio_ml``.
    """
    if model in _own_load:
        return _own_load[model]
    names = {kind.__module__ for kind in model.__mro__} - {LabelStudioMLBase.__module__}
    files = (getattr(sys.modules.get(name), "__file__", None) for name in names)
    found = any(imports_label_studio_ml(Path(file)) for file in files if file)
    _own_load[model] = found
    return found


@contextmanager
def _main_thread_allowed() -> Iterator[None]:
    """Let a module be imported that expects to be in the main thread.

    A server imports in another thread, so that it answers meanwhile.
    """
    # Never reset: it differs from Python's only in a thread that imports a model.
    signal.signal = _signal
    _thread.imports = True
    try:
        with nullcontext() if _is_main_thread() else _event_loop():
            yield
    finally:
        _thread.imports = False


@contextmanager
def _event_loop() -> Iterator[None]:
    """Give this thread an event loop, which stays open if somebody keeps it."""
    # Not uvloop's, which a module may be unable to use.
    loop = asyncio.DefaultEventLoopPolicy().new_event_loop()
    references = sys.getrefcount(loop)
    asyncio.set_event_loop(loop)
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
        if sys.getrefcount(loop) == references:
            loop.close()


def _signal(signalnum: int, handler: Any) -> Any:
    """``signal.signal``, except that a module being imported cannot break a process.

    In other threads than the main one, ``signal.signal`` raises an error. SIGINT and
    SIGTERM stop the process in an orderly way.
    """
    is_import = getattr(_thread, "imports", False)
    own = signalnum in (signal.SIGINT, signal.SIGTERM)
    if not is_import or (_is_main_thread() and not own):
        return _set_handler(signalnum, handler)
    name = signal.Signals(signalnum).name
    log.warning("Signal handler ignored: the model's module sets one for %s", name)
    return signal.getsignal(signalnum)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _forget_modules(directory: Path) -> dict[str, ModuleType]:
    """Remove the modules of a backend's directory from ``sys.modules``."""
    found, root = {}, directory.resolve()
    kept = {"service", *sys.stdlib_module_names, "__main__"}
    is_below = lru_cache(None)(lambda path: path.resolve().is_relative_to(root))
    for name, module in list(sys.modules.items()):
        place = _place(module)
        # A virtual environment inside the directory contains libraries, not the model.
        # The modules of torch.ops have "_ops.py" as their file, which is relative.
        library = "site-packages" in place.parts or not place.is_absolute()
        if library or name.partition(".")[0] in kept or not is_below(place):
            continue
        found[name] = sys.modules.pop(name)
    return found


def _place(module: ModuleType) -> Path:
    """A module's directory; for a namespace package its own."""
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
            f"its subclasses: {', '.join(sorted(candidates)) or 'none'}"
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
        f'select one with "{module.__name__}:Class"'
    )


def _with_functions(found: ModelClass, module: ModuleType) -> ModelClass:
    """The class with the functions that ``predict_fn`` and ``update_fn`` decorate."""
    predict = next(_marked(module, PREDICT_MARK), None)
    update = next(_marked(module, UPDATE_MARK), None)
    if predict is None and update is None:
        return _checked(found)
    members: dict[str, Any] = {"__module__": module.__name__}
    if predict is not None:
        members["_lsml_predict"] = staticmethod(predict)
    if update is not None:
        members["_lsml_update"] = staticmethod(update)
    name = module.__name__ if found is LabelStudioMLBase else found.__name__
    return _checked(type(name, (found,), members))


def _marked(module: ModuleType, mark: str) -> Iterator[Any]:
    return (v for v in vars(module).values() if getattr(v, mark, False) is True)


def _checked(found: ModelClass) -> ModelClass:
    if inspect.iscoroutinefunction(found.predict):
        raise ModelImportError(
            f"{found.__name__}.predict is a coroutine: write a plain function, and set "
            "threads=N if it waits for the network"
        )
    return found
