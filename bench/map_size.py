"""What the map costs on the wire, and how long a change takes to reach everybody (C1, C2).

Sizes are those of the responses of a delta stream, envelopes included, of a cluster with a past: a
fifth of the buckets has moved (epochs differ), a tenth of the nodes has lived twice (incarnations
differ). The subscribers of C2 are real sidecar feeds over gRPC on loopback, all in one process of
their own, whose work (decoding, judging, answering) is part of the figure.
"""

import argparse
import asyncio
import dataclasses
import random
import sys
import time
from collections.abc import Sequence

import grpc

from bench.report import Figure, Report, publish
from buckets.bucket_map import Bucket, BucketMap, Keyspace, KeyspaceSettings, Owner
from buckets.codec import RANGE_TYPE, RESOURCE_TYPES, decode_range
from buckets.planner import plan
from buckets.topology import Node
from control_plane.xds.resources import Snapshot, difference, make_snapshot
from control_plane.xds.server import SERVER_OPTIONS, XdsService

CLUSTER = "production"
PATIENCE_S = 120.0


def large_map(buckets: int, nodes: int) -> BucketMap:
    """A map of three copies in three zones."""
    rng = random.Random(7)
    table = {
        number: Node(
            number,
            f"node-{number:03d}",
            f"10.0.{number >> 8}.{number & 255}",
            7000,
            f"zone-{number % 3}",
            rack=f"rack-{number % 20}",
            incarnation=1 + (number % 10 == 0),
            run_id=rng.randbytes(20),
        )
        for number in range(1, nodes + 1)
    }
    placed = tuple(
        Bucket(
            bucket,
            1 + rng.randrange(200) * (rng.random() < 0.2),
            tuple(Owner(number, table[number].incarnation) for number in owners),
        )
        for bucket, owners in plan(table.values(), range(buckets), 3).items()
    )
    settings = KeyspaceSettings("default", buckets)
    return BucketMap(CLUSTER, 1, table, {"default": Keyspace(settings, placed)})


def with_new_epoch(bucket_map: BucketMap, bucket_id: int) -> BucketMap:
    """The next revision, in which one bucket has a new epoch."""
    keyspace = bucket_map.keyspaces["default"]
    buckets = list(keyspace.buckets)
    buckets[bucket_id] = dataclasses.replace(buckets[bucket_id], epoch=buckets[bucket_id].epoch + 1)
    changed = Keyspace(keyspace.settings, tuple(buckets))
    revision = bucket_map.revision + 1
    return dataclasses.replace(bucket_map, revision=revision, keyspaces={"default": changed})


def whole_bytes(snapshot: Snapshot) -> int:
    """All resources as they are sent."""
    return sum(len(r.framed) for of_type in snapshot.types.values() for r in of_type.values())


def changed_bytes(old: Snapshot, new: Snapshot) -> int:
    """What differs, as it is sent."""
    return sum(
        len(new.of(type_url)[name].framed)
        for type_url, diff in difference(old, new).items()
        for name in diff.changed
    )


def measure_sizes(bucket_map: BucketMap) -> list[Figure]:
    """C1."""
    start = time.perf_counter()
    before = make_snapshot(bucket_map)
    encode_ms = (time.perf_counter() - start) * 1000
    after = make_snapshot(with_new_epoch(bucket_map, 5), before)
    ranges = before.of(RANGE_TYPE)
    start = time.perf_counter()
    for name, resource in ranges.items():
        decode_range(resource.value, name)
    decode_ms = (time.perf_counter() - start) * 1000
    kinds = [url.rpartition(".")[2] for url in RESOURCE_TYPES]
    parts = [sum(len(r.framed) for r in before.of(url).values()) for url in RESOURCE_TYPES]
    return [
        Figure("whole map", whole_bytes(before) / 1000, "KB", reach=160),
        Figure("one changed bucket", changed_bytes(before, after) / 1000, "KB", reach=1),
        *(Figure(f"part: {k}", size / 1000, "KB") for k, size in zip(kinds, parts, strict=True)),
        Figure("encode all", encode_ms, "ms"),
        Figure("decode all ranges", decode_ms, "ms"),
    ]


async def measure_spread(bucket_map: BucketMap, subscribers: int) -> list[Figure]:
    """C2: seconds until every subscriber has adopted a change, after all were synced."""
    # Before the server: gRPC and a fork afterwards do not go together.
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.map_subscribers", CLUSTER, str(subscribers),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if crowd.stdin is None:
        raise RuntimeError("the subscribers were started without a pipe")
    service = XdsService(lambda: time.time_ns() // 1_000_000)
    server = grpc.aio.server(options=list(SERVER_OPTIONS))
    service.register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    crowd.stdin.write(b"127.0.0.1:%d\n" % port)
    try:
        start_s = time.monotonic()
        service.publish(bucket_map)
        first_s = await _all_have(crowd) - start_s
        start_s = time.monotonic()
        service.publish(with_new_epoch(bucket_map, 5))
        change_s = await _all_have(crowd) - start_s
    finally:
        await crowd.communicate(b"")  # closes its standard input, which ends it
        await server.stop(None)
    return [
        Figure(f"first map to {subscribers} that start", first_s, "s"),
        Figure(f"a change to {subscribers}", change_s, "s", reach=1),
    ]


async def _all_have(crowd: asyncio.subprocess.Process) -> float:
    """When the last subscriber had the next revision, by the monotonic clock."""
    if crowd.stdout is None:
        raise RuntimeError("the subscribers were started without a pipe")
    async with asyncio.timeout(PATIENCE_S):
        line = await crowd.stdout.readline()
    return float(line.split()[1])


def main(arguments: Sequence[str]) -> int:
    """Runs with sizes from the command line; status 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench map", description=__doc__)
    parser.add_argument("--buckets", type=int, default=16_384)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument(
        "--subscribers", type=int, default=0, help="measure C2, too, with so many (0: do not)"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    chosen = parser.parse_args(arguments)
    figures = measure_sizes(large_map(chosen.buckets, chosen.nodes))
    if chosen.subscribers:
        # A small map, since one process decodes the copies of all subscribers.
        figures += asyncio.run(measure_spread(large_map(256, 9), chosen.subscribers))
    name = f"map: {chosen.buckets:,} buckets x 3 on {chosen.nodes} nodes"
    publish(Report(name, figures), chosen.json)
    return int(any(figure.reached is False for figure in figures))
