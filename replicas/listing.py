"""Asking an owner which keys it holds, step by step, and how many."""

import struct
from typing import Final

from replicas.commands import pack_command
from replicas.layout import BucketKeys
from replicas.scripts import SCRIPTS

FIRST_CURSOR: Final = b"0"  # of the first step; in a reply: there is no further one
KEYS_A_STEP: Final = 1000  # 0.4 ms of the server's time

_NUMBER: Final = struct.Struct(">Q")


def list_command(
    keys: BucketKeys,
    epoch: int,
    incarnation: int,
    *,
    cursor: bytes = FIRST_CURSOR,
    prefix: bytes = b"",
    count: int = KEYS_A_STEP,
) -> bytes:
    """One step. Reply: [cursor of the next, keys], or a refusal; see scripts/list.lua."""
    place = (_NUMBER.pack(epoch), _NUMBER.pack(incarnation))
    head = (b"EVALSHA", SCRIPTS["list"].sha, b"1", keys.data)
    return pack_command(*head, *place, cursor, b"%d" % count, prefix)


def count_command(keys: BucketKeys, epoch: int, incarnation: int) -> bytes:
    """How many keys, tombstones too. Reply: an integer, or a refusal."""
    place = (_NUMBER.pack(epoch), _NUMBER.pack(incarnation))
    return pack_command(b"EVALSHA", SCRIPTS["count"].sha, b"1", keys.data, *place)
