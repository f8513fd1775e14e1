"""What documents tell people to type is what the commands take."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from starlette.routing import Route

from lsml_bento import LabelStudioMLBase
from lsml_bento.adapters.label_studio_http import contract_app
from lsml_bento.cli import main
from lsml_bento.scaffold.create import create_backend
from lsml_bento.testing import client_for
from tests.docs.blocks import PAGES, ROOT, blocks
from tests.test_architecture import RANKS

README = ROOT / "README.md"
DOCUMENTS = [
    README,
    ROOT / "lsml_bento" / "template" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "deploy").glob("*/README.md")),
]
LINKING = [ROOT / "CONTRIBUTING.md", *DOCUMENTS]
PROCESS_TITLE = "fit job="
TOLD = re.compile(r"(?:^|[/( ])lsml-bento ((?:[a-z]|--)[^`\n#|]*)")
MAKE = re.compile(r"^make ([a-z0-9-]+)")
BENTOML = re.compile(r"(?:^|[/( ])bentoml ([a-z]+ [^`\n#|)]*)")

PACKAGE = ROOT / "lsml_bento"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
VALUES = re.compile(r"%(?:\.\d+)?[a-z]")
"""Where the format of a log line has a value."""


def shown(path: Path, command: re.Pattern[str]) -> list[str]:
    """The arguments of each call of a command in shell blocks and inline code."""
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks(path, "sh") for line in block.code.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose)
    found = [arguments for line in lines for arguments in command.findall(line)]
    return [line.strip() for line in found if not line.startswith(PROCESS_TITLE)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_every_command_that_a_document_shows_is_one(path: Path) -> None:
    for line in shown(path, TOLD):
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
    assert len([line for path in DOCUMENTS for line in shown(path, TOLD)]) > 20


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


def architecture(heading: str) -> str:
    """A chapter of the architecture."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_the_architecture_lists_the_packages_by_rank() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", architecture("The packages"), re.M)

    expected = [(rank, name) for rank, names in enumerate(RANKS, 1) for name in names]
    assert sorted((int(rank), name) for rank, name in rows) == sorted(expected)


def test_every_module_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", text)

    assert len(named) > 30
    assert [
        n for n in named if not any((d / n).exists() for d in (PACKAGE, ROOT))
    ] == []


def test_every_class_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", text))
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    ours = set(re.findall(r"^class (\w+)", code, re.MULTILINE))

    assert len(named & ours) > 8
    assert named - ours == {
        "OpenTelemetry",
        "PyTorch",
        "RetryTask",
        "YourModel",
    }


def test_contributing_lists_the_parts_of_the_tests() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (rule,) = re.findall(r"^PARTS := ((?:.*\\\n)*.*)", makefile, re.MULTILINE)
    parts = re.findall(r"test-[a-z-]+", rule)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

    assert len(parts) > 5
    assert [part for part in parts if f"`{part}`" not in text] == []


@pytest.mark.parametrize(
    ("walk", "file", "test"),
    [
        ("a warm prediction", "test_walks.py", "test_a_warm_prediction_enters"),
        (
            "an annotation becomes a version",
            "test_walks.py",
            "test_an_annotation_becomes_a_version",
        ),
        ("preannotate", "preannotation/test_walk.py", "test_a_file_run_enters"),
    ],
)
def test_the_architecture_lists_the_modules_of_a_walk(
    walk: str, file: str, test: str
) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, section = text.partition(f"### Walk: {walk}\n")
    rows = re.findall(r"^\| (`.*?`) \|", section.partition("\n#")[0], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(.+?)\.py`", row)]
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    (function,) = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith(test)
    ]
    counted = {
        str(element.value).replace(".", "/")
        for node in ast.walk(function)
        if isinstance(node, ast.Set)
        for element in node.elts
        if isinstance(element, ast.Constant)
    }

    assert sorted(named) == sorted(counted)


def test_the_glossary_has_at_most_30_terms_each_once() -> None:
    terms = re.findall(r"^\| ([a-z -]+) \|", architecture("Glossary"), re.M)[1:]

    assert 15 < len(terms) == len(set(terms)) <= 25


def test_every_route_stands_in_the_architecture() -> None:
    text = architecture("The routes")
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


def test_the_readme_shows_the_service_that_create_writes(tmp_path: Path) -> None:
    create_backend(tmp_path / "my_backend")

    written = (tmp_path / "my_backend" / "service.py").read_text()

    assert written in [block.code for block in blocks(README, "python")]


def test_the_readme_s_class_answers_its_label_config() -> None:
    program = blocks(README, "python")[0].code
    names: dict[str, type[LabelStudioMLBase]] = {}
    exec(program, {"__name__": "readme"}, names)  # noqa: S102
    body = {
        "tasks": [{"id": 1, "data": {"text": "A good day"}}],
        "label_config": '<View><Text name="t" value="$text"/><Choices name="c" '
        'toName="t"><Choice value="Positive"/><Choice value="Negative"/></Choices>'
        "</View>",
    }

    with client_for(names["Sentiment"], environ={}) as client:
        (prediction,) = client.post("/predict", json=body).json()["results"]

    assert prediction["result"][0]["value"] == {"choices": ["Positive"]}


# What documents point to


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_points_to_is_there(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [
        link
        for link in links
        if "://" not in link and not (path.parent / link).exists()
    ]

    assert missing == []


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_tells_make_to_do_is_a_target(path: Path) -> None:
    targets = set(
        re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )

    assert set(shown(path, MAKE)) <= targets


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of BentoML's own imports
def test_every_option_of_a_bentoml_command_exists() -> None:
    from bentoml_cli.cli import create_bentoml_cli  # noqa: PLC0415

    bentoml = create_bentoml_cli()
    assert isinstance(bentoml, click.Group)
    seen = 0
    for page in PAGES:
        for line in shown(page, BENTOML):
            name, *words = line.split()
            command = bentoml.get_command(click.Context(bentoml), name)
            assert command is not None, f"{page.name}: bentoml {line}"
            known = {opt for p in command.params for opt in getattr(p, "opts", ())}
            unknown = [w for w in words if w.startswith("-") and w not in known]
            assert unknown == [], f"{page.name}: bentoml {line}"
            seen += 1
    assert seen > 5
