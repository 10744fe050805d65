"""Names on a replica server: keys of a bucket, fields of its hash.

The braces make a bucket's keys share a slot where a proxy or client insists on slots.
"""

from dataclasses import dataclass

FENCE_FIELD = b"f"
MAP_FIELD = b"m"  # the bucket's current map entry (BucketEntry bytes), beside the fence
USER_PREFIX = b"k"  # before every user key, so that none can collide with a reserved field
IDENTITY_KEY = b"dabba:identity"
HINTS_KEY = b"dabba:hints"  # a stream: hints for other owners, of sidecars that have stopped
HINTS_TURN_KEY = b"dabba:hints:turn"  # which sidecar replays them now
MAX_KEY_BYTES = 1024  # of a user key
LOG_FIELD = b"e"  # the one field of a change-log entry: version(16) | user key


@dataclass(frozen=True, slots=True)
class BucketKeys:
    """The server keys of one bucket: records, change log, older versions."""

    data: bytes
    log: bytes
    history: bytes


def bucket_keys(keyspace: str, bucket: int) -> BucketKeys:
    """The names under which `bucket` of `keyspace` is stored."""
    stem = f"dabba:{{{keyspace}:{bucket}}}:".encode()
    return BucketKeys(stem + b"data", stem + b"log", stem + b"history")


def user_field(key: bytes) -> bytes:
    """The hash field that holds the record of `key`."""
    return b"k" + key
