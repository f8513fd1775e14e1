"""The code blocks of the documents, and how a block is marked.

A block may be preceded by an HTML comment:

- ``<!-- not run: REASON -->``: it cannot run in a test, for that reason.
- ``<!-- server -->``: it starts a process that keeps running until the document ends
  or the next server starts. ``<!-- background -->`` is the same for a process that
  listens on no port.

``title="PATH"`` behind the language names the file that a Python block is saved to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""The documents whose blocks run."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]+) -->\n)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"\n]+)")?\n(?P<code>.*?)^```',
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A code block of a document, with the line that its code starts on."""

    page: Path
    line: int
    language: str
    mark: str
    title: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}\n{self.code}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a document in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["mark"] or "",
            found["title"] or "",
            found["code"],
        )
        for found in _BLOCK.finditer(text)
        if found["language"] in languages
    ]
