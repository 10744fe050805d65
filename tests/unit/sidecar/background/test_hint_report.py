"""What a sidecar says of its hints, and what it does with the answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from protos.dabbawala.v1 import admin_pb2
from sidecar.background.hint_ledger import HintsView, MarkView, NodeHints
from sidecar.background.hint_report import METHOD, HintReporter, report_of
from sidecar.workers import Repaired

AGE_MS = 1_000
MARK = MarkView("places", 3, "aged out", 70, 2, durable=True)


def view(*nodes: NodeHints, marks: list[MarkView] | None = None, state: str = "on") -> HintsView:
    return HintsView(state, "", 0, 0, 0, list(nodes), marks or [], {})


def hints(node: int, oldest_ms: int) -> NodeHints:
    return NodeHints(node, 1, 100, oldest_ms, [])


class ControlPlane(grpc.GenericRpcHandler):
    """Answers every report with the same marks."""

    def __init__(self) -> None:
        self.asked: list[admin_pb2.ReportHintsRequest] = []

    def service(self, details: Any) -> Any:
        assert details.method == METHOD
        return grpc.unary_unary_rpc_method_handler(
            self.answer,
            request_deserializer=admin_pb2.ReportHintsRequest.FromString,
            response_serializer=admin_pb2.ReportHintsResponse.SerializeToString,
        )

    async def answer(self, request: admin_pb2.ReportHintsRequest, _: object) -> object:
        self.asked.append(request)
        repaired = [admin_pb2.RepairMark(keyspace="places", bucket=3, last_ms=90)]
        return admin_pb2.ReportHintsResponse(repaired=repaired if request.marks else [])


@asynccontextmanager
async def control_plane() -> AsyncIterator[tuple[ControlPlane, str]]:
    asked = ControlPlane()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((asked,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield asked, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def test_it_says_how_old_the_oldest_hints_are_the_only_copies_apart() -> None:
    said = report_of(
        "s", "log", AGE_MS, view(hints(0, 50), hints(1, 40), hints(2, 30), marks=[MARK])
    )
    assert said.log == "log"
    assert (said.sidecar, said.age_ms, said.oldest_ms, said.only_copy_ms) == ("s", AGE_MS, 30, 50)
    assert [(m.keyspace, m.bucket, m.last_ms) for m in said.marks] == [("places", 3, 70)]
    nothing = report_of("s", "log", AGE_MS, view())
    assert (nothing.oldest_ms, nothing.only_copy_ms, len(nothing.marks)) == (0, 0, 0)


async def test_it_reports_what_is_news_and_unmarks_what_was_repaired() -> None:
    now, told = view(), list[Repaired]()
    async with control_plane() as (asked, address):
        reporter = HintReporter(
            "s",
            "log",
            AGE_MS,
            view=lambda: now,
            control_plane=lambda: address,
            repaired=told.append,
        )
        await reporter.report()
        await reporter.report()
        assert len(asked.asked) == 1  # that there is none is news once: after a restart
        now = view(hints(0, 50), marks=[MARK])
        await reporter.report()
        assert asked.asked[1].only_copy_ms == 50
        assert told == [Repaired("places", 3, 90)]
        await reporter.report()  # as long as there are marks: a repair may have ended meanwhile
        assert len(asked.asked) == 3


async def test_what_holds_tombstones_is_said_again_for_it_may_have_been_forgotten() -> None:
    now = view(hints(1, 50))
    async with control_plane() as (asked, address):
        reporter = HintReporter(
            "s",
            "log",
            AGE_MS,
            view=lambda: now,
            control_plane=lambda: address,
            repaired=lambda _: None,
            again_s=0.0,
        )
        await reporter.report()
        await reporter.report()
        assert [said.oldest_ms for said in asked.asked] == [50, 50]
        now = view()
        await reporter.report()
        await reporter.report()
        assert len(asked.asked) == 3


async def test_what_is_not_known_is_not_reported() -> None:
    async with control_plane() as (asked, address):
        for now in (None, view(state="opening"), view(state="failing")):
            reporter = HintReporter(
                "s",
                "log",
                AGE_MS,
                view=lambda now=now: now,  # type: ignore[misc]
                control_plane=lambda: address,
                repaired=lambda _: None,
            )
            await reporter.report()
        assert asked.asked == []


async def test_a_report_that_was_not_heard_is_made_again() -> None:
    async with control_plane() as (asked, address):
        addresses = ["127.0.0.1:1", address]
        reporter = HintReporter(
            "s",
            "log",
            AGE_MS,
            view=view,
            control_plane=lambda: addresses[0],
            repaired=lambda _: None,
        )
        await reporter.report()
        addresses.reverse()
        await reporter.report()
        assert len(asked.asked) == 1
