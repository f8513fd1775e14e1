"""Reads a backend's directory without importing its modules."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lsml_bento.errors import ModelImportError

BASE = "LabelStudioMLBase"
"""The base class of users' classes, here and in ``label_studio_ml``."""

_ARGUMENTS = frozenset({"name", "max_batch_size", "threads", "workers", "gpus"})
_ROUTES = frozenset({"route", "add_url_rule"})
_METHODS = frozenset({"get", "post", "put", "patch", "delete"})
_HOOKS = frozenset({"after_request", "before_request", "wsgi_app"})
_BENTO_SERVICE = re.compile(r"^service: *['\"]?([\w.]+)", re.MULTILINE)
_DROP_IN = re.compile(r"^\s*(?:from|import)\s+label_studio_ml\b", re.MULTILINE)


def serves(directory: Path) -> bool:
    """Whether the directory contains a service or a model."""
    names = ("model.py", "_wsgi.py")
    return has_service(directory) or any((directory / n).is_file() for n in names)


def has_service(directory: Path) -> bool:
    """Whether ``service.py`` sets ``svc``; assumed for a file with a syntax error."""
    path = directory / "service.py"
    if not path.is_file():
        return False
    try:
        tree = parse(path)
    except ModelImportError:
        return True
    return "svc" in _names_set(tree)


def bento_of(directory: Path) -> Path | None:
    """The built bento that is or contains a directory; None if there is none."""
    places = (directory, *directory.parents)
    return next((place for place in places if (place / "bento.yaml").is_file()), None)


def bento_service_directory(bento: Path) -> Path:
    """The directory of a built bento's service, below its ``src``."""
    found = _BENTO_SERVICE.search((bento / "bento.yaml").read_text(encoding="utf-8"))
    modules = found[1].split(".") if found else ["service"]
    return bento.joinpath("src", *modules[:-1])


def is_drop_in(directory: Path) -> bool:
    """Whether the directory was written for ``label_studio_ml``."""
    return any(map(imports_label_studio_ml, directory.glob("*.py")))


def imports_label_studio_ml(path: Path) -> bool:
    """Whether a module imports ``label_studio_ml``."""
    if not path.is_file():
        return False
    source = path.read_text(encoding="utf-8", errors="replace")
    return _DROP_IN.search(source) is not None


def find_class(path: Path) -> str | None:
    """The only model class of a file; None if only an import can tell.

    Classes from which other classes of the file derive do not count.
    """
    try:
        found = classes(path)
    except ModelImportError:
        return None
    return found[0] if len(found) == 1 else None


def with_class(target: str, directory: Path) -> str:
    """``"module:Class"`` for ``"module"``, if the file shows which class it is."""
    name = None if ":" in target else find_class(directory / f"{target}.py")
    return f"{target}:{name}" if name else target


def service_target(directory: Path) -> str | None:
    """The target that ``service.py`` passes to ``create_service`` as a literal."""
    path = directory / "service.py"
    if not path.is_file():
        return None
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call) and _last_name(node.func) == "create_service":
            given = [k.value for k in node.keywords if k.arg == "model"]
            for value in [*node.args[:1], *given]:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    return value.value
    return None


def plain_service(directory: Path) -> dict[str, Any] | None:
    """The arguments of ``create_service`` in a ``service.py`` that only calls it.

    None if only an import can tell: the file does anything else, or uses arguments that
    are not constants.
    """
    try:
        tree = parse(directory / "service.py")
    except ModelImportError:
        return None
    match [node for node in tree.body if not _is_text(node)]:
        case [
            ast.ImportFrom(
                module="lsml_bento",
                names=[ast.alias(name="create_service", asname=None)],
                level=0,
            ),
            ast.Assign(
                targets=[ast.Name(id="svc")],
                value=ast.Call(
                    func=ast.Name(id="create_service"),
                    args=[ast.Constant(value=str(target))],
                    keywords=keywords,
                ),
            ),
        ]:
            given = {k.arg: k.value for k in keywords if k.arg in _ARGUMENTS}
            constants = [v for v in given.values() if isinstance(v, ast.Constant)]
            if len(constants) == len(keywords):
                values = [constant.value for constant in constants]
                return {"model": target, **dict(zip(given, values, strict=True))}
    return None


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def find_target(directory: Path) -> str:
    """The target of a backend's directory, found without importing anything.

    In a directory for ``label_studio_ml``, ``_wsgi.py`` names the class in
    ``init_app(model_class=...)``. Otherwise the class is in ``model.py``.

    Raises:
        ModelImportError: if the directory has neither file.
    """
    wsgi = directory / "_wsgi.py"
    if wsgi.is_file() and (target := _target_of_wsgi(wsgi)):
        return target
    if (directory / "model.py").is_file():
        return "model"
    raise ModelImportError(
        f"{directory} has no model.py: create a backend with `lsml-bento create DIR`, "
        "or name another directory"
    )


def _target_of_wsgi(path: Path) -> str | None:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return None
    modules = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module
        and not node.module.startswith("label_studio_ml")
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or _last_name(node.func) != "init_app":
            continue
        given = [k.value for k in node.keywords if k.arg == "model_class"] + node.args
        for value in given:
            if isinstance(value, ast.Name) and value.id in modules:
                module, name = modules[value.id]
                return f"{module}:{name}"
    return None


def added_to_app(directory: Path) -> list[str]:
    """What ``_wsgi.py`` adds to its app, such as the paths of its own routes."""
    path = directory / "_wsgi.py"
    if not path.is_file():
        return []
    try:
        nodes = list(ast.walk(parse(path)))
    except ModelImportError:
        return []
    decorators = {
        id(decorator)
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in node.decorator_list
    }
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            is_route = name in _ROUTES or (name in _METHODS and id(node) in decorators)
            rule = node.args[0] if node.args else None
            if is_route and isinstance(rule, ast.Constant):
                found.append(str(rule.value))
            elif name == "register_blueprint":
                found.append("a blueprint")
        elif isinstance(node, ast.Attribute) and node.attr in _HOOKS:
            found.append(node.attr)
    return list(dict.fromkeys(found))


def classes(path: Path) -> list[str]:
    """The subclasses of ``LabelStudioMLBase`` in a file that have no subclass there.

    Raises:
        ModelImportError: naming file and line, if it has a syntax error.
    """
    tree = parse(path)
    bases = {BASE}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            bases |= {a.asname or a.name for a in node.names if a.name == BASE}
    models: list[str] = []
    parents: set[str] = set()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        own = {_last_name(base) for base in node.bases}
        if own & (bases | set(models)):
            models.append(node.name)
            parents |= own
    return [name for name in models if name not in parents]


def has_predict_function(path: Path) -> bool:
    """Whether a function of the file is decorated with ``predict_fn``.

    Raises:
        ModelImportError: naming file and line, if it has a syntax error.
    """
    return any(
        _last_name(decorator) == "predict_fn"
        for node in parse(path).body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
    )


def siblings(path: Path) -> list[Path]:
    """Modules and packages in a file's directory that it imports, also indirectly.

    Raises:
        ModelImportError: if one of the modules has a syntax error or a relative import.
    """
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        current = waiting.pop()
        for name in _imported(current, in_package=current.parent != path.parent):
            for candidate in (path.parent / f"{name}.py", path.parent / name):
                if candidate in {path, *found} or not _shadows(candidate):
                    continue
                found[candidate] = None
                is_file = candidate.is_file()
                waiting += [candidate] if is_file else candidate.rglob("*.py")
    return list(found)


def _shadows(path: Path) -> bool:
    """Whether a module or package is found before the standard library's."""
    if path.is_dir() and path.name in sys.stdlib_module_names:
        return (path / "__init__.py").is_file()
    return path.exists()


def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file.

    Raises:
        ModelImportError: naming file and line, if it has a syntax error.
    """
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = getattr(error, "lineno", None)
        place = f"{path.name}, line {line}," if line else path.name
        reason = getattr(error, "msg", None) or str(error)
        raise ModelImportError(f"{place} is not valid Python: {reason}") from error


def _imported(path: Path, *, in_package: bool) -> Iterator[str]:
    """First names of what a file imports absolutely.

    A file in a package may have relative imports. If it is invalid, it has no imports.
    """
    try:
        tree = parse(path)
    except ModelImportError:
        if in_package:  # such as a template
            return
        raise
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            if in_package:
                continue
            raise ModelImportError(
                f"{path.name}, line {node.lineno}, has a relative import, which fails "
                "outside of its package: write it without leading dots"
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def _names_set(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
