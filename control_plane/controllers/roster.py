"""Which instances of the control plane are alive, where they are, and which one leads."""

import asyncio
from typing import Final

import msgspec
import structlog

from control_plane.controllers.status import Instance
from control_plane.coordination.errors import CoordinationError
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import CoordinationStore, Entry, Registration

_INTERVAL_S: Final = 0.5
_log = structlog.get_logger(part="roster")


class InstanceRecord(msgspec.Struct, frozen=True):
    """What an instance says of itself, under `instances/<id>` and, leading, under `leader`."""

    id: str
    address: str


class Roster:
    """Registers this instance, and keeps the last known list of all."""

    def __init__(self, store: CoordinationStore, paths: ClusterPaths, own: InstanceRecord) -> None:
        self.instances: list[Instance] = [Instance(own.id, own.address)]
        self.leader = ""
        self.reachable = True
        self._store = store
        self._paths = paths
        self._own = own

    @property
    def value(self) -> bytes:
        """This instance's own record."""
        return msgspec.json.encode(self._own)

    def address_of(self, instance_id: str) -> str:
        """ "" when it is not known."""
        return next((i.address for i in self.instances if i.id == instance_id), "")

    async def run(self) -> None:
        """Register, then read the list again and again, until cancelled."""
        registration: Registration | None = None
        try:
            while True:
                try:
                    if registration is None:
                        path = self._paths.instance(self._own.id)
                        registration = await self._store.ephemeral(path, self.value)
                    await self.refresh()
                    self.reachable = True
                except CoordinationError as error:
                    if self.reachable:
                        _log.warning("the coordination store does not answer", error=str(error))
                    self.reachable = False
                await asyncio.sleep(_INTERVAL_S)
        finally:
            if registration is not None:
                await _withdraw(registration)

    async def refresh(self) -> None:
        """Read now. Raises what the store raises."""
        prefix = self._paths.instances + "/"
        entries = await self._store.read_tree(self._paths.instances)
        leader, holders = (
            await self._store.read(self._paths.leader),
            await self._store.children(self._paths.leader),
        )
        found = [_record(entry) for path, entry in entries.items() if path.startswith(prefix)]
        records = sorted((r for r in found if r is not None), key=lambda record: record.id)
        self.instances = [Instance(record.id, record.address) for record in records]
        leading = _record(leader) if holders else None
        self.leader = leading.id if leading is not None else ""


async def _withdraw(registration: Registration) -> None:
    try:
        await registration.withdraw()
    except CoordinationError:
        pass  # it ends with the session


def _record(entry: Entry | None) -> InstanceRecord | None:
    if entry is None:
        return None
    try:
        return msgspec.json.decode(entry.value, type=InstanceRecord)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
