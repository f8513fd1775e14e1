"""The compose files are valid and consistent with what the processes do."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lsml_bento.settings import Settings
from tests.deploy.manifests import DEPLOY, ROOT, Manifest, container, document

COMPOSE = DEPLOY / "compose"
FILES = [
    COMPOSE / "compose.yaml",
    COMPOSE / "compose.gpu.yaml",
    ROOT / "lsml_bento" / "template" / "docker-compose.yml",
    *sorted((ROOT / "examples").glob("*/docker-compose.yml")),
]
CHECK = [
    *(sys.executable, "-m", "check_jsonschema"),
    *("--builtin-schema", "vendor.compose-spec"),
]
SERVICES: Manifest = document(COMPOSE / "compose.yaml")["services"]


def check(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [*CHECK, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_file_is_valid() -> None:
    done = check(*FILES)

    assert done.returncode == 0, done.stdout


def test_an_unknown_key_is_found(tmp_path: Path) -> None:
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    misspelt = tmp_path / "compose.yaml"
    misspelt.write_text(text.replace("stop_grace_period", "stop_grace"))

    done = check(misspelt)

    assert done.returncode == 1
    assert "stop_grace" in done.stdout


def test_the_processes_are_those_of_kubernetes() -> None:
    for name in ("server", "worker"):
        ours = container(name)
        assert SERVICES[name]["command"] == ours["args"]
        [port] = ours["ports"]
        asked = f"http://127.0.0.1:{port['containerPort']}/readyz"
        assert asked in SERVICES[name]["healthcheck"]["test"][-1]
    assert SERVICES["server"]["ports"][0].endswith(":3000")


def test_a_service_has_time_to_stop_before_it_is_killed() -> None:
    command = SERVICES["server"]["command"]
    timeout_s = int(command[command.index("--timeout-graceful-shutdown") + 1])

    assert timeout_s > Settings.from_env({}).predict_deadline_s
    assert seconds(SERVICES["server"]["stop_grace_period"]) >= timeout_s + 10
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= 30


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_server_and_worker_share_versions_and_nothing_else() -> None:
    server, worker = (SERVICES[name]["environment"] for name in ("server", "worker"))

    assert server["LSML_WORKER"] == "external"
    assert server["LSML_HOME"] != worker["LSML_HOME"]
    for name in ("REDIS_URL", "LSML_MODEL_STORE"):
        assert server[name] == worker[name]
    for environment in (server, worker):
        for name in ("LSML_HOME", "LSML_MODEL_STORE"):
            assert environment[name].startswith("/data/")


def test_the_gpu_file_extends_existing_services() -> None:
    added = document(COMPOSE / "compose.gpu.yaml")["services"]

    assert added.keys() == {"server", "worker"}
    devices = [
        each["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for each in added.values()
    ]
    assert devices == [["0"], ["1"]]


@pytest.mark.parametrize("name", ["server", "worker"])
def test_the_image_is_of_this_version(name: str) -> None:
    default = f"lsml-bento/pytorch-ner:{version('lsml-bento')}"
    assert SERVICES[name]["image"] == f"${{IMAGE:-{default}}}"
    example = (COMPOSE / ".env.example").read_text(encoding="utf-8")
    assert f"IMAGE={default}\n" in example


def test_every_variable_of_the_file_is_in_the_example() -> None:
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    example = (COMPOSE / ".env.example").read_text(encoding="utf-8")

    asked = set(re.findall(r"\$\{(\w+)", text))

    assert asked == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
