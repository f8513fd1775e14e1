"""What Yatai's controller gets: fields that it has, and values that it passes on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.deploy.manifests import DEPLOY, KUBERNETES, Manifest, document

YATAI = DEPLOY / "yatai"
SCHEMAS = document(Path(__file__).with_name("yatai_resources.yaml"))
BENTO = document(YATAI / "bento.yaml")
DEPLOYMENT = document(YATAI / "bentodeployment.yaml")
WORKER = document(YATAI / "worker.yaml")


def check(manifest: Manifest) -> None:
    """Raise ``jsonschema.ValidationError`` for what would be pruned or refused."""
    schema = {**SCHEMAS[manifest["kind"]], "$defs": SCHEMAS["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(manifest)


@pytest.mark.parametrize("manifest", [BENTO, DEPLOYMENT], ids=["bento", "deployment"])
def test_the_resources_have_the_fields_of_their_definitions(manifest: Manifest) -> None:
    check(manifest)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("volumes", [{"name": "data", "emptyDir": {}}]),
        ("extraPodSpec", {"volumes": []}),
        ("envs", [{"name": "REDIS_URL", "valueFrom": {"secretKeyRef": {}}}]),
        ("resources", {"limits": {"nvidia.com/gpu": "1"}}),
    ],
)
def test_what_the_controller_would_drop_is_found(field: str, value: Any) -> None:
    spec = {**DEPLOYMENT["spec"], field: value}

    with pytest.raises(jsonschema.ValidationError):
        check({**DEPLOYMENT, "spec": spec})


def test_the_deployment_runs_the_ready_image_without_runners() -> None:
    assert DEPLOYMENT["spec"]["bento"] == BENTO["metadata"]["name"]
    assert "runners" not in DEPLOYMENT["spec"] | BENTO["spec"]
    ours = f"pytorch-ner:{version('lsml-bento')}"
    assert (BENTO["spec"]["tag"], BENTO["spec"]["image"]) == (
        ours,
        f"lsml-bento/{ours}",
    )
    # Else they are too small for torch.
    assert DEPLOYMENT["spec"]["resources"].keys() == {"requests", "limits"}
    assert DEPLOYMENT["spec"]["autoscaling"]["minReplicas"] >= 1


def test_server_and_worker_share_secrets_versions_and_a_namespace() -> None:
    [worker] = WORKER["spec"]["template"]["spec"]["containers"]
    server = {entry["name"]: entry["value"] for entry in DEPLOYMENT["spec"]["envs"]}
    own = {entry["name"]: entry["value"] for entry in worker["env"]}
    secret = document(KUBERNETES / "secret.example.yaml")

    assert own.items() <= server.items()
    assert worker["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    assert server.keys() - own.keys() - {"LSML_WORKER"} <= secret["stringData"].keys()
    assert server["LSML_WORKER"] == "external"
    assert server["REDIS_URL"] == secret["stringData"]["REDIS_URL"]
    assert {m["metadata"]["namespace"] for m in (BENTO, DEPLOYMENT, WORKER)} == {
        "yatai"
    }
