"""pytest runs the tests of a directory written for ``label_studio_ml`` as they are.

Loaded at every start of pytest in an environment that has lsml-bento, for whatever
project: it imports nothing heavy, and a ``label_studio_ml`` that is really installed
keeps its name unless ``--lsml-bento`` is given.
"""

from __future__ import annotations

import pytest

from lsml_bento.adapters import label_studio_ml


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--lsml-bento``."""
    parser.getgroup("lsml-bento").addoption(
        "--lsml-bento",
        action="store_true",
        help="label_studio_ml means lsml-bento, even where that package is installed",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Make the names known before the first conftest.py may import them."""
    if early_config.known_args_namespace.lsml_bento:
        label_studio_ml.install()
    else:
        label_studio_ml.fall_back()
