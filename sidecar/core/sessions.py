"""Session tokens: what a client has written and read, so that no sidecar answers it less.

A token names up to 64 keys by a hash, each with the newest version that the client has met there.
It is opaque to clients: base64url, so that it can lie in a header or a cookie, over

    format(1) | key id(4) | flags(1) | count(1) | elsewhere(16) | count x (place(8) | version(16)) |
    mac(16)

The mac is over everything before it and the cluster's name, by a secret that all sidecars of the
cluster share. A token with no entry left for one more key says *settled elsewhere* from then on:
every key that has no entry is read and written at QUORUM, so what it would have said of them stands
on a majority; of all their versions only the newest is kept.
"""

import base64
import binascii
import hmac
import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256

from xxhash import xxh3_64_intdigest

from replicas.record import VERSION_BYTES
from replicas.version import ZERO_VERSION, physical_ms
from sidecar.errors import DataError, Fault, Reason

FORMAT = 1
MAX_ENTRIES = 64
MAC_BYTES = 16
LEAST_SECRET_BYTES = 16

_KEY_ID_BYTES = 4
_HEAD = struct.Struct(f">B{_KEY_ID_BYTES}sBB{VERSION_BYTES}s")
_ENTRY = struct.Struct(f">Q{VERSION_BYTES}s")
_SETTLED_ELSEWHERE = 1
_MOST_BYTES = _HEAD.size + MAX_ENTRIES * _ENTRY.size + MAC_BYTES
MAX_TOKEN_BYTES = -(-_MOST_BYTES * 4 // 3)
_PADDING = {0: b"", 2: b"==", 3: b"="}  # by what the length leaves over 4; 1 is no base64


def place_of(keyspace: str, key: bytes) -> int:
    """What a token calls a key: 64 bits. Two keys with the same are compared more strictly, never
    less."""
    return xxh3_64_intdigest(b"%b\0%b" % (keyspace.encode(), key))


class Seen:
    """What one session has met: `versions` by place, never more than 64 of them.

    An operation calls `begin` for its place before it starts, and `end` when it is over; only one
    at a time for one place.
    """

    __slots__ = ("elsewhere", "settled_elsewhere", "versions")

    def __init__(
        self,
        versions: Mapping[int, bytes] | None = None,
        *,
        settled_elsewhere: bool = False,
        elsewhere: bytes = ZERO_VERSION,
    ) -> None:
        self.versions = dict(versions or {})
        self.elsewhere = elsewhere  # the newest that was met of keys without an entry
        self.settled_elsewhere = settled_elsewhere

    def begin(self, place: int) -> bool:
        """Keep room for what the operation will meet. False: there is none, and what it meets has
        to stand on a majority before it is answered."""
        if place in self.versions:
            return True
        if self.settled_elsewhere or len(self.versions) >= MAX_ENTRIES:
            self.settled_elsewhere = True
            return False
        self.versions[place] = b""
        return True

    def needed(self, place: int) -> bytes:
        """The version below which nothing may be answered; empty: anything may."""
        return self.versions.get(place, b"")

    def newest(self, place: int) -> bytes:
        """A version that a write has to be above, to come after what was met."""
        return self.versions.get(place, self.elsewhere)

    def end(self, place: int, version: bytes) -> None:
        """The operation has met `version`; empty: none."""
        known = self.versions.get(place)
        if known is None:
            self.elsewhere = max(self.elsewhere, version)
            return
        newest = max(known, version)
        if newest:
            self.versions[place] = newest
        else:
            del self.versions[place]


class SessionKeys:
    """Signs and opens tokens. `secrets`: the first signs, all are accepted; at least one."""

    def __init__(self, cluster: str, secrets: Sequence[bytes]) -> None:
        if not secrets or any(len(secret) < LEAST_SECRET_BYTES for secret in secrets):
            raise ValueError(f"at least one secret, each of {LEAST_SECRET_BYTES} bytes or more")
        self._cluster = b"dabbawala session %b\0" % cluster.encode()
        self._secrets = {_key_id(secret): secret for secret in reversed(secrets)}
        self._signing = _key_id(secrets[0])

    def sign(self, seen: Seen) -> bytes:
        """The token of what was met."""
        entries = [entry for entry in seen.versions.items() if entry[1]]
        flags = _SETTLED_ELSEWHERE if seen.settled_elsewhere else 0
        head = _HEAD.pack(FORMAT, self._signing, flags, len(entries), seen.elsewhere)
        body = head + b"".join([_ENTRY.pack(*entry) for entry in entries])
        return base64.urlsafe_b64encode(body + self._mac(self._signing, body)).rstrip(b"=")

    def open(self, token: bytes, newest_ms: int) -> Seen | DataError:
        """What a token says. `newest_ms`: later versions (Unix milliseconds) are not believed."""
        raw = _decoded(token)
        if isinstance(raw, DataError):
            return raw
        form, key_id, flags, count, elsewhere = _HEAD.unpack_from(raw)
        if form != FORMAT:
            return _invalid(f"it has format {form}, and this sidecar knows {FORMAT}")
        if key_id not in self._secrets:
            return _unknown_key()
        body, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(key_id, body)):
            return _invalid("its signature is wrong: it was changed, or is of another cluster")
        entries = body[_HEAD.size :]
        if len(entries) != count * _ENTRY.size or count > MAX_ENTRIES:
            return _invalid(f"it names {count} keys in {len(entries)} bytes")
        versions: dict[int, bytes] = dict(_ENTRY.iter_unpack(entries))
        ahead_ms = physical_ms(max([elsewhere, *versions.values()])) - newest_ms
        if ahead_ms > 0:
            return _ahead(ahead_ms)
        settled = bool(flags & _SETTLED_ELSEWHERE)
        return Seen(versions, settled_elsewhere=settled, elsewhere=elsewhere)

    def _mac(self, key_id: bytes, body: bytes) -> bytes:
        return hmac.digest(self._secrets[key_id], self._cluster + body, "sha256")[:MAC_BYTES]


def _key_id(secret: bytes) -> bytes:
    return sha256(b"dabbawala session key\0" + secret).digest()[:_KEY_ID_BYTES]


def _decoded(token: bytes) -> bytes | DataError:
    if len(token) > MAX_TOKEN_BYTES:
        return _invalid(f"it has {len(token)} bytes, and none has more than {MAX_TOKEN_BYTES}")
    padding = _PADDING.get(len(token) % 4)
    try:
        raw = b"" if padding is None else base64.b64decode(token + padding, b"-_", validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) < _HEAD.size + MAC_BYTES:
        return _invalid("it is cut short, or no token at all")
    return raw


def _invalid(what: str) -> DataError:
    return DataError(
        Reason.SESSION_INVALID,
        Fault.CALLER,
        f"the session token can not be read: {what}. Give back what an earlier response carried,"
        " byte for byte, or start a new session",
        field="session",
    )


def _unknown_key() -> DataError:
    return DataError(
        Reason.SESSION_KEY_UNKNOWN,
        Fault.CALLER,
        "the session token was signed with a key that this sidecar does not have. Give every"
        " sidecar of the cluster the same session_key_file (while keys are changed, with the former"
        " key on a further line), or start a new session",
        field="session",
    )


def no_keys() -> DataError:
    """The sidecar was given nothing to sign with."""
    return DataError(
        Reason.SESSION_KEY_MISSING,
        Fault.PRECONDITION,
        "this sidecar has no key to sign session tokens with: give it a session_key_file, the same"
        " as every sidecar of the cluster, or a state_dir, where it keeps one of its own",
        field="session",
    )


def _ahead(ahead_ms: int) -> DataError:
    return DataError(
        Reason.SESSION_AHEAD,
        Fault.UNAVAILABLE,
        f"the session token names a version that is {ahead_ms} ms further ahead of this sidecar's"
        " clock than max_skew_ms allows: one of the clocks is wrong. Nothing was sent. Look at:"
        " dabba doctor",
        field="session",
    )


def stale(keyspace: str, level: str) -> DataError:
    """Nothing that can be read is as new as what the session has met."""
    return DataError(
        Reason.SESSION_STALE,
        Fault.UNAVAILABLE,
        f"the session has met a newer version of this key than a read at {level} finds, so this"
        " sidecar answers nothing older. What it met was written below QUORUM and stands on"
        " replicas that do not answer now, or was lost with them. Repeat; or start a new session"
        " and take what there is. Look at: dabba status",
        keyspace=keyspace,
    )


def waited_too_long(keyspace: str) -> DataError:
    """The deadline passed behind an earlier operation of the same session and key."""
    return DataError(
        Reason.TIMEOUT,
        Fault.TIMEOUT,
        "the deadline passed while the session's earlier operation on this key was under way;"
        " nothing was sent",
        keyspace=keyspace,
    )
