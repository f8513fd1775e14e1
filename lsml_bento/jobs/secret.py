"""The secret that signs what a backend's processes tell one another."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from lsml_bento.errors import SettingsError

FILE = "secret.key"
"""Under ``LSML_HOME``; only its owner may read it."""

_BYTES = 32


def secret_of(environ_value: SecretStr | None, home: Path) -> bytes:
    """``LSML_SECRET_KEY``, or a random secret that all processes of a home share.

    Args:
        environ_value: of ``LSML_SECRET_KEY``.
        home: where the random one is kept; made if it is missing. Nothing is read or
            written there if there is a value.

    Raises:
        SettingsError: if the file can not be made or read, or holds no secret.
    """
    if environ_value is not None:
        return environ_value.get_secret_value().encode()
    path = home / FILE
    advice = "set LSML_SECRET_KEY, the same for every process of the backend"
    try:
        if not path.exists():
            _create(path)
        found = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            f"the secret in {path} can be neither read nor made ({error.strerror}): "
            f"give this user the right to, or {advice}"
        ) from error
    if len(found) != 2 * _BYTES:
        raise SettingsError(
            f"{path} should hold a secret of {2 * _BYTES} characters and has "
            f"{len(found)}: delete it, so that a new one is made, or {advice}"
        )
    return found


def _create(path: Path) -> None:
    """Make the file whole, or leave it to the process that was quicker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it replaces nothing
    finally:
        draft.unlink()
