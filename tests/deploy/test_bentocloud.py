"""BentoML's client reads every key of the files for BentoCloud."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from typing import Any

import click
import pytest

from lsml_bento.backend_dir import plain_service
from lsml_bento.cli import main
from lsml_bento.settings import Settings
from tests.deploy.manifests import DEPLOY, ROOT, document, probes

BENTOCLOUD = DEPLOY / "bentocloud"
NER = ROOT / "examples" / "pytorch_ner"
SERVER = document(BENTOCLOUD / "server.yaml")
WORKER = document(BENTOCLOUD / "worker.yaml")
BENTOFILE = document(BENTOCLOUD / "worker.bentofile.yaml")


def with_service(**fields: Any) -> dict[str, Any]:
    return {"services": {"pytorch-ner": fields}}


MISTAKES = {
    "acces_authorization": {"acces_authorization": False},
    "min_replica": with_service(scaling={"min_replica": 1}),
    "one": with_service(scaling={"min_replicas": "one"}),
    "val": {"envs": [{"name": "LSML_WORKER", "val": "external"}]},
    "time_out": with_service(config_overrides={"traffic": {"time_out": 120}}),
}


@cache
def client() -> dict[str, Any]:
    """The client's result for both files and all mistakes, computed once."""
    files = [SERVER, WORKER, *({**SERVER, **change} for change in MISTAKES.values())]
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.bentoml_client"],
        input=json.dumps(files),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_client_knows_every_key() -> None:
    assert client()["faults"][:2] == [None, None]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_misspelled_key_or_a_wrong_value_is_found(mistake: str) -> None:
    found = client()["faults"][2 + list(MISTAKES).index(mistake)]

    assert found is not None
    assert mistake in found or "invalid value for type" in found


def test_the_server_is_always_available_to_label_studio() -> None:
    service = plain_service(NER)
    [name] = SERVER["services"]
    given = SERVER["services"][name]

    assert service is not None
    assert service["name"] == name
    assert given["scaling"]["min_replicas"] >= 1
    assert SERVER["access_authorization"] is False, "Label Studio sends no bearer token"
    timeout_s = given["config_overrides"]["traffic"]["timeout"]
    assert timeout_s > Settings.from_env({}).predict_deadline_s


def test_the_worker_service_runs_a_command_and_answers_health_checks() -> None:
    worker = client()["worker"]
    program, command, *arguments = worker["cmd"]
    found = main.get_command(click.Context(main), command)
    assert program == "lsml-bento"
    assert found is not None

    with found.make_context(command, arguments) as context:
        assert ROOT / context.params["directory"] == NER
        assert context.params["health_port"] == worker["proxy_port"]
    assert set(worker["probes"]) == probes("worker")
    assert worker["workers"] == 1
    [name] = WORKER["services"]
    assert name == worker["name"]
    scaling = WORKER["services"][name]["scaling"]
    assert scaling == {"min_replicas": 1, "max_replicas": 1}


def test_the_deployments_name_the_bentos() -> None:
    assert SERVER["bento"] == f"{document(ROOT / 'bentofile.yaml')['name']}:latest"
    assert WORKER["bento"] == f"{BENTOFILE['name']}:latest"
    assert BENTOFILE["service"] == "deploy.bentocloud.worker:Worker"


def test_the_worker_bento_is_the_server_bento_with_another_service() -> None:
    server = document(ROOT / "bentofile.yaml")
    own = {"service", "name", "description", "include"}

    assert BENTOFILE["include"] == ["deploy/bentocloud/worker.py", *server["include"]]
    assert {k: v for k, v in BENTOFILE.items() if k not in own} == {
        k: v for k, v in server.items() if k not in own
    }


def test_the_proxy_of_the_worker_is_in_its_image() -> None:
    assert client()["worker"]["requirements"] == [f"fastapi=={version('fastapi')}"]


def test_server_and_worker_read_the_same_secrets_and_versions() -> None:
    assert SERVER["secrets"] == WORKER["secrets"]
    server = {entry["name"]: entry["value"] for entry in SERVER["envs"]}
    worker = {entry["name"]: entry["value"] for entry in WORKER["envs"]}
    assert worker.items() <= server.items()
    assert server["LSML_WORKER"] == "external"
    assert server["LSML_MODEL_REPO"].startswith("s3://")
