"""Commands find the name and the home with which ``start`` serves a directory."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import MODEL, call, environ, refused, run, write
from tests.e2e.processes import ROOT

LEGACY = ROOT / "tests" / "legacy"
SERVICE = "from lsml_bento import create_service\n\nsvc = create_service({})\n"
EACH = """
import json, os, sys
from pathlib import Path
from typing import Any

{first}
for directory in map(Path, sys.argv[1:]):
    os.chdir(directory)
    sys.path[0] = str(directory)
    for name in ("service", "model"):
        sys.modules.pop(name, None)
    print("spec", {spec}.to_json())
    sys.modules.pop("lsml_bento.processes.bentoml_target", None)
print(*sorted({{"bentoml", "torch", "label_studio_sdk", "huey"}} & set(sys.modules)))
"""
SERVED = EACH.format(
    first="import importlib; from lsml_bento.adapters.bentoml_service import spec_of",
    spec="spec_of(importlib.import_module('lsml_bento.processes.bentoml_target').svc)",
)
FOUND = EACH.format(
    first="from lsml_bento.processes.opening import find_backend",
    spec="find_backend(directory)",
)


def specs(code: str, *directories: Path, **more: str) -> tuple[list[Any], str]:
    """The specs that a process finds for directories, and what it imports for that."""
    done = call([sys.executable, "-c", code, *directories], env=environ(**more))
    assert done.returncode == 0, done.stderr
    *lines, heavy = done.stdout.splitlines()
    found = [line.split(maxsplit=1) for line in lines]
    return [json.loads(spec) for key, spec in found if key == "spec"], heavy


def test_name_and_home_are_those_that_are_served(tmp_path: Path) -> None:
    by_text = SERVICE.format("'m:Chooser'")
    named = SERVICE.format("'m:Chooser', max_batch_size=8, name='My_Own'")
    own = SERVICE.format("model.Chooser, name='by-name'")
    in_bento = tmp_path / "bento" / "src"
    backends = {
        write(tmp_path / "a", model=MODEL): "chooser",
        write(tmp_path / "b", model="from c import *\n", c=MODEL): "model",
        write(tmp_path / "c", service=by_text, m=MODEL): "chooser",
        write(tmp_path / "e", service=f'"""."""\n{named}', m=MODEL): "my-own",
        write(tmp_path / "d", service=f"import model\n{own}", model=MODEL): "by-name",
        write(in_bento, model=MODEL): "chooser",
        legacy("keyword_backend", tmp_path): "keyword-classifier",
        legacy("mood_classifier", tmp_path): "mood-classifier",
        legacy("urgent_functions", tmp_path): "model",
    }
    (in_bento.parent / "bento.yaml").touch()
    me = {"HOME": str(tmp_path / "me")}

    found, _ = specs(FOUND, *backends, **me)
    served, _ = specs(SERVED, *backends, **me)

    assert found == served
    assert [spec["name"] for spec in found] == list(backends.values())
    homes = {Path(spec["directory"]): spec["home"] for spec in found}
    assert homes.pop(in_bento) == str(tmp_path / "me" / ".lsml" / "chooser")
    assert homes == {path: str(path / ".lsml") for path in homes}


def legacy(name: str, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", ".lsml")
    return shutil.copytree(LEGACY / name, tmp_path / name, ignore=ignored)


def test_without_a_service_of_its_own_nothing_heavy_is_imported(tmp_path: Path) -> None:
    heavy = "import torch\nimport bentoml\n"
    _, imported = specs(FOUND, write(tmp_path, model=heavy + MODEL))
    assert imported == ""


def test_a_service_of_three_lines_is_read_and_another_one_is_imported(
    tmp_path: Path,
) -> None:
    model, plain = f"import torch\n{MODEL}", SERVICE.format("'model', name='plain'")
    _, imported = specs(FOUND, write(tmp_path, model=model, service=plain))
    assert imported == ""

    computed = SERVICE.format("'model', name='computed'.upper()")
    [spec], imported = specs(FOUND, write(tmp_path, model=model, service=computed))
    assert (spec["name"], imported) == ("computed", "bentoml label_studio_sdk")


def test_a_relative_home_is_below_the_directory_of_the_caller(tmp_path: Path) -> None:
    write(tmp_path / "backend", model=MODEL)

    done = run(
        "jobs", "list", "-d", "backend", cwd=tmp_path, env=environ(LSML_HOME="s")
    )

    assert done.returncode == 0
    assert (tmp_path / "s" / "state.db").exists()
    assert not (tmp_path / "backend" / ".lsml").exists()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"other": ""}, "has neither a model.py nor a service.py with svc: name the"),
        ({"service": "svc = 1\n"}, "is a int: make it with `svc = create_service(..)`"),
        ({"service": "svc = 1 / 0\n"}, "division by zero (service.py, line 1)"),
        (
            {
                "service": "import bentoml\n@bentoml.service\nclass Other: ...\n"
                "svc = Other\n"
            },
            "is not a service of lsml-bento: make it with `svc = create_service(..)`",
        ),
        (
            {"model": MODEL.replace("Chooser", "Chooser_")},
            "'Chooser_' cannot name a BentoML service",
        ),
    ],
)
def test_what_cannot_be_served_is_an_error_in_one_line(
    tmp_path: Path, files: dict[str, str], sentence: str
) -> None:
    write(tmp_path, **files)
    assert sentence in refused(run("jobs", "list", cwd=tmp_path))


def test_what_a_service_prints_goes_to_stderr(tmp_path: Path) -> None:
    write(tmp_path, model=MODEL, service="print('noise')\n" + SERVICE.format("'model'"))

    done = run("jobs", "list", "--json", cwd=tmp_path)

    assert json.loads(done.stdout) == {"jobs": []}
    assert done.stderr == "noise\n"


def test_the_home_of_another_backend_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, model=MODEL)
    assert run("jobs", "list", cwd=tmp_path).returncode == 0
    write(tmp_path, model=MODEL.replace("Chooser", "Picker"))

    assert "holds the state of the backend 'chooser'" in refused(
        run("jobs", "list", cwd=tmp_path)
    )


def test_an_invalid_setting_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, model=MODEL)
    for variable, value in {"REDIS_URL": "nowhere", "LSML_KEEP_JOBS": "no"}.items():
        done = run("jobs", "list", cwd=tmp_path, env=environ(**{variable: value}))
        assert variable in refused(done)
