"""Finding and importing the user's class, and saying where it failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lsml_bento.errors import ModelImportError
from lsml_bento.model import LabelStudioMLBase
from lsml_bento.source import ModelSource, describe, find_target, locate

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

    def test_the_one_that_no_other_one_is_made_from(
        self, write: Callable[..., ModelSource]
    ) -> None:
        text = CLASS.format("Base") + "class Leaf(Base): pass\n"

        assert write(text).load().__name__ == "Leaf"

    def test_one_that_was_only_imported_is_found_by_name(
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

    def test_functions_that_are_marked_become_a_class(
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
    def test_a_name_that_is_not_there_is_said_with_those_that_are(
        self, write: Callable[..., ModelSource]
    ) -> None:
        said = reason(write(CLASS.format("One") + CLASS.format("Two"), "Three"))

        assert said.endswith(
            "has no subclass of LabelStudioMLBase named 'Three'; it has: One, Two"
        )

    def test_two_classes_need_a_name(self, write: Callable[..., ModelSource]) -> None:
        said = reason(write(CLASS.format("One") + CLASS.format("Two")))

        assert "has 2 subclasses of LabelStudioMLBase: One, Two; name the one" in said

    def test_a_coroutine_is_refused(self, write: Callable[..., ModelSource]) -> None:
        text = CLASS.format("A").replace(
            " pass", "\n    async def predict(self, tasks, context=None): pass"
        )

        assert reason(write(text)) == (
            "A.predict is a coroutine: write a plain function, and ask for threads=N "
            "if it waits on the network"
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
    def test_an_import_that_fails_says_file_and_line(
        self, write: Callable[..., ModelSource], text: str, said: str
    ) -> None:
        source = write(text)

        found = reason(source)

        lines = len(text.splitlines())
        assert f"does not import: {said}" in found
        assert found.endswith(f"({source.name}.py, line {lines})")

    def test_a_module_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        said = reason(ModelSource("no_module_of_that_name:A", tmp_path))

        assert said == (
            "the module 'no_module_of_that_name' does not import: ModuleNotFoundError: "
            "No module named 'no_module_of_that_name'"
        )


class TestPlaces:
    def test_an_error_inside_a_library_names_the_line_that_called_it(self) -> None:
        with pytest.raises(ValueError, match="Expecting value") as failed:
            json.loads("")

        assert locate(failed.value).startswith(
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) "
            "(test_source.py, line "
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
    def test_model_py_is_looked_at_where_wsgi_says_nothing(
        self, tmp_path: Path, wsgi: str
    ) -> None:
        (tmp_path / "_wsgi.py").write_bytes(wsgi.encode("latin-1"))
        (tmp_path / "model.py").write_text("")

        assert find_target(tmp_path) == "model"

    def test_a_directory_with_neither_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ModelImportError, match=r"has no model\.py: make a backend"):
            find_target(tmp_path)
