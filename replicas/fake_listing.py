"""list and count of the fake replica: scripts/list.lua, scripts/count.lua. A step of the fake sees
the whole bucket.
"""

from collections.abc import Callable
from typing import Final

from replicas.fence import Fence, Role
from replicas.layout import FENCE_FIELD, MAP_FIELD, USER_PREFIX
from replicas.listing import FIRST_CURSOR
from replicas.replies import Code

MAX_COUNT: Final = 10_000
MAX_CURSOR_BYTES: Final = 20

Refuse = Callable[..., list[object]]
Agree = Callable[[list[bytes], bytes | None, bytes, bytes], Fence | list[object]]


class FakeListing:
    """The scripts over a replica's hashes. `refuse` and `agree` are those of its other scripts."""

    def __init__(self, refuse: Refuse, agree: Agree) -> None:
        self._refuse = refuse
        self._agree = agree

    def step(self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> object:
        """scripts/list.lua"""
        refusal = self._refuse_walk(fields, keys, args, 5)
        if refusal is not None:
            return refusal
        cursor, count, prefix = args[2:]
        if not cursor.isdigit() or len(cursor) > MAX_CURSOR_BYTES:
            return self._bad_request(keys, b"cursor")
        if not count.isdigit() or len(count) > 5 or not 1 <= int(count) <= MAX_COUNT:
            return self._bad_request(keys, b"count")
        wanted = USER_PREFIX + prefix
        return [FIRST_CURSOR, [name[1:] for name in fields if name.startswith(wanted)]]

    def total(self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> object:
        """scripts/count.lua"""
        refusal = self._refuse_walk(fields, keys, args, 2)
        if refusal is not None:
            return refusal
        return len(fields.keys() - {FENCE_FIELD, MAP_FIELD})

    def _refuse_walk(
        self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes], expected: int
    ) -> list[object] | None:
        if len(keys) != 1 or len(args) != expected:
            return self._bad_request(keys, b"arity")
        for name, value in ((b"epoch", args[0]), (b"incarnation", args[1])):
            if len(value) != 8:
                return self._bad_request(keys, name)
        fence = self._agree(keys, fields.get(FENCE_FIELD), args[0], args[1])
        if isinstance(fence, list):
            return fence
        if fence.role is not Role.OWNER:
            return self._refuse(keys, Code.WRONG_ROLE, entry=True)
        return None

    def _bad_request(self, keys: list[bytes], problem: bytes) -> list[object]:
        return self._refuse(keys, Code.BAD_REQUEST, problem)
