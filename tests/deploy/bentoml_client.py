"""Parses deployment files with BentoML's client, in a process, as its import warns.

Reads a JSON list of files from standard input, and writes ``{"faults": [..], "worker":
{..}}``: the fault of each file, or None, and what the worker's service is.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import cattrs
from _bentoml_sdk.service.config import validate
from bentoml._internal.cloud.schemas.modelschemas import DeploymentStrategy
from bentoml._internal.cloud.schemas.schemasv2 import CreateDeploymentSchema

from deploy.bentocloud.worker import Worker

_CLIENT = cattrs.Converter(forbid_extra_keys=True)
"""BentoML's own converter, which drops unknown keys without an error."""


def fault(manifest: dict[str, Any]) -> str | None:
    """What the client would ignore or reject in a file."""
    try:
        parsed = _CLIENT.structure(manifest, CreateDeploymentSchema)
    except cattrs.BaseValidationError as error:
        return "; ".join(cattrs.transform_error(error))
    for name, service in parsed.services.items():
        if service.deployment_strategy is not None:
            DeploymentStrategy(service.deployment_strategy)
        overrides: Any = service.config_overrides or {}
        # It leaves out what it does not know, too.
        if validate(overrides) != overrides:
            return f"config_overrides of {name}: {overrides}"
    return None


def main() -> None:
    """Answer for the files on standard input."""
    service: Any = Worker  # which the decorator made of the class
    config = service.config
    worker = {
        "name": service.name,
        "cmd": service.cmd,
        "workers": config["workers"],
        "proxy_port": config["http"]["proxy_port"],
        "probes": sorted(config["endpoints"].values()),
        "requirements": service.image.python_requirements.split(),
    }
    faults = [fault(manifest) for manifest in json.load(sys.stdin)]
    json.dump({"faults": faults, "worker": worker}, sys.stdout)


if __name__ == "__main__":
    main()
