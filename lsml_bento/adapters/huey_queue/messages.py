"""Messages as signed JSON."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from huey.registry import Message

TASK = "lsml_bento.fit"

_LONGEST = 2048


class NotOurs(ValueError):
    """A message that was not signed by a process of this backend."""


class JsonSerializer:
    """Messages as JSON, signed with HMAC-SHA256 under a secret.

    A message holds the id of a job and nothing else, and the same job makes the same
    message, so that a storage can tell that it has one.

    Args:
        secret: of the backend's processes.
        queue: its name is signed too, so that a message is good on one queue only.
    """

    def __init__(self, secret: bytes, queue: str) -> None:
        self._secret = secret
        self._queue = queue.encode() + b"\0"

    def serialize(self, message: Any) -> bytes:
        """The bytes of Huey's message."""
        (job_id,) = message.args
        payload = json.dumps({"task": message.name, "job": job_id}).encode()
        return payload + b"." + self._signature(payload)

    def deserialize(self, data: object) -> Any:
        """Huey's message.

        Raises:
            NotOurs: if it was not made here with the same secret.
        """
        if not isinstance(data, bytes) or len(data) > _LONGEST:
            raise NotOurs
        payload, _, signature = data.rpartition(b".")
        if not hmac.compare_digest(signature, self._signature(payload)):
            raise NotOurs
        try:
            found = json.loads(payload)
            task, job_id = found["task"], found["job"]
        except (ValueError, TypeError, LookupError) as error:
            raise NotOurs from error
        if task != TASK or not isinstance(job_id, str):
            raise NotOurs  # of another release
        return Message(id=job_id, name=task, args=(job_id,), kwargs={})

    def _signature(self, payload: bytes) -> bytes:
        made = hmac.new(self._secret, self._queue + payload, hashlib.sha256)
        return made.hexdigest().encode()
