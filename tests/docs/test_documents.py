"""What documents tell people to type is what the commands take."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from starlette.routing import Route

from lsml_bento import LabelStudioMLBase
from lsml_bento.adapters.label_studio_http import contract_app
from lsml_bento.cli import main
from lsml_bento.scaffold.create import create_backend
from lsml_bento.testing import client_for
from tests.e2e.processes import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "lsml_bento" / "template" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "deploy").glob("*/README.md")),
]
NO_COMMAND = ("fit job=", "that made", "comes with")
"""The title of a process, and sentences."""

TOLD = re.compile(r"(?:^|[`/ ])lsml-bento ((?:[a-z]|--)[^`\n#|]*)", re.MULTILINE)


PACKAGE = ROOT / "lsml_bento"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
VALUES = re.compile(r"%(?:\.\d+)?[a-z]")
"""Where the format of a log line has a value."""


def told(path: Path) -> list[str]:
    """The arguments of every ``lsml-bento`` that a document shows."""
    found = TOLD.findall(path.read_text(encoding="utf-8"))
    return [line.strip() for line in found if not line.startswith(NO_COMMAND)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_every_command_that_a_document_shows_is_one(path: Path) -> None:
    for line in told(path):
        words = shlex.split(line)
        command: click.Command = main
        context = click.Context(main)
        while words and isinstance(command, click.Group):
            found = command.get_command(context, words[0])
            if found is None:
                break
            command, words = found, words[1:]
        assert command is not main, f"{path.name}: lsml-bento {line}"
        known = {name for p in command.params for name in p.opts + p.secondary_opts}
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in {*known, "--help"}, f"{line}: {word}"


def test_the_documents_show_commands() -> None:
    assert len([line for path in DOCUMENTS for line in told(path)]) > 20


# What the code writes is what the documents quote


def messages() -> Iterator[str]:
    """Every text of the package, ``..`` in place of its values; no docstrings."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }
        for node in ast.walk(tree):
            if id(node) in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                yield with_dots("".join(map(part_of, node.values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield with_dots(node.value)


def part_of(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else ".."


def with_dots(text: str) -> str:
    return re.sub(r"\.{3,}", "..", VALUES.sub("..", text))


def quoted_lines() -> list[str]:
    """What stands first in each row of the tables about the log."""
    _, _, text = TROUBLESHOOTING.read_text().partition("## Lines of the log")
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_every_quoted_line_of_the_log_is_one_that_the_code_writes() -> None:
    written = list(messages())
    lines = quoted_lines()

    assert len(lines) > 30
    assert [line for line in lines if not any(line in one for one in written)] == []


def anchors(path: Path) -> set[str]:
    """What a link may name behind its ``#``, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_heading_that_a_link_names_is_there(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text(encoding="utf-8"))
    missing = [
        f"{file}#{anchor}"
        for file, anchor in links
        if anchor not in anchors(path.parent / file if file else path)
    ]

    assert missing == []


def test_every_module_stands_in_the_architecture() -> None:
    text = (
        (ROOT / "docs" / "architecture.md").read_text().partition("## The modules")[2]
    )
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}

    assert sorted(m for m in modules if not re.search(rf"\b{re.escape(m)}", text)) == []


def test_every_route_stands_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## The routes")[2]
    named = {
        shape(method, path)
        for method, path in re.findall(r"`(GET|POST) (/[^`]*)`", text)
    }
    routes = {
        shape(method, route.path)
        for route in contract_app(1).routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert routes - named == set()


def shape(method: str, path: str) -> str:
    """A route, whatever its parameters are called."""
    return f"{method} {re.sub('{.*?}', '{}', path)}"


# Code that the documents show


def blocks(path: Path) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE
    )


def test_the_readme_shows_the_service_that_create_writes(tmp_path: Path) -> None:
    create_backend(tmp_path / "my_backend")

    written = (tmp_path / "my_backend" / "service.py").read_text()

    assert written in blocks(ROOT / "README.md")


def test_the_first_class_of_model_md_skips_what_the_label_config_lacks() -> None:
    loads = "from transformers import pipeline\n"
    program = blocks(ROOT / "docs" / "model.md")[0]
    assert loads in program
    names: dict[str, Any] = {"pipeline": classifier}
    exec(program.replace(loads, ""), names)  # noqa: S102
    model: type[LabelStudioMLBase] = names["Sentiment"]
    body = {
        "tasks": [{"id": i, "data": {"text": t}} for i, t in enumerate(["Good", "?"])],
        "label_config": '<View><Text name="t" value="$text"/><Choices name="c" '
        'toName="t"><Choice value="Great" predicted_values="POSITIVE"/></Choices>'
        "</View>",
    }

    with client_for(model, environ={}) as client:
        [good, other] = client.post("/predict", json=body).json()["results"]

    assert good["result"][0]["value"] == {"choices": ["Great"]}
    assert other == []


def classifier(task: str, model: Any, *, truncation: bool) -> Any:
    """A pipeline of transformers as far as the class sees one."""
    assert (task, truncation) == ("text-classification", True)

    def classify(texts: list[str], batch_size: int) -> list[dict[str, Any]]:
        labels = ["POSITIVE" if text == "Good" else "NEGATIVE" for text in texts]
        return [{"label": label, "score": 0.9} for label in labels]

    return classify
