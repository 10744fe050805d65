"""The loader: loads every city, verifies each, then reads them as often as people live there.

    python -m control_plane.dev.load_cities PLAN

A process of its own, since the data set takes 380 MB. PLAN is a LoadPlan as JSON; events come out
on standard output, one JSON object a line, the last one `Finished`.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import orjson
import uvloop

from control_plane.dev import grpc_load, redis_load
from control_plane.dev.cities import Popularity, Record, read_cities
from control_plane.dev.load_report import (
    Doors,
    Finished,
    LoadEvent,
    LoadPlan,
    LoadReport,
    Progress,
    Seconds,
    max_over_mean,
    node_reads,
    zone_reads,
)
from control_plane.dev.load_tally import Tally
from control_plane.dev.sidecar_admin import node_counters

_EVENT_EVERY_S = 0.2
# Closed loops: this many reads are under way at any time. Python's own gRPC client takes more
# processor time than the whole sidecar, so the figures are a floor of what the doors can do.
_GRPC_CONNECTIONS, _GRPC_STREAMS = 2, 16
_REDIS_CONNECTIONS = 16

Emit = Callable[[LoadEvent], None]


def _print_event(event: LoadEvent) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


class _Phase:
    """Times one phase and tells of its progress, not more often than somebody can read."""

    def __init__(self, name: str, total: float, emit: Emit) -> None:
        self._name = name
        self._total = total
        self._emit = emit
        self._next = 0.0
        self.started = time.perf_counter()
        emit(Progress(name, 0, total))

    def at(self, done: float) -> None:
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + _EVENT_EVERY_S
            self._emit(Progress(self._name, done, self._total))

    def end(self) -> float:
        """Seconds since it began."""
        self._emit(Progress(self._name, self._total, self._total))
        return round(time.perf_counter() - self.started, 3)


async def load(plan: LoadPlan, records: Sequence[Record], emit: Emit) -> Finished:
    """All three phases, one after the other."""
    phase = _Phase("load", len(records), emit)
    written = await grpc_load.write_records(plan.grpc, plan.keyspace, records, phase.at)
    load_s = phase.end()
    phase = _Phase("verify", len(records), emit)
    verified = await redis_load.verify_records(plan.redis, plan.redis_db, records, phase.at)
    verify_s = phase.end()
    before = await asyncio.to_thread(node_counters, plan.admin)
    phase = _Phase("read", plan.run_s, emit)
    by_grpc, by_redis = await _read(plan, records, phase)
    run_s = phase.end()
    nodes = node_reads(before, await asyncio.to_thread(node_counters, plan.admin))
    tallies = (written, verified, by_grpc, by_redis)
    report = LoadReport(
        records_loaded=written.done,
        records_verified=verified.done,
        mismatches=sum(tally.mismatches for tally in tallies),
        errors=sum(tally.errors for tally in tallies),
        doors=Doors(grpc=by_grpc.door_report(run_s), redis=by_redis.door_report(run_s)),
        nodes=nodes,
        zones=zone_reads(nodes),
        max_over_mean=max_over_mean(nodes),
        seconds=Seconds(load=load_s, verify=verify_s, run=run_s),
        ready_seconds=plan.ready_seconds,
        sidecar_rss_bytes=_resident_bytes(plan.sidecar_pid),
    )
    return Finished(
        report,
        records_expected=len(records),
        retries=sum(tally.retries for tally in tallies),
        first_errors=[text for tally in tallies for text in tally.first_errors],
    )


async def _read(plan: LoadPlan, records: Sequence[Record], phase: _Phase) -> tuple[Tally, Tally]:
    """Both doors at the same time, each with its own draws."""
    by_grpc, by_redis = Tally(), Tally()
    until = time.perf_counter() + plan.run_s
    ticker = asyncio.ensure_future(_tick(until, phase.started, phase.at))
    await asyncio.gather(
        grpc_load.read_popular(
            plan.grpc,
            plan.keyspace,
            Popularity(records, plan.seed),
            until=until,
            tally=by_grpc,
            connections=_GRPC_CONNECTIONS,
            streams=_GRPC_STREAMS,
        ),
        redis_load.read_popular(
            plan.redis,
            plan.redis_db,
            Popularity(records, plan.seed + 1),
            until=until,
            tally=by_redis,
            connections=_REDIS_CONNECTIONS,
        ),
    )
    await ticker
    return by_grpc, by_redis


async def _tick(until: float, started: float, at: Callable[[float], None]) -> None:
    while (now := time.perf_counter()) < until:
        at(now - started)
        await asyncio.sleep(min(_EVENT_EVERY_S, until - now))


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0]) * 1024
    return 0


def main() -> None:
    """What `dabba dev --load cities` starts."""
    plan = msgspec.convert(orjson.loads(sys.argv[1]), LoadPlan)
    _print_event(Progress("prepare", 0, 1))
    records = read_cities()
    _print_event(Progress("prepare", 1, 1))
    _print_event(uvloop.run(load(plan, records, _print_event)))


if __name__ == "__main__":
    main()
