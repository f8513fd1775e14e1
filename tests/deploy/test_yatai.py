"""The resources for Yatai have only fields and values that its controller passes on."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    Manifest,
    built,
    document,
    named,
)

YATAI = DEPLOY / "yatai"
SCHEMAS = document(Path(__file__).with_name("yatai_resources.yaml"))
BENTO = document(YATAI / "bento.yaml")
DEPLOYMENT = document(YATAI / "bentodeployment.yaml")
WORKER = document(YATAI / "worker.yaml")


def check(manifest: Manifest) -> None:
    """Raise ``jsonschema.ValidationError`` for what would be dropped or rejected."""
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


def test_the_deployment_runs_the_prebuilt_image_without_runners() -> None:
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
    only_here = {"LSML_WORKER", "OMP_NUM_THREADS"}
    assert server.keys() - own.keys() - only_here <= secret["stringData"].keys()
    assert server["LSML_WORKER"] == "external"
    assert server["REDIS_URL"] == secret["stringData"]["REDIS_URL"]
    assert {m["metadata"]["namespace"] for m in (BENTO, DEPLOYMENT, WORKER)} == {
        "yatai"
    }


def test_the_server_has_as_many_threads_as_cpus() -> None:
    server = {entry["name"]: entry["value"] for entry in DEPLOYMENT["spec"]["envs"]}
    limits = DEPLOYMENT["spec"]["resources"]["limits"]
    assert server["OMP_NUM_THREADS"] == limits["cpu"]


def test_the_worker_equals_that_of_kubernetes_with_a_bucket() -> None:
    manifests = built("object-store")
    theirs = named(manifests, "Deployment", "pytorch-ner-worker")["spec"]
    settings = named(manifests, "ConfigMap", "pytorch-ner-settings")["data"]
    pod, their_pod = (spec["template"]["spec"] for spec in (WORKER["spec"], theirs))
    [each], [their_each] = pod["containers"], their_pod["containers"]
    own = {entry["name"]: entry["value"] for entry in each["env"]}

    assert without(WORKER["spec"], "template") == without(theirs, "template")
    identity = {"serviceAccountName", "automountServiceAccountToken"}
    assert without(pod, "containers", "volumes", *identity) == without(
        their_pod, "containers", "volumes", *identity
    )
    assert without(each, "env", "envFrom", "volumeMounts") == without(
        their_each, "envFrom", "volumeMounts"
    )
    assert without(own, "LSML_MODEL_STORE") == without(settings, "LSML_MODEL_STORE")


def without(manifest: Manifest, *keys: str) -> Manifest:
    return {key: value for key, value in manifest.items() if key not in keys}
