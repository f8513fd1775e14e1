"""Call a backend and its ``fit`` in the process of a test.

Names are imported on first use: a test of ``fit`` does not need BentoML.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsml_bento.testing.client import Client, client_for
    from lsml_bento.testing.local_run import LocalRun, fit

__all__ = ["Client", "LocalRun", "client_for", "fit"]

_HOMES = {
    "Client": "client",
    "LocalRun": "local_run",
    "client_for": "client",
    "fit": "local_run",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"lsml_bento.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lsml_bento.testing' has no attribute {name!r}")
