"""Refuse hosts and addresses that must never be read, on every connection."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import parse_url

from lsml_bento.errors import MediaError

_NEVER = [
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
        *("168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
        *("::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128"),
    )
]
_METADATA = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
USER = re.compile(r"//[^/@]*@")


class Origin(NamedTuple):
    """Scheme, host and port: URLs of one origin reach the same server."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin:
    """Return the origin of a URL, with an explicit port."""
    # urllib3's own parser sees the host that urllib3 connects to.
    parts = parse_url(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Origin(parts.scheme or "", (parts.host or "").strip("[]").lower(), port)


def shown(url: str, *, query: bool = False) -> str:
    """Quote a URL without secrets: its password, and its query unless asked for."""
    return repr(USER.sub("//", url if query else url.partition("?")[0])[:200])


def _check_address(host: str, address: str, *, own: bool) -> None:
    """Refuse an address that must not be read; ``own`` means Label Studio's origin."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        ip = ip.ipv4_mapped or ip.sixtofour or nat64 or ip
    if any(ip in network for network in _NEVER):
        raise MediaError(
            f"{host!r} is at {address}, a link-local, metadata or reserved address, "
            "which is never read: correct the address in the task data"
        )
    if ip.is_loopback and not own:
        raise MediaError(
            f"{host!r} is this machine itself ({address}), where only LABEL_STUDIO_URL "
            "is read: name a host that others reach too, or set LABEL_STUDIO_URL to it"
        )


class _Peer:
    """Mixin for urllib3's connections that checks the address of the peer."""

    own: Origin | None
    host: str
    port: int

    def _new_conn(self) -> socket.socket:
        connection: socket.socket = super()._new_conn()  # type: ignore[misc]
        host = self.host.strip("[]").lower()
        try:
            own = self.own is not None and (host, self.port) == self.own[1:]
            _check_address(host, connection.getpeername()[0], own=own)
        except BaseException:
            connection.close()
            raise
        return connection


class GuardedAdapter(HTTPAdapter):
    """Refuses requests and redirects to addresses that must not be read."""

    def __init__(self, own: Origin | None) -> None:
        self._own = own
        super().__init__(pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use connections that check their peer's address."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": self._pool(HTTPConnectionPool, HTTPConnection),
            "https": self._pool(HTTPSConnectionPool, HTTPSConnection),
        }

    def _pool(self, pool: type, connection: type) -> Any:
        guarded = type("Connection", (_Peer, connection), {"own": self._own})
        return type("Pool", (pool,), {"ConnectionCls": guarded})

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request unless its host's name or address must not be read."""
        origin = origin_of(request.url or "")
        if origin.host.rstrip(".").removesuffix(".ec2.internal") in _METADATA:
            raise MediaError(
                f"{origin.host!r} is a metadata server, which is never read"
            )
        try:
            found = socket.getaddrinfo(
                origin.host, origin.port, type=socket.SOCK_STREAM
            )
        except (OSError, UnicodeError):
            found = []  # Connecting tells why. A proxy may know the name.
        for *_, address in found:
            _check_address(origin.host, str(address[0]), own=origin == self._own)
        return super().send(request, *args, **kwargs)
