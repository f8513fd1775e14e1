"""The ``lsml-bento`` command: each module here talks to a person, and does no more."""

from __future__ import annotations

from lsml_bento.cli.group import main

__all__ = ["main"]
