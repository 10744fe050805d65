"""Who is at the other end of a connection, as far as the connection itself tells."""

import asyncio
import socket
import struct
from typing import Any, Final

from sidecar.net.tls import identities_of
from sidecar.rights import STRANGER, Peer

_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid, as the kernel gives them


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """By the certificate of a TLS connection, or by the kernel's word on a Unix socket."""
    certificate = transport.get_extra_info("peercert")
    if certificate:
        return Peer(identities=identities_of(certificate))
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return STRANGER
    try:
        said = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:  # it has gone already
        return STRANGER
    _pid, uid, _gid = _CREDENTIALS.unpack(said)
    return Peer(uid=uid)


def grpcio_peer_of(context: Any) -> Peer:
    """The same of a call of grpcio, which does not tell users of Unix sockets."""
    facts = context.auth_context()
    names = [
        name for kind in ("peer_dns", "peer_uri", "peer_email") for name in facts.get(kind, ())
    ]
    found = names or [name for name in facts.get("x509_common_name", ()) if name]
    return Peer(identities=frozenset(name.decode("utf-8", "replace") for name in found))
