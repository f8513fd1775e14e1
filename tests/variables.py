"""The environment variables that ``Settings`` reads, with their descriptions."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

from pydantic import AliasChoices

from lsml_bento import settings
from lsml_bento.settings import Settings


def environment_names() -> dict[str, str]:
    """Every variable, aliases included, with its field's docstring on one line."""
    names: dict[str, str] = {}
    docstrings = field_docstrings()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names.update(dict.fromkeys(map(str, choices), docstrings[name]))
    return names


def field_docstrings() -> dict[str, str]:
    tree = ast.parse(inspect.getsource(settings))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    found: dict[str, str] = {}
    for node, after in pairwise(body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            words = str(after.value.value).split()
            found[node.target.id] = " ".join(words).removesuffix(".")
    return found
