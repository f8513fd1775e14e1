"""The worker as a BentoML service, as BentoCloud runs nothing else.

BentoML starts the command and hands requests on to it, the probes among them.
"""

from __future__ import annotations

import bentoml

from lsml_bento.adapters.bentoml_service.image import backend_image

PORT = 9091
"""Where the worker answers probes, in its container."""

_PROXY = "fastapi==0.165.0"
"""What BentoML hands requests on with, and does not bring along."""


@bentoml.service(
    name="pytorch-ner-worker",
    image=backend_image().python_packages(_PROXY),
    workers=1,  # more of them would be as many proxies before the same command
    http={"proxy_port": PORT},
    endpoints={"livez": "/livez", "readyz": "/readyz"},
    cmd=["lsml-bento", "worker", "bentos/pytorch_ner", "--health-port", str(PORT)],
)
class Worker:
    """Trains what the servers of ``bentos/pytorch_ner`` serve."""
