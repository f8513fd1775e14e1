"""A pytest plugin that runs the tests of a ``label_studio_ml`` directory unchanged.

pytest loads it for every project in an environment with lsml-bento. So it imports
nothing heavy, and an installed ``label_studio_ml`` keeps its name unless
``--lsml-bento`` is given.
"""

from __future__ import annotations

import pytest

from lsml_bento.adapters import label_studio_ml


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--lsml-bento``."""
    parser.getgroup("lsml-bento").addoption(
        "--lsml-bento",
        action="store_true",
        help="Import lsml-bento as label_studio_ml, even if that package is installed.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Install the import hook before the first ``conftest.py`` is imported."""
    if early_config.known_args_namespace.lsml_bento:
        label_studio_ml.install()
    else:
        label_studio_ml.fall_back()
