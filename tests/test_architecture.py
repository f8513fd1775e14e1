"""What each module may import from outside, and that importing does no work."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lsml_bento"

RANKS = (
    {"backend_spec", "errors"},
    {"backend_dir", "contract", "error_text", "pipelines"},
    {"log_format", "scaffold", "settings", "state"},
    {"model", "versions"},
    {"diagnostics", "jobs"},
    {"prediction", "projects", "training"},
    {"backend", "preannotation"},
    {"torch"},
    {"adapters"},
    {"processes", "pytest_plugin"},
    {"cli", "testing"},
)
"""A package imports those above it in this list only, and so do the root's modules."""

CORE = {"pydantic", "pydantic_core", "semver"}
LABEL_STUDIO = {"label_studio_sdk"}
LIBRARIES = {
    # Label configs, regions and PredictionValue are the SDK's: never rewritten here.
    "model.label_config": LABEL_STUDIO,
    "model.base_class": CORE | LABEL_STUDIO,
    "model.response": CORE | LABEL_STUDIO,
    # A third of the time that pydantic takes for plain JSON.
    "model.invoke": CORE | LABEL_STUDIO | {"orjson"},
    "jobs.annotations": {"orjson"},
    "jobs.job": CORE | {"orjson"},
    "diagnostics": CORE | LABEL_STUDIO | {"httpx", "jwt"},
    "testing": {"httpx"},
    "pytest_plugin": {"pytest"},
    "processes.server": {"bentoml", "starlette"},
    "processes.opening": {"dotenv"},
    # For what a user writes with torch.
    "torch": {"torch"},
    "processes.bentoml_target": {"bentoml"},
    "cli": {"click", "orjson", "rich", "tenacity"},
    "adapters.edge": {"starlette"},
    "adapters.label_studio_http": {"starlette", "orjson"},
    "adapters.bentoml_service": {"bentoml", "starlette", "orjson", "prometheus_client"},
    "adapters.bentoml_service.pins": {"packaging"},
    "adapters.bentoml_service.options": CORE | {"attrs", "bentoml", "_bentoml_sdk"},
    # A lock that the system lets go of when its process dies.
    "jobs.spool": {"filelock"},
    "training.embedded_worker": {"filelock"},
    "preannotation.durable_files": CORE | {"filelock"},
    # A JSON list of any size, item by item; tables as Label Studio reads them.
    "preannotation.task_file": {"ijson", "pandas"},
    "processes.worker": {"filelock"},
    "adapters.backend_http": {"httpx", "tenacity"},
    "adapters.bentoml_models": {"bentoml"},
    "processes.worker_probes": {"prometheus_client"},
    "adapters.huey_queue": {"huey", "redis"},
    "adapters.label_studio_api": LABEL_STUDIO | CORE | {"httpx"},
    "adapters.model_repository": {"fsspec"},
    "adapters.process_title": {"setproctitle"},
    "adapters.redis_state": {"redis"},
    "adapters.sqlite_state": set(),
    "adapters.transformers_pipelines": LABEL_STUDIO
    | CORE
    | {"transformers", "torch", "numpy", "PIL", "soundfile"},
    "adapters.label_studio_media": LABEL_STUDIO
    | CORE
    | {"httpx", "requests", "urllib3"},
    # What ``label_studio_ml.utils`` and its tests reach for.
    "adapters.label_studio_ml": LABEL_STUDIO | {"httpx", "PIL", "pytest"},
}


def modules() -> dict[str, Path]:
    """Every module by its name below ``lsml_bento``; files to copy are none."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "template":
            name = ".".join(part for part in parts if part != "__init__")
            found[name] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            assert node.module
            for alias in node.names:
                below = f"{node.module}.{alias.name}".removeprefix("lsml_bento.")
                yield f"lsml_bento.{below}" if below in MODULES else node.module


MODULES = modules()


def test_imports_point_one_way() -> None:
    rank = {name: rank for rank, names in enumerate(RANKS) for name in names}
    for module, path in MODULES.items():
        package = module.partition(".")[0]
        for name in imported(path) if module else ():
            other = name.removeprefix("lsml_bento.").partition(".")[0]
            if name.startswith("lsml_bento.") and other != package:
                assert rank[other] < rank[package], f"{module} imports {name}"


def test_an_adapter_imports_no_other_adapter() -> None:
    for module, path in MODULES.items():
        if module.startswith("adapters."):
            others = [n for n in imported(path) if n.startswith("lsml_bento.adapters.")]
            own = "lsml_bento." + ".".join(module.split(".")[:2])
            assert all(name.startswith(own) for name in others), module


def test_a_module_of_prediction_imports_nothing_of_jobs() -> None:
    for module, path in MODULES.items():
        if module.startswith("prediction."):
            found = [n for n in imported(path) if n.startswith("lsml_bento.jobs")]
            assert not found, module


def test_the_root_holds_at_most_twelve_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_each_module_imports_its_own_outside_libraries_only() -> None:
    for module, path in MODULES.items():
        outside = {name.partition(".")[0] for name in imported(path)}
        outside -= {*sys.stdlib_module_names, "lsml_bento"}
        parts = module.split(".")
        names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        allowed = next((LIBRARIES[name] for name in names if name in LIBRARIES), CORE)
        assert outside <= allowed, f"{module} imports {outside - allowed}"


def test_no_test_replaces_our_own_code() -> None:
    banned = "unittest" + ".mock", "pytest" + "_mock", "mocker" + "."
    for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py")]:
        if "legacy" in path.parts:
            continue  # as their users wrote them
        for name in banned:
            assert name not in path.read_text(), f"{path} uses {name}"


def test_no_module_is_named_for_miscellaneous_things() -> None:
    drawers = {"utils", "helpers", "common", "base", "manager", "misc"}

    assert not {name.rpartition(".")[2] for name in MODULES} & drawers


# What importing does, seen from a process of its own.

SPY = """
import json, logging, os, sys

package = sys.argv[1]
work = []

def ours():
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(package) and code.co_name == "<module>":
            return os.path.basename(code.co_filename)
        if code.co_filename.startswith("<frozen importlib") or "/os.py" in (
            code.co_filename
        ):
            frame = frame.f_back
            continue
        return None
    return None

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and "__pycache__" not in str(path):
            work.append(f"writes {path}")
    elif event in ("os.mkdir", "socket.connect", "subprocess.Popen", "sqlite3.connect"):
        work.append(f"{event} {arguments}")

class Environ(type(os.environ)):
    def __getitem__(self, key):
        if (module := ours()) is not None:
            work.append(f"{module} reads ${key}")
        return super().__getitem__(key)

old = os.environ
os.environ = Environ(old._data, old.encodekey, old.decodekey, old.encodevalue,
                     old.decodevalue)
sys.addaudithook(watch)
threads = __import__("threading").active_count()
for name in sys.argv[2:]:
    __import__(name)
print(json.dumps({
    "work": work,
    "handlers": len(logging.getLogger().handlers),
    "threads": __import__("threading").active_count() - threads,
    "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""


def import_alone(*names: str) -> dict[str, list[str]]:
    """What a new process did and loaded to import modules."""
    done = subprocess.run(
        [sys.executable, "-c", SPY, str(PACKAGE), *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


HEAVY = {"torch", "transformers", "bentoml", "starlette", "PIL", "rich", "click"}


def test_what_a_model_needs_loads_nothing_heavy_and_does_no_work() -> None:
    found = import_alone(
        "lsml_bento", "lsml_bento.model.base_class", "lsml_bento.model.response"
    )

    assert found["work"] == []
    assert not found["handlers"]
    assert not found["threads"]
    assert HEAVY & set(found["loaded"]) == set()


@pytest.mark.parametrize(
    "module",
    ["adapters.label_studio_http", "adapters.sqlite_state", "cli", "processes.server"],
)
def test_what_serves_does_no_work_and_loads_no_torch(module: str) -> None:
    found = import_alone(f"lsml_bento.{module}")

    ours = [line for line in found["work"] if "reads $" in line or "sqlite3" in line]
    assert ours == []
    assert "torch" not in found["loaded"]
