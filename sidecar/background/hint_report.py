"""Tells the control plane how old this sidecar's hints are, and learns which buckets were repaired.

Tombstones that a hint might need stay while the control plane knows of it. It need not know at
once: a tombstone stays for days in any case. So a report goes out now and then, to whichever
control plane the map comes from; one that does not arrive is followed by another.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import grpc
import structlog

from protos.dabbawala.v1 import admin_pb2
from sidecar.background.hint_ledger import HintsView, MarkView
from sidecar.background.map_feed import CHANNEL_OPTIONS
from sidecar.core.hints import ONLY_COPY
from sidecar.workers import Repaired

METHOD: Final = "/dabbawala.v1.Admin/ReportHints"
EVERY_S: Final = 2.0
AGAIN_S: Final = 60.0
TIMEOUT_S: Final = 5.0
LAST_S: Final = 1.0
MOST_MARKS: Final = 4_096  # of one report; the rest follows when these are done with

log = structlog.get_logger("hints")


class HintReporter:
    """Run it as a task. `log_id` names what `view` shows, over all starts; `view` is of all workers
    together; `control_plane` is the address of the one that the map comes from, empty for none;
    `repaired` is told what may be unmarked.
    """

    def __init__(
        self,
        sidecar: str,
        log_id: str,
        age_ms: int,
        *,
        view: Callable[[], HintsView | None],
        control_plane: Callable[[], str],
        repaired: Callable[[Repaired], None],
        every_s: float = EVERY_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self._sidecar = sidecar
        self._log_id = log_id
        self._age_ms = age_ms
        self._view = view
        self._control_plane = control_plane
        self._repaired = repaired
        self._every_s = every_s
        self._again_s = again_s
        self._said: admin_pb2.ReportHintsRequest | None = None
        self._again_at = 0.0  # what holds tombstones is said again: it may have been forgotten

    async def run(self) -> None:
        """Report until cancelled; never raises for anything outside."""
        while True:
            await self.report()
            await asyncio.sleep(self._every_s)

    async def report_last(self) -> None:
        """What is left at the end, often nothing; the end does not wait long for it."""
        try:
            async with asyncio.timeout(LAST_S):
                await self.report()
        except TimeoutError:
            log.info("hints that are left not reported", why=f"no answer within {LAST_S} s")

    async def report(self) -> None:
        """Once, if there is anything to say."""
        address, view = self._control_plane(), self._view()
        if not address or view is None or view.state not in ("on", "off"):
            return  # what is on disk is not known
        request = report_of(self._sidecar, self._log_id, self._age_ms, view)
        now = asyncio.get_running_loop().time()
        held = (request.oldest_ms or request.only_copy_ms) and now >= self._again_at
        if request == self._said and not request.marks and not held:
            return
        try:
            async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                call = channel.unary_unary(
                    METHOD,
                    request_serializer=admin_pb2.ReportHintsRequest.SerializeToString,
                    response_deserializer=admin_pb2.ReportHintsResponse.FromString,
                )
                answer: admin_pb2.ReportHintsResponse = await call(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self._said = None
            log.debug("hints not reported", address=address, why=error.details())
            return
        self._said, self._again_at = request, now + self._again_s
        for mark in answer.repaired:
            self._repaired(Repaired(mark.keyspace, mark.bucket, mark.last_ms))


def report_of(
    sidecar: str, log_id: str, age_ms: int, view: HintsView
) -> admin_pb2.ReportHintsRequest:
    """What there is to say."""
    only = [node.oldest_ms for node in view.nodes if node.node == ONLY_COPY]
    others = [node.oldest_ms for node in view.nodes if node.node != ONLY_COPY]
    return admin_pb2.ReportHintsRequest(
        sidecar=sidecar,
        log=log_id,
        oldest_ms=min(others, default=0),
        age_ms=age_ms,
        only_copy_ms=min(only, default=0),
        marks=_marks(view.marks[:MOST_MARKS]),
    )


def _marks(marks: Iterable[MarkView]) -> list[admin_pb2.RepairMark]:
    return [
        admin_pb2.RepairMark(keyspace=mark.keyspace, bucket=mark.bucket, last_ms=mark.last_ms)
        for mark in marks
    ]
