"""The manifests are valid and consistent with each other and with the processes."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import version
from itertools import combinations

import click
import kubernetes_validate
import pytest

from lsml_bento.cli import main
from lsml_bento.prediction.batcher import Lane
from lsml_bento.settings import Settings
from tests.deploy.manifests import (
    COMPONENTS,
    DEPLOY,
    KUBERNETES,
    ROOT,
    Manifest,
    built,
    container,
    document,
    documents,
    named,
    pods,
)

VERSIONS = ("1.29", "1.34", "1.37")
MIXTURES = [
    mixture
    for length in range(len(COMPONENTS) + 1)
    for mixture in combinations(COMPONENTS, length)
]
METRICS = ROOT / "lsml_bento" / "adapters" / "bentoml_service" / "metrics.py"
WORKER_OF_YATAI = DEPLOY / "yatai" / "worker.yaml"
BACKEND_USER = 1034
REDIS_USER = 999


@cache
def shipped() -> list[Manifest]:
    """Every manifest of every combination of components, once."""
    found = [
        *documents(KUBERNETES / "secret.example.yaml"),
        *documents(WORKER_OF_YATAI),
        *(manifest for mixture in MIXTURES for manifest in built(*mixture)),
    ]
    return list({json.dumps(m, sort_keys=True): m for m in found}.values())


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_every_manifest_is_valid_without_an_unknown_field(kubernetes: str) -> None:
    for manifest in shipped():
        kubernetes_validate.validate(manifest, kubernetes, strict=True)


def test_an_unknown_field_is_found() -> None:
    server = named(built(), "Deployment", "pytorch-ner-server")
    server["spec"]["template"]["spec"]["terminationGracePeriod"] = 120

    with pytest.raises(
        kubernetes_validate.ValidationError, match="terminationGracePeriod"
    ):
        kubernetes_validate.validate(server, VERSIONS[0], strict=True)


@pytest.mark.parametrize("directory", ["base", *COMPONENTS])
def test_every_file_belongs_to_its_kustomization(directory: str) -> None:
    place = KUBERNETES / directory
    kustomization = document(place / "kustomization.yaml")
    patches = [patch["path"] for patch in kustomization.get("patches", [])]

    belonging = {*kustomization.get("resources", []), *patches}

    assert belonging == {p.name for p in place.iterdir()} - {"kustomization.yaml"}
    kinds = {"base": "Kustomization"}
    assert kustomization["kind"] == kinds.get(directory, "Component")


def test_pods_run_as_numeric_users_without_privileges() -> None:
    found = list(pods(shipped()))
    assert {name for name, _, _ in found} >= {"pytorch-ner-redis", "pytorch-ner-server"}

    for name, _, pod in found:
        user = REDIS_USER if name.endswith("redis") else BACKEND_USER
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["fsGroup"]) == (user, user)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        assert pod.get("automountServiceAccountToken") is False or pod.get(
            "serviceAccountName"
        )
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}


def test_a_server_has_time_to_finish_requests_before_it_is_killed() -> None:
    server = named(built(), "Deployment", "pytorch-ner-server")
    pod = server["spec"]["template"]["spec"]
    [each] = pod["containers"]
    options = dict(zip(each["args"], each["args"][1:], strict=False))
    timeout_s = int(options["--timeout-graceful-shutdown"])
    pre_stop_s = int(each["lifecycle"]["preStop"]["exec"]["command"][1])

    assert timeout_s > Settings.from_env({}).predict_deadline_s
    assert pod["terminationGracePeriodSeconds"] >= pre_stop_s + timeout_s + 10


def test_a_worker_has_time_to_requeue_its_job_before_it_is_killed() -> None:
    for name, _, pod in pods(shipped()):
        if name == "pytorch-ner-worker":
            assert pod["terminationGracePeriodSeconds"] >= 30
            assert pod["shareProcessNamespace"] is True


def test_probes_and_services_use_existing_ports() -> None:
    ports = {"pytorch-ner-server": 3000, "pytorch-ner-worker": 9091}
    for name, _, pod in pods(shipped()):
        [each] = pod["containers"]
        [port] = each["ports"]
        assert port["containerPort"] == ports.get(name, 6379)
        for key, probe in each.items():
            if key.endswith("Probe"):
                asked = probe.get("httpGet") or probe.get("tcpSocket")
                assert asked is None or asked["port"] == port["name"], (name, key)
    for mixture in MIXTURES:
        manifests = built(*mixture)
        for service in (m for m in manifests if m["kind"] == "Service"):
            wanted = service["spec"]["selector"].items()
            chosen = [
                pod for _, labels, pod in pods(manifests) if wanted <= labels.items()
            ]
            [target] = [port["targetPort"] for port in service["spec"]["ports"]]
            [pod] = chosen
            assert target == pod["containers"][0]["ports"][0]["name"]


def test_a_pod_is_not_killed_before_it_is_ready() -> None:
    found = [pod for _, _, pod in pods(shipped())]
    probed = [each for pod in found for each in pod["containers"]]
    asked = [each for each in probed if "startupProbe" in each]

    assert {each["name"] for each in asked} == {"server", "worker"}
    for each in asked:
        paths = {k: v["httpGet"]["path"] for k, v in each.items() if "Probe" in k}
        assert paths == {
            "startupProbe": "/livez",
            "livenessProbe": "/livez",
            "readinessProbe": "/readyz",
        }


def test_the_secret_of_the_readme_has_every_key() -> None:
    readme = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    secret = document(KUBERNETES / "secret.example.yaml")

    made = re.findall(r"--from-literal=([A-Z_]+)=", readme)

    assert sorted(made) == sorted(secret["stringData"])


@pytest.mark.parametrize("place", ["kubernetes", "bentocloud", "yatai"])
def test_the_s3fs_of_the_readme_matches_the_pinned_fsspec(place: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    [pinned] = [line for line in lines if line.startswith("fsspec==")]
    readme = (DEPLOY / place / "README.md").read_text(encoding="utf-8")

    # s3fs takes the fsspec of its own version and no other.
    assert f"echo 's3fs=={pinned.partition('==')[2]}' >> bentos/" in readme


def test_every_name_that_a_pod_refers_to_exists() -> None:
    [secret] = documents(KUBERNETES / "secret.example.yaml")
    for mixture in MIXTURES:
        manifests = built(*mixture)
        there = {(m["kind"], m["metadata"]["name"]) for m in manifests}
        for _, _, pod in pods(manifests):
            [each] = pod["containers"]
            for source in each.get("envFrom", []):
                assert source in (
                    {"configMapRef": {"name": "pytorch-ner-settings"}},
                    {"secretRef": {"name": secret["metadata"]["name"]}},
                )
            for variable in each.get("env", []):
                if "valueFrom" in variable:
                    key = variable["valueFrom"]["secretKeyRef"]
                    assert key["name"] == secret["metadata"]["name"]
                    assert key["key"] in secret["stringData"]
            for volume in pod.get("volumes", []):
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                assert claim is None or ("PersistentVolumeClaim", claim) in there
                assert len(volume) == 2, f"{volume['name']} is of two kinds"
        assert ("ConfigMap", "pytorch-ner-settings") in there


@pytest.mark.parametrize("component", ["server", "worker"])
def test_each_pod_has_its_own_home_and_the_store_is_shared(component: str) -> None:
    manifests = built()
    settings = named(manifests, "ConfigMap", "pytorch-ner-settings")["data"]
    deployment = named(manifests, "Deployment", f"pytorch-ner-{component}")
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {
        mount["mountPath"]: volumes[mount["name"]]
        for mount in pod["containers"][0]["volumeMounts"]
    }

    assert "emptyDir" in mounts[settings["LSML_HOME"]]
    shared = next(m for path, m in mounts.items() if "persistentVolumeClaim" in m)
    [where] = [path for path, mount in mounts.items() if mount is shared]
    assert settings["LSML_MODEL_STORE"].startswith(f"{where}/")


def test_with_an_object_store_no_volume_is_claimed() -> None:
    manifests = built("object-store")

    assert all(m["kind"] != "PersistentVolumeClaim" for m in manifests)
    settings = named(manifests, "ConfigMap", "pytorch-ner-settings")["data"]
    assert settings["LSML_MODEL_REPO"].startswith("s3://")
    assert settings.items() >= {("LSML_HOME", "/data")}
    for name, _, pod in pods(manifests):
        if name != "pytorch-ner-redis":
            assert all("emptyDir" in volume for volume in pod["volumes"])


@pytest.mark.parametrize("component", ["server", "worker"])
def test_the_gpu_component_only_requests_gpus(component: str) -> None:
    plain, patched = container(component), container(component, "gpu")

    limits = patched["resources"]["limits"]
    assert limits == {**plain["resources"]["limits"], "nvidia.com/gpu": "1"}
    assert {**patched, "resources": None} == {**plain, "resources": None}


def test_the_worker_command_exists() -> None:
    for name, _, pod in pods(shipped()):
        if name != "pytorch-ner-worker":
            continue
        program, command, *arguments = pod["containers"][0]["args"]
        assert program == "lsml-bento"
        found = main.get_command(click.Context(main), command)
        assert found is not None
        with found.make_context(command, list(arguments)) as context:
            assert context.params["health_port"] == 9091


def test_only_external_workers_train() -> None:
    variables = {v["name"]: v.get("value") for v in container("server")["env"]}
    assert variables["LSML_WORKER"] == "external"


def test_all_images_are_of_this_version() -> None:
    image = f"lsml-bento/pytorch-ner:{version('lsml-bento')}"
    for name, _, pod in pods(shipped()):
        if name != "pytorch-ner-redis":
            assert pod["containers"][0]["image"] == image
    [change] = document(KUBERNETES / "base" / "kustomization.yaml")["images"]
    assert f"{change['name']}:{change['newTag']}" == image


def test_the_autoscaler_uses_the_metric_of_the_adapter() -> None:
    [rule] = document(KUBERNETES / "prometheus-adapter.yaml")["rules"]["custom"]
    manifests = built("autoscaling")
    scaler = named(manifests, "HorizontalPodAutoscaler", "pytorch-ner-server")["spec"]
    [metric] = scaler["metrics"]

    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    series = "lsml_queue_wait_seconds"
    assert rule["name"]["matches"] == f"^{series}_sum$"
    assert rule["seriesQuery"].startswith(f"{series}_sum{{")
    assert f'name="{series}"' in METRICS.read_text(encoding="utf-8")
    assert f'lane!="{Lane.BULK.value}"' in rule["metricsQuery"]
    assert scaler["minReplicas"] >= 1
    target = scaler["scaleTargetRef"]
    deployment = named(manifests, target["kind"], target["name"])
    assert "replicas" not in deployment["spec"], "they would be reset by each apply"
