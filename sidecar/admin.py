"""The admin door: HTTP on loopback, as Envoy's users know it. GET never changes anything."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from buckets.bucket_map import Bucket, BucketMap, Owner
from sidecar.config import SidecarConfig
from sidecar.hint_stats import hints_page
from sidecar.metrics import prometheus_text
from sidecar.stats import WorkerStats
from sidecar.workers import Repaired


@dataclass(frozen=True, slots=True)
class AdminSource:
    """What the admin door shows, asked anew for every request."""

    config: SidecarConfig
    addresses: Callable[[], dict[str, str]]
    ready: Callable[[], str]  # empty: ready
    stats: Callable[[], WorkerStats]  # summed over the workers
    bucket_map: Callable[[], BucketMap | None]
    feed: Callable[[], dict[str, Any]]  # how the map gets here, and how old it is
    repaired: Callable[[Repaired], None]
    drain: Callable[[], Awaitable[None]]
    quit: Callable[[], None]


class Json(Response):
    """orjson, indented: people look at it with curl."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The body's bytes."""
        return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def admin_app(source: AdminSource) -> Starlette:
    """The application; serve it on loopback only."""
    pages = _Pages(source)
    return Starlette(
        routes=[
            Route("/", pages.index),
            Route("/ready", pages.ready),
            Route("/live", pages.live),
            Route("/stats", pages.stats),
            Route("/stats/prometheus", pages.prometheus),
            Route("/config_dump", pages.config_dump),
            Route("/map", pages.map),
            Route("/nodes", pages.nodes),
            Route("/hints", pages.hints),
            Route("/hints/repaired", pages.repaired, methods=["POST"]),
            Route("/drain", pages.drain, methods=["POST"]),
            Route("/quitquitquit", pages.quit, methods=["POST"]),
        ]
    )


class _Pages:
    def __init__(self, source: AdminSource) -> None:
        self._source = source
        self._draining: asyncio.Future[None] | None = None

    async def index(self, request: Request) -> Response:
        pages = "/ready /live /stats /stats/prometheus /config_dump /map /nodes /hints"
        return PlainTextResponse(f"GET {pages}\nPOST /hints/repaired /drain /quitquitquit\n")

    async def ready(self, request: Request) -> Response:
        missing = self._source.ready()
        if missing:
            return PlainTextResponse(f"not ready: {missing}\n", status_code=503)
        stats = self._source.stats()
        hints = stats.hints
        lines = ["ready"]
        if hints.state != "on":  # it serves; but what an owner misses now is found by repair alone
            lines.append(f"hints {hints.state}: {hints.problem}")
        if stats.clock.problem:
            lines.append(f"clock {stats.clock.state}: {stats.clock.problem}")
        if stats.tls_problem:
            lines.append(f"tls: {stats.tls_problem}")
        if stats.rights_problem:
            lines.append(f"rights: {stats.rights_problem}")
        return PlainTextResponse("\n".join(lines) + "\n")

    async def live(self, request: Request) -> Response:
        return PlainTextResponse("live\n")

    async def stats(self, request: Request) -> Response:
        return Json(msgspec.to_builtins(self._source.stats()))

    async def prometheus(self, request: Request) -> Response:
        text = prometheus_text(self._source.stats(), self._source.feed())
        return Response(text, media_type="text/plain; version=0.0.4")

    async def config_dump(self, request: Request) -> Response:
        config = msgspec.to_builtins(self._source.config)
        return Json({"config": config, "addresses": self._source.addresses()})

    async def map(self, request: Request) -> Response:
        bucket_map = self._source.bucket_map()
        shown = _map_view(bucket_map) if bucket_map is not None else None
        return Json({"feed": self._source.feed(), "map": shown})

    async def nodes(self, request: Request) -> Response:
        return Json(msgspec.to_builtins(self._source.stats().nodes))

    async def hints(self, request: Request) -> Response:
        now_ms = time.time_ns() // 1_000_000
        return Json(hints_page(self._source.stats().hints, self._source.bucket_map(), now_ms))

    async def repaired(self, request: Request) -> Response:
        query = request.query_params
        try:
            bucket = msgspec.convert(dict(query), Repaired, strict=False)
        except msgspec.ValidationError as error:
            text = f"{error}; POST /hints/repaired?keyspace=NAME&bucket=N&begun_ms=MS\n"
            return PlainTextResponse(text, status_code=400)
        self._source.repaired(bucket)
        return PlainTextResponse("marks from before the repair began are dropped\n")

    async def drain(self, request: Request) -> Response:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._source.drain())
        await asyncio.shield(self._draining)
        return PlainTextResponse("drained: the doors are closed; POST /quitquitquit or SIGTERM\n")

    async def quit(self, request: Request) -> Response:
        self._source.quit()
        return PlainTextResponse("stopping\n")


def _map_view(bucket_map: BucketMap) -> dict[str, Any]:
    nodes = bucket_map.nodes
    return {
        "cluster": bucket_map.cluster,
        "revision": bucket_map.revision,
        "nodes": [
            {
                "id": node.id,
                "address": node.address,
                "zone": node.zone,
                "rack": node.rack,
                "weight": node.weight,
                "incarnation": node.incarnation,
                "state": node.state.name,
                "reason": node.reason,
            }
            for node in nodes.values()
        ],
        "keyspaces": {
            name: {
                "settings": _settings_view(keyspace.settings),
                "buckets": [_bucket_view(bucket, bucket_map) for bucket in keyspace.buckets],
            }
            for name, keyspace in bucket_map.keyspaces.items()
        },
    }


def _settings_view(settings: Any) -> dict[str, Any]:
    return {
        name: value.name if hasattr(value := getattr(settings, name), "name") else value
        for name in type(settings).__dataclass_fields__
    }


def _bucket_view(bucket: Bucket, bucket_map: BucketMap) -> dict[str, Any]:
    def names(owners: tuple[Owner, ...]) -> list[str]:
        return [bucket_map.nodes[owner.node].id for owner in owners]

    view: dict[str, Any] = {
        "id": bucket.id,
        "epoch": bucket.epoch,
        "owners": names(bucket.owners),
    }
    if bucket.pending:
        view |= {"stage": bucket.stage.name, "pending": names(bucket.pending)}
    if bucket.read_replicas:
        view["read_replicas"] = names(bucket.read_replicas)
    return view
