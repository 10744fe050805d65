"""Records and versions made by hand, for tests of what replicas do with them."""

from hashlib import sha1


def version_at(ms: int, counter: int = 0, writer: bytes = b"writer-1") -> bytes:
    """A version with these Unix milliseconds."""
    return ms.to_bytes(6, "big") + counter.to_bytes(2, "big") + writer


def sealed(body: bytes) -> bytes:
    """A record (or anything in its form) with a right checksum, whatever `body` says."""
    return sha1(body).digest()[:8] + body


def flip(raw: bytes, position: int) -> bytes:
    """`raw` with one bit changed in the byte at `position`."""
    damaged = bytearray(raw)
    damaged[position] ^= 1
    return bytes(damaged)
