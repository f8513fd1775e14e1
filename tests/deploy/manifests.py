"""The files in deploy/, read as kubectl, kustomize and compose read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
COMPONENTS = ("gpu", "object-store", "autoscaling")
"""Components that change the base."""

Manifest = dict[str, Any]

_MERGE_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort"}
"""The keys that identify entries of a list; in all other lists, it is their name.

Source: Kubernetes' API reference, "patch strategy" and "patch merge key".
"""


def documents(path: Path) -> list[Manifest]:
    """The non-empty documents of a file."""
    with path.open(encoding="utf-8") as file:
        return [found for found in yaml.safe_load_all(file) if found]


def document(path: Path) -> Manifest:
    """The only document of a file."""
    [found] = documents(path)
    return found


def built(*components: str) -> list[Manifest]:
    """The output of ``kubectl kustomize`` for the base with these components."""
    made: list[Manifest] = []
    for name in ("base", *components):
        directory = KUBERNETES / name
        kustomization = document(directory / "kustomization.yaml")
        for resource in kustomization.get("resources", []):
            made += documents(directory / resource)
        for patch in kustomization.get("patches", []):
            for change in documents(directory / patch["path"]):
                made = _patched(made, change)
    return made


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The only manifest with a kind and name."""
    [found] = [m for m in manifests if _identity(m) == (kind, name)]
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name, labels and spec of the pods of manifests."""
    for manifest in manifests:
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            template = manifest["spec"]["template"]
            yield (
                manifest["metadata"]["name"],
                template["metadata"]["labels"],
                template["spec"],
            )


def container(component: str, *components: str) -> Manifest:
    """The container of the server, or of the worker."""
    deployment = named(built(*components), "Deployment", f"pytorch-ner-{component}")
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def probes(component: str) -> set[str]:
    """The paths of the health checks of a server, or a worker."""
    return {
        value["httpGet"]["path"]
        for key, value in container(component).items()
        if key.endswith("Probe")
    }


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _patched(manifests: list[Manifest], change: Manifest) -> list[Manifest]:
    target = named(manifests, *_identity(change))
    kept = [manifest for manifest in manifests if manifest is not target]
    if change.get("$patch") == "delete":
        return kept
    return [*kept, merged(target, change)]


def merged(old: Manifest, change: Manifest) -> Manifest:
    """A strategic merge: None removes, and lists of objects are merged by entry."""
    made = dict(old)
    for key, value in change.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, dict):
            made[key] = merged(made.get(key, {}), value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            made[key] = _merged_list(
                made.get(key, []), value, _MERGE_KEYS.get(key, "name")
            )
        else:
            made[key] = value
    return made


def _merged_list(
    old: list[Manifest], changes: list[Manifest], key: str
) -> list[Manifest]:
    made = {entry[key]: entry for entry in old}
    for change in changes:
        made[change[key]] = merged(made.get(change[key], {}), change)
    return list(made.values())
