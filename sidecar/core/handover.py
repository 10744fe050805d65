"""Hints that a sidecar hands over when it stops: their bytes, and which owner keeps them.

    checksum(8) | node(4) | bucket(4) | created_ms(8) | keyspace's bytes(1) | key's bytes(2) |
    keyspace | key | record

All integers are big-endian; the checksum is that of records (replicas/record.py).
"""

import struct

from replicas.record import CHECKSUM_BYTES, seal
from sidecar.core.hints import Hint
from sidecar.core.route import Route

_HEAD = struct.Struct(">IIQBH")


def encode_hint(hint: Hint) -> bytes:
    """The bytes of one hint."""
    keyspace = hint.keyspace.encode()
    head = _HEAD.pack(hint.node, hint.bucket, hint.created_ms, len(keyspace), len(hint.key))
    return seal(head + keyspace + hint.key + hint.record)


def decode_hint(raw: bytes) -> Hint | None:
    """The hint in `raw`; None when its checksum or form is wrong."""
    body = raw[CHECKSUM_BYTES:]
    if len(body) < _HEAD.size or seal(body) != raw:
        return None
    node, bucket, created_ms, keyspace_bytes, key_bytes = _HEAD.unpack_from(body)
    key_at = _HEAD.size + keyspace_bytes
    record_at = key_at + key_bytes
    try:
        keyspace = body[_HEAD.size : key_at].decode()
    except UnicodeDecodeError:
        return None
    return Hint(keyspace, bucket, body[key_at:record_at], body[record_at:], node, created_ms)


def keeper(hint: Hint, route: Route) -> int | None:
    """The slot of an owner that can keep the hint for the one it is for; None: there is none."""
    for slot, peer in enumerate(route.peers):
        if peer.counts and peer.link is not None and peer.node.number != hint.node:
            return slot
    return None
