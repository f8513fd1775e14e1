"""HTTP Basic auth: whether a header holds the right user and password."""

from __future__ import annotations

import base64
import binascii
import hmac
from contextlib import suppress


class BasicAuth:
    """A user and a password, compared in constant time.

    Source: RFC 7617. Label Studio sends them in Latin-1, as requests does; curl UTF-8.
    """

    def __init__(self, user: str, password: str) -> None:
        credentials = f"{user}:{password}"
        self._encoded = [credentials.encode("utf-8", "surrogateescape")]
        with suppress(UnicodeEncodeError):
            self._encoded.append(credentials.encode("latin-1"))

    def allows(self, header: bytes) -> bool:
        """Whether ``Authorization: header`` names them."""
        scheme, _, encoded = header.partition(b" ")
        try:
            sent = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            sent = b""
        # Compared first, so that a wrong scheme takes as long as a wrong password.
        equal = [hmac.compare_digest(sent, known) for known in self._encoded]
        return any(equal) and scheme.lower() == b"basic"
