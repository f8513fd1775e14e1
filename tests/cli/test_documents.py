"""What documents tell people to type is what the commands take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from lsml_bento.cli import main
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
