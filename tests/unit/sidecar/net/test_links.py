"""Links as the coordinator sees them, over real sockets; and how a map entry comes through them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from buckets.bucket_map import Consistency
from replicas.link import Link
from sidecar.background.map_feed import FeedIdentity, MapFeed
from sidecar.core.health import Breaker
from sidecar.core.map_assembly import MapAssembly
from sidecar.net import links as links_module
from sidecar.net.links import Links
from tests.support.fake_cluster import FakeCluster
from tests.support.servers import Servers

pytestmark = pytest.mark.slow

DEADLINE_S = 10.0


async def until(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not ready():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def kept(cluster: FakeCluster) -> AsyncIterator[Links]:
    """The product's links, in the place of the simulated ones."""
    links = Links(cluster.sidecar.core, lambda entry: None)
    try:
        yield links
    finally:
        await links.close()


def cluster_on(port: int) -> FakeCluster:
    """A map of one node, at a port; nobody has adopted it yet."""
    cluster = FakeCluster(nodes=1, owners=(1,), with_map=False)
    cluster.change_node(1, port=port)
    return cluster


async def test_a_node_is_connected_lost_and_found_again_in_another_life(servers: Servers) -> None:
    valkey = servers.valkey()
    cluster = cluster_on(valkey.port)
    async with kept(cluster) as links:
        links.follow(*cluster.sidecar.core.adopt(cluster.map))
        peer = cluster.sidecar.core.peers[1]
        await until(lambda: peer.link is not None)
        first = peer.life
        assert len(first) == 20
        assert not peer.counts  # the map trusts another life
        cluster.change_node(1, run_id=first)
        cluster.sidecar.core.adopt(cluster.map)
        assert peer.health == "connected"
        valkey.kill()
        await until(lambda: peer.link is None)
        assert peer.health == "unreachable"
        assert peer.last_error
        await asyncio.to_thread(valkey.restart)
        await until(lambda: peer.link is not None)
        assert peer.life != first
        assert not peer.counts
        assert peer.explanation.startswith("restarted")


async def test_a_node_that_leaves_the_map_is_left(servers: Servers) -> None:
    valkey = servers.valkey()
    cluster = cluster_on(valkey.port)
    async with kept(cluster) as links:
        links.follow(*cluster.sidecar.core.adopt(cluster.map))
        peer = cluster.sidecar.core.peers[1]
        await until(lambda: peer.link is not None)
        empty = replace(cluster.map, nodes={}, keyspaces={})
        links.follow(*cluster.sidecar.core.adopt(empty))
        await until(lambda: peer.link is None)


async def test_a_node_that_can_not_be_reached_was_tried_and_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    cluster = cluster_on(port)
    async with kept(cluster) as links:
        links.follow(*cluster.sidecar.core.adopt(cluster.map))
        peer = cluster.sidecar.core.peers[1]
        assert not peer.tried
        await until(lambda: peer.tried)
        assert "no connection" in peer.last_error


async def test_a_frozen_node_is_left_and_the_reason_is_shown(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "FROZEN_AFTER_S", 0.3)
    monkeypatch.setattr(links_module, "CONNECT_TIMEOUT_S", 5.0)
    valkey = servers.valkey()
    cluster = cluster_on(valkey.port)
    async with kept(cluster) as links:
        links.follow(*cluster.sidecar.core.adopt(cluster.map))
        peer = cluster.sidecar.core.peers[1]
        await until(lambda: peer.link is not None)
        valkey.pause()
        try:
            await until(lambda: peer.link is None)
            assert "left requests unanswered for 0.3 s" in peer.last_error
        finally:
            valkey.resume()
        await until(lambda: peer.link is not None)


async def test_an_entry_that_a_replica_hands_out_reaches_the_map_and_the_waiting_read() -> None:
    """A refused read -> Links -> MapFeed -> coordinator: nothing else tells of the later epoch."""
    cluster = FakeCluster()
    core = cluster.sidecar.core
    feed = MapFeed(FeedIdentity("s", "test", "a"), [], cluster.sidecar.adopt)
    feed._assembly = assembly_of(cluster)
    links = Links(core, feed.learn)
    core.learner = links
    try:
        cluster.change()
        cluster.fence_raised(1, 2, 3)
        read, write = cluster.get(b"k", Consistency.ONE), cluster.put(b"other", b"v")
        cluster.flow()
        assert read.value is None
        assert write.op.error is None
        assert feed.state.source == "replica"
        assert feed.current is not None
        assert feed.current.keyspaces["default"].buckets[0].epoch == 2
    finally:
        await links.close()


async def test_an_entry_lost_on_its_way_is_asked_for_again() -> None:
    cluster = FakeCluster()
    core = cluster.sidecar.core
    learnt: list[bytes] = []
    links = Links(core, learnt.append)
    core.learner = links
    try:
        cluster.change()
        cluster.fence_raised(1, 2, 3)
        cluster.get(b"k", Consistency.ONE)
        link = next(link for link in cluster.sidecar.links.values() if link.commands)
        link.deliver()
        link.answer()
        assert link.commands  # the question for the entry
        link.cut()
        cluster.sidecar.connect(link.number)
        cluster.get(b"k", Consistency.ONE)
        cluster.flow()
        assert learnt
        assert set(learnt) == {cluster.entry()}
    finally:
        await links.close()


def assembly_of(cluster: FakeCluster) -> MapAssembly:
    """An assembly that holds the cluster's map, as after a start from disk."""
    assembly = MapAssembly("test")
    assembly.current = cluster.map
    return assembly


async def test_a_node_that_freezes_is_read_last_until_it_answers_its_probes_again(
    servers: Servers,
) -> None:
    valkey = servers.valkey()
    cluster = cluster_on(valkey.port)
    async with kept(cluster) as links:
        links.follow(*cluster.sidecar.core.adopt(cluster.map))
        peer = cluster.sidecar.core.peers[1]
        await until(lambda: peer.link is not None)
        age = cluster.sidecar.core.health_age
        valkey.pause()
        await until(lambda: peer.breaker.demoted)
        assert cluster.sidecar.core.counters.demotions == 1
        assert cluster.sidecar.core.health_age > age
        assert peer.link is not None
        valkey.resume()
        await until(lambda: not peer.breaker.demoted)


async def test_nobody_is_judged_by_what_is_unanswered_after_our_own_loop_stood_still(
    servers: Servers,
) -> None:
    valkey = servers.valkey()
    cluster = cluster_on(valkey.port)
    async with kept(cluster) as links:
        links.follow(*cluster.sidecar.core.adopt(cluster.map))
        peer = cluster.sidecar.core.peers[1]
        await until(lambda: peer.link is not None)
        valkey.pause()
        await until(lambda: isinstance(peer.link, Link) and peer.link.in_flight)
        await asyncio.sleep(0)  # it is written
        peer.breaker = Breaker()
        later = asyncio.get_running_loop().time() + 1.0
        found = []
        for look_at in (later, later + links_module.WATCH_INTERVAL_S):
            links._watch(look_at)
            found.append(peer.breaker.demoted)
        assert found == [False, True]
        valkey.resume()


async def test_a_node_that_mostly_fails_is_read_last(servers: Servers) -> None:
    valkey = servers.valkey()
    cluster = cluster_on(valkey.port)
    async with kept(cluster) as links:
        links.follow(*cluster.sidecar.core.adopt(cluster.map))
        peer = cluster.sidecar.core.peers[1]
        await until(lambda: peer.link is not None)
        peer.reads += 10
        peer.errors += 10
        await until(lambda: peer.breaker.demoted)
