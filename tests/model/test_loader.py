"""Finding and importing the user's class, and saying where it failed."""

from __future__ import annotations

import asyncio
import fractions
import gc
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from lsml_bento.backend_dir import find_target
from lsml_bento.error_text import describe, locate
from lsml_bento.errors import ModelImportError
from lsml_bento.model.base_class import LabelStudioMLBase
from lsml_bento.model.loader import ModelSource

Write = Callable[[str], ModelSource]

CLASS = "from lsml_bento import LabelStudioMLBase\nclass {}(LabelStudioMLBase): pass\n"


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[..., ModelSource]]:
    """``write(text, wanted="")``: a source for a module with that text."""
    names: list[str] = []
    path = list(sys.path)

    def make(text: str, wanted: str = "") -> ModelSource:
        name = f"written_{tmp_path.name.replace('-', '_')}_{len(names)}"
        names.append(name)
        (tmp_path / f"{name}.py").write_text(text)
        return ModelSource(f"{name}:{wanted}" if wanted else name, tmp_path)

    yield make
    sys.path[:] = path
    for name in names:
        sys.modules.pop(name, None)


def reason(source: ModelSource) -> str:
    with pytest.raises(ModelImportError) as refused:
        source.load()
    return str(refused.value)


class TestWhichClass:
    def test_the_one_of_that_name(self, write: Callable[..., ModelSource]) -> None:
        source = write(CLASS.format("One") + CLASS.format("Two"), "Two")

        assert source.load().__name__ == source.name == "Two"

    def test_the_only_one_needs_no_name(
        self, write: Callable[..., ModelSource]
    ) -> None:
        assert write(CLASS.format("Only")).load().__name__ == "Only"

    def test_the_class_without_a_subclass_is_used(
        self, write: Callable[..., ModelSource]
    ) -> None:
        text = CLASS.format("Base") + "class Leaf(Base): pass\n"

        assert write(text).load().__name__ == "Leaf"

    def test_an_imported_class_is_found_by_name(
        self, write: Callable[..., ModelSource]
    ) -> None:
        text = "from tests.doubles import Echo\n"

        assert write(text, "Echo").load().__name__ == "Echo"
        assert "has 0 subclasses" in reason(write(text))

    def test_it_is_imported_once(self, write: Callable[..., ModelSource]) -> None:
        source = write(CLASS.format("Only"))

        assert source.load() is source.load()

    def test_a_class_is_its_own_source(self) -> None:
        class Own(LabelStudioMLBase):
            pass

        source = ModelSource(Own)
        assert (source.load(), source.name) == (Own, "Own")

    def test_decorated_functions_become_a_class(
        self, write: Callable[..., ModelSource]
    ) -> None:
        source = write(
            "from lsml_bento import predict_fn, update_fn\n"
            "@predict_fn\n"
            "def p(tasks, context, helper, **kwargs):\n"
            "    return [{'result': [], 'id': helper.project_id, **kwargs}]\n"
            "@update_fn\n"
            "def u(event, data, helper, **kwargs):\n"
            "    return [event, data, helper.project_id]\n"
        )

        model = source.load()(project_id="7")

        assert model.predict([{}], None, login="x") == [
            {"result": [], "id": "7", "login": "x"}
        ]
        assert model.fit("START_TRAINING", {"a": 1}) == [
            "START_TRAINING",
            {"a": 1},
            "7",
        ]


class TestWhatIsWrong:
    def test_an_unknown_name_is_an_error_with_the_known_ones(
        self, write: Callable[..., ModelSource]
    ) -> None:
        said = reason(write(CLASS.format("One") + CLASS.format("Two"), "Three"))

        assert said.endswith(
            "has no subclass of LabelStudioMLBase named 'Three'; its subclasses: One, "
            "Two"
        )

    def test_two_classes_need_a_name(self, write: Callable[..., ModelSource]) -> None:
        said = reason(write(CLASS.format("One") + CLASS.format("Two")))

        assert "has 2 subclasses of LabelStudioMLBase: One, Two; select one" in said

    def test_a_coroutine_is_refused(self, write: Callable[..., ModelSource]) -> None:
        text = CLASS.format("A").replace(
            " pass", "\n    async def predict(self, tasks, context=None): pass"
        )

        assert reason(write(text)) == (
            "A.predict is a coroutine: write a plain function, and set threads=N "
            "if it waits for the network"
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
            ("x = 1\nraise SystemExit('bye')", "SystemExit: bye ("),
            ("\n\nx = =", "SyntaxError: invalid syntax"),
            ("1 / 0", "ZeroDivisionError: division by zero ("),
        ],
    )
    def test_a_failed_import_names_file_and_line(
        self, write: Callable[..., ModelSource], text: str, said: str
    ) -> None:
        source = write(text)

        found = reason(source)

        lines = len(text.splitlines())
        assert f"cannot be imported: {said}" in found
        assert found.endswith(f"({source.name}.py, line {lines})")

    def test_a_missing_module_is_an_error(self, tmp_path: Path) -> None:
        said = reason(ModelSource("no_module_of_that_name:A", tmp_path))

        assert said == (
            "the module 'no_module_of_that_name' cannot be imported: "
            "ModuleNotFoundError: "
            "No module named 'no_module_of_that_name'"
        )


MODEL = """
from lsml_bento import LabelStudioMLBase
import words
from tools import count
from tools.deep.more import depth

class Model(LabelStudioMLBase):
    def predict(self, tasks, context=None, **kwargs):
        return [words.WORD, count.COUNT, depth()]
"""


class Directory:
    """A backend of several modules, whose state lives in them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("model.py", MODEL)
        self.write("words.py", "WORD = 'old'\n")
        self.write("tools/count.py", "COUNT = 1\n")  # no __init__.py
        self.write("tools/deep/__init__.py", "")
        self.write("tools/deep/more.py", "def depth(): return 1\n")

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        # Python takes a file of the same second and size for the one it compiled.
        for old in path.parent.glob("__pycache__/*"):
            old.unlink()

    def change(self) -> None:
        self.write("words.py", "WORD = 'new'\n")
        self.write("tools/count.py", "COUNT = 2\n")
        self.write("tools/deep/more.py", "def depth(): return 2\n")


def said(model: type[LabelStudioMLBase]) -> object:
    return model().predict([])


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    path, modules = list(sys.path), set(sys.modules)
    yield Directory(tmp_path / "backend")
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


class TestLoadingAfresh:
    def test_all_modules_of_the_directory_are_imported_again(
        self, directory: Directory
    ) -> None:
        source = ModelSource("model:Model", directory.path)
        old = source.load()
        assert said(old) == ["old", 1, 1]

        directory.change()
        new = source.reload()

        assert new is not old
        assert source.load() is new
        assert said(new) == ["new", 2, 2]

    def test_objects_of_the_old_class_keep_their_modules(
        self, directory: Directory
    ) -> None:
        source = ModelSource("model:Model", directory.path)
        model = source.load()()
        directory.change()
        source.reload()

        assert model.predict([]) == ["old", 1, 1]

    @pytest.mark.parametrize("name", ["model.py", "words.py", "tools/deep/more.py"])
    @pytest.mark.parametrize("text", ["1 / 0\n", "x = =\n", "raise SystemExit\n"])
    def test_the_old_class_stays_if_the_new_one_cannot_be_imported(
        self, directory: Directory, name: str, text: str
    ) -> None:
        source = ModelSource("model:Model", directory.path)
        old = source.load()
        modules = {n: sys.modules[n] for n in ("model", "words", "tools.count")}
        directory.change()
        directory.write(name, text)

        with pytest.raises(ModelImportError, match=r"cannot be imported"):
            source.reload()

        assert source.load() is old
        assert said(old) == ["old", 1, 1]
        assert {n: sys.modules[n] for n in modules} == modules

    def test_it_is_reloaded_when_it_can_be_imported_again(
        self, directory: Directory
    ) -> None:
        source = ModelSource("model:Model", directory.path)
        source.load()
        directory.write("model.py", "1 / 0\n")
        with pytest.raises(ModelImportError):
            source.reload()
        directory.write("model.py", MODEL)
        directory.change()

        assert said(source.reload()) == ["new", 2, 2]

    def test_a_directory_can_be_a_link(
        self, directory: Directory, tmp_path: Path
    ) -> None:
        link = tmp_path / "link"
        link.symlink_to(directory.path)
        sys.path.insert(0, str(link))  # as BentoML puts the working directory there
        source = ModelSource("model:Model", directory.path)
        source.load()
        directory.change()

        assert said(source.reload()) == ["new", 2, 2]

    def test_libraries_are_not_reloaded(self, directory: Directory) -> None:
        library = directory.path / ".venv" / "lib" / "site-packages"
        directory.write(".venv/lib/site-packages/a_library.py", "")
        directory.write("service.py", "")
        sys.path.insert(0, str(library))
        directory.write("model.py", "import a_library, service\n" + MODEL)
        source = ModelSource("model:Model", directory.path)
        source.load()
        kept = ["a_library", "service", "json", "lsml_bento", "pytest", __name__]
        before = [sys.modules[name] for name in kept]

        source.reload()

        assert [sys.modules[name] for name in kept] == before

    def test_an_environment_inside_the_directory_keeps_its_standard_library(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = ModelSource("model:Model", directory.path)
        source.load()
        inside = directory.path / "env" / "lib" / "python3" / "fractions.py"
        monkeypatch.setattr(fractions, "__file__", str(inside))

        source.reload()

        assert sys.modules["fractions"] is fractions

    def test_unusual_modules_are_ignored(
        self, directory: Directory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Strange(ModuleType):
            def __getattr__(self, name: str) -> object:
                raise RuntimeError(name)

        ops = ModuleType("ops_like")
        ops.__file__ = "_ops.py"
        for name, module in (("strange", Strange("strange")), ("ops_like", ops)):
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, "none_at_all", None)
        monkeypatch.chdir(directory.path)
        source = ModelSource("model:Model", directory.path)
        source.load()
        directory.change()

        assert said(source.reload()) == ["new", 2, 2]
        assert sys.modules["ops_like"] is ops

    def test_a_class_without_a_module_name_is_not_reloaded(self) -> None:
        class Own(LabelStudioMLBase):
            pass

        assert ModelSource(Own).reload() is Own


HANDLER = "import signal\nsignal.signal(signal.{}, lambda *_: None)\n"
LOOP = """
import asyncio
LOOP = asyncio.get_event_loop()

async def answer():
    return "yes"

class Loop(Only):
    def predict(self, tasks, context=None, **kwargs):
        return [LOOP.run_until_complete(answer())]
"""


def open_loops() -> set[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's objects, which any look makes warn
        found = [
            o for o in gc.get_objects() if isinstance(o, asyncio.AbstractEventLoop)
        ]
    return {id(loop) for loop in found if not loop.is_closed()}


class TestModulesThatExpectTheMainThread:
    """A server imports the class in another thread, and uses it in a third one."""

    def test_an_event_loop_of_the_module_works(
        self, write: Callable[..., ModelSource]
    ) -> None:
        source = write(CLASS.format("Only") + LOOP)
        before = open_loops()

        with ThreadPoolExecutor(1) as thread:
            model = thread.submit(source.load).result()
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(said, model).result() == ["yes"]

        assert len(open_loops() - before) == 1
        sys.modules[model.__module__].LOOP.close()

    def test_a_loop_that_no_module_keeps_is_closed(
        self, write: Callable[..., ModelSource]
    ) -> None:
        text = "import asyncio\nasyncio.get_event_loop()\n" + CLASS.format("Only")
        before = open_loops()

        with ThreadPoolExecutor(1) as thread:
            thread.submit(write(text).load).result()

        assert open_loops() <= before

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
    def test_a_signal_handler_of_the_module_is_ignored(
        self,
        write: Callable[..., ModelSource],
        name: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        number = signal.Signals[name]
        before = signal.getsignal(number)
        source = write(HANDLER.format(name) + CLASS.format("Only"))

        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(source.load).result().__name__ == "Only"

        assert signal.getsignal(number) is before
        assert f"the model's module sets one for {name}" in caplog.text

    @pytest.mark.parametrize(
        ("name", "is_set"), [("SIGTERM", False), ("SIGUSR1", True)]
    )
    def test_in_the_main_thread_no_handler_is_set_that_the_process_needs(
        self, write: Callable[..., ModelSource], name: str, is_set: bool
    ) -> None:
        number = signal.Signals[name]
        before = signal.getsignal(number)
        try:
            write(HANDLER.format(name) + CLASS.format("Only")).load()

            assert (signal.getsignal(number) is not before) == is_set
        finally:
            signal.signal(number, before)

    def test_outside_of_an_import_signals_are_as_always(
        self, write: Callable[..., ModelSource]
    ) -> None:
        write(CLASS.format("Only")).load()

        with (
            ThreadPoolExecutor(1) as thread,
            pytest.raises(ValueError, match="main thread"),
        ):
            thread.submit(signal.signal, signal.SIGUSR1, signal.SIG_DFL).result()


class TestPlaces:
    def test_an_error_inside_a_library_names_the_line_that_called_it(self) -> None:
        with pytest.raises(ValueError, match="Expecting value") as failed:
            json.loads("")

        assert locate(failed.value).startswith(
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) "
            "(test_loader.py, line "
        )

    def test_an_error_without_a_traceback_has_no_place(self) -> None:
        assert locate(KeyError("x")) == "KeyError: 'x'"
        assert locate(RuntimeError()) == "RuntimeError"

    def test_a_long_message_is_cut_and_is_one_line(self) -> None:
        assert describe(ValueError("a\n\tb " * 500)) == "ValueError: " + ("a b " * 75)


class TestDirectories:
    def test_wsgi_names_the_class(self, tmp_path: Path) -> None:
        (tmp_path / "_wsgi.py").write_text(
            "from label_studio_ml.api import init_app\n"
            "from my_model import NewModel as Model\n"
            "app = init_app(model_class=Model)\n"
        )

        assert find_target(tmp_path) == "my_model:NewModel"

    @pytest.mark.parametrize(
        "wsgi", ["init_app(", "x = 1\n", "init_app(model_class=get())\n", "\xff\xfe"]
    )
    def test_model_py_is_used_if_wsgi_names_no_class(
        self, tmp_path: Path, wsgi: str
    ) -> None:
        (tmp_path / "_wsgi.py").write_bytes(wsgi.encode("latin-1"))
        (tmp_path / "model.py").write_text("")

        assert find_target(tmp_path) == "model"

    def test_a_directory_with_neither_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(
            ModelImportError, match=r"has no model\.py: create a backend"
        ):
            find_target(tmp_path)
