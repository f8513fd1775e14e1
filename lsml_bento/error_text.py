"""Describes an exception in one line, with the line of user code that raised it."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from pathlib import Path


def where(error: BaseException) -> str:
    """The last line of user code in an error's traceback.

    Returns:
        ``"model.py, line 3"``, or an empty text if no line is known.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    ours = str(Path(__file__).parent), importlib.__path__[0], "<frozen"
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(ours)
    ]
    libraries = tuple(map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib")))
    own = [place for place in places if not place[0].startswith(libraries)]
    if not places:
        return ""
    file, line = (own or places)[-1]
    return f"{Path(file).name}, line {line}"


def describe(error: BaseException) -> str:
    """An error's type and message, in one line."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(said.split())[:300].encode(errors="replace").decode()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def locate(error: BaseException) -> str:
    """An error's type and message, and the line of user code, in one line."""
    place = where(error)
    return f"{describe(error)} ({place})" if place else describe(error)
