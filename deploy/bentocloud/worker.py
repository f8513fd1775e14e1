"""The worker as a BentoML service, the only kind of process that BentoCloud runs.

BentoML starts the command and forwards requests to it, including health checks.
"""

from __future__ import annotations

import bentoml

from lsml_bento.adapters.bentoml_service.image import backend_image

PORT = 9091
"""The port for health checks in the worker's container."""

_PROXY = "fastapi==0.165.0"
"""BentoML forwards requests with FastAPI, but does not depend on it."""


@bentoml.service(
    name="pytorch-ner-worker",
    image=backend_image().python_packages(_PROXY),
    workers=1,  # more would only add proxies in front of the same command
    http={"proxy_port": PORT},
    endpoints={"livez": "/livez", "readyz": "/readyz"},
    cmd=["lsml-bento", "worker", "examples/pytorch_ner", "--health-port", str(PORT)],
)
class Worker:
    """Trains the model that the servers of ``examples/pytorch_ner`` serve."""
