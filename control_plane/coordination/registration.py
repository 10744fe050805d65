"""An ephemeral path that is made again whenever it vanished without being withdrawn."""

import asyncio

from control_plane.coordination.errors import Conflict, NotFound, StoreClosed, Unavailable
from control_plane.coordination.primitives import (
    RETRY_PAUSE_S,
    Primitives,
    PutEphemeral,
    SessionOp,
    check_value,
)
from control_plane.coordination.store import Delete, Put, Registration

_BEGIN_ATTEMPTS = 10


class KeptRegistration(Registration):
    """Made by SessionStore.ephemeral: `begin()` registers, then `keep()` must be running."""

    def __init__(self, store: Primitives, path: str, value: bytes) -> None:
        self.path = path
        self._store = store
        self._value = value
        self._held_by = 0
        self._over = False
        self._withdrawn = False

    @property
    def held(self) -> bool:
        return not self._over and self._held_by != 0 and self._held_by == self._store.session_id

    async def begin(self) -> None:
        """Take the path, from an earlier life of the same instance too. Conflict when it is no
        ephemeral at all.
        """
        for attempt in range(_BEGIN_ATTEMPTS):
            try:
                await self._take(take_over=True)
                return
            except Conflict:
                if attempt == _BEGIN_ATTEMPTS - 1:
                    raise
            except NotFound:  # the earlier life ended in between
                continue

    async def update(self, value: bytes) -> None:
        check_value(self.path, value)
        self._value = value
        holding = await self._store.holding(self.path)
        if holding is None or not holding.ours:
            # It is being made again, with the new value; or was taken over and is not ours.
            return
        await self._store.apply([Put(self.path, value, holding.version)])

    async def withdraw(self) -> None:
        self._over = True
        if self._withdrawn:
            return
        holding = await self._store.holding(self.path)
        if holding is not None and holding.ours:
            await self._store.apply([Delete(self.path, holding.version)])
        self._withdrawn = True

    async def keep(self) -> None:
        """Runs until withdrawn, taken over, or cancelled."""
        async with self._store.watch(self.path) as watch:
            async for _ in watch:
                await self._settle()
                if self._over:
                    return

    async def _settle(self) -> None:
        while not self._over:
            try:
                await self._take(take_over=False)
                return
            except StoreClosed:
                self._over = True
            except (Unavailable, Conflict, NotFound):
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _take(self, *, take_over: bool) -> None:
        holding = await self._store.holding(self.path)
        if holding is not None and not holding.ours:
            if not take_over:
                self._over = True  # the last one to register wins
                return
            if not holding.ephemeral:
                raise Conflict(self.path, "absent or ephemeral", holding.version)
        if holding is None or not holding.ours:
            ops: list[SessionOp] = [PutEphemeral(self.path, self._value)]
            if holding is not None:
                ops.insert(0, Delete(self.path, holding.version))
            await self._store.apply(ops)
        self._held_by = self._store.session_id
