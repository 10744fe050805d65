"""The link against real servers, and against peers that do what no server should."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hiredis import ReplyError

from replicas.commands import PING, pack_command
from replicas.errors import (
    AuthenticationFailed,
    Evicting,
    LinkFull,
    LinkLost,
    NotAReplicaServer,
    NotMaster,
    Unreachable,
)
from replicas.link import EARLY_COMMANDS, Link, ask, open_link
from tests.support.servers import Server, Servers, free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Heard:
    """A sink that keeps what it hears, and can be waited for."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, object]] = []
        self.lost: list[tuple[int, bool]] = []
        self._changed = asyncio.Event()

    def on_reply(self, slot: int, reply: object, link: Link) -> None:
        self.replies.append((slot, reply))
        self._changed.set()

    def on_lost(self, slot: int, sent: bool, link: Link) -> None:
        self.lost.append((slot, sent))
        self._changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.replies) + len(self.lost) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def link(valkey: Server) -> AsyncIterator[Link]:
    opened = await open_link(valkey.host, valkey.port, timeout_s=5)
    yield opened
    await closed(opened)


async def closed(link: Link) -> None:
    """Close, and wait until the loop has told everybody."""
    done = asyncio.Event()
    if link.closed and link.in_flight == 0:
        return
    link.on_closed = lambda _link: done.set()
    link.close()
    async with asyncio.timeout(5):
        await done.wait()


@pytest.fixture
async def peer() -> AsyncIterator[Callable[[Serve], Awaitable[int]]]:
    """Starts a peer that does with a connection whatever the test says; returns its port."""
    started: list[asyncio.Server] = []

    async def start(serve: Serve) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        started.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    yield start
    for server in started:
        server.close()


async def bare_link(port: int, **bounds: int) -> Link:
    """A link without the questions of open_link."""
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(lambda: Link("peer", **bounds), "127.0.0.1", port)
    return made


async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass


# --- a good server


async def test_replies_come_in_order_to_their_slots(link: Link) -> None:
    heard = Heard()
    for slot in range(100):
        assert link.send(pack_command(b"ECHO", b"%d" % slot), heard, slot)
    assert link.in_flight == 100
    await heard.until(100)
    assert heard.replies == [(slot, b"%d" % slot) for slot in range(100)]
    assert link.in_flight == 0


async def test_a_full_load_of_commands_leaves_before_the_turn_ends(link: Link) -> None:
    heard = Heard()
    for slot in range(EARLY_COMMANDS - 1):
        assert link.send(pack_command(b"ECHO", b"%d" % slot), heard, slot)
    assert link.oldest_sent_at == math.inf
    assert link.send(pack_command(b"ECHO", b"last"), heard, EARLY_COMMANDS - 1)
    assert link.oldest_sent_at < math.inf
    assert link.send(pack_command(b"ECHO", b"next"), heard, EARLY_COMMANDS)
    await heard.until(EARLY_COMMANDS + 1)
    assert [slot for slot, _ in heard.replies] == [*range(EARLY_COMMANDS + 1)]


async def test_what_left_before_the_turn_ended_is_lost_as_sent(link: Link) -> None:
    heard = Heard()
    for slot in range(EARLY_COMMANDS + 1):
        assert link.send(pack_command(b"ECHO", b"%d" % slot), heard, slot)
    await closed(link)
    assert heard.lost == [(slot, slot < EARLY_COMMANDS) for slot in range(EARLY_COMMANDS + 1)]


async def test_an_error_is_a_value_and_the_link_goes_on(link: Link) -> None:
    replies = await ask(link, [pack_command(b"HGET", b"k"), PING])
    assert isinstance(replies[0], ReplyError)
    assert replies[1] == b"PONG"


async def test_a_sink_may_send_from_within_its_reply(link: Link) -> None:
    class Chain(Heard):
        def on_reply(self, slot: int, reply: object, link: Link) -> None:
            super().on_reply(slot, reply, link)
            if slot:
                assert link.send(PING, self, slot - 1)

    chain = Chain()
    assert link.send(PING, chain, 5)
    await chain.until(6)
    assert [slot for slot, _ in chain.replies] == [5, 4, 3, 2, 1, 0]


async def test_who_answers_is_known(link: Link, valkey: Server) -> None:
    assert link.identity.server == "valkey"
    assert len(link.identity.run_id) == 20
    assert abs(link.identity.clock_offset_ms) < 1000
    assert link.identity.warnings == ()


async def test_a_restart_ends_the_link_and_the_next_one_sees_another_life(
    link: Link, valkey: Server
) -> None:
    heard = Heard()
    valkey.pause()
    assert link.send(PING, heard, 0)
    await asyncio.sleep(0)  # leaves
    await asyncio.sleep(0)
    valkey.kill()
    await heard.until(1)
    assert heard.lost == [(0, True)]
    assert link.closed
    valkey.restart()
    other = await open_link(valkey.host, valkey.port, timeout_s=5)
    assert other.identity.run_id != link.identity.run_id
    await closed(other)


async def test_a_server_that_forgot_the_scripts_ends_the_link(link: Link) -> None:
    heard = Heard()
    assert link.send(pack_command(b"EVALSHA", b"0" * 40, b"0"), heard, 1)
    assert link.send(PING, heard, 2)
    await heard.until(2)
    [(slot, reply)] = heard.replies
    assert slot == 1
    assert str(reply).startswith("NOSCRIPT")
    assert heard.lost == [(2, True)]
    assert "forgotten" in link.reason


async def test_the_oldest_unanswered_command_shows_a_frozen_server(
    link: Link, valkey: Server
) -> None:
    loop = asyncio.get_running_loop()
    assert link.oldest_sent_at == math.inf
    heard = Heard()
    valkey.pause()
    before = loop.time()
    link.send(PING, heard, 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first = link.oldest_sent_at
    assert before <= first <= loop.time()
    link.send(PING, heard, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert link.oldest_sent_at == first
    valkey.resume()
    await heard.until(2)
    assert link.oldest_sent_at == math.inf


# --- the end of a link


async def test_each_waiting_sink_hears_of_the_loss_once_and_what_was_not_sent(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    link = await bare_link(await peer(never_answers))
    heard = Heard()
    ended: list[Link] = []
    link.on_closed = ended.append
    assert link.send(PING, heard, 0)
    await asyncio.sleep(0)  # leaves
    await asyncio.sleep(0)
    assert link.send(PING, heard, 1)
    assert link.send(PING, heard, 2)
    link.close()
    await heard.until(3)
    assert heard.lost == [(0, True), (1, False), (2, False)]
    assert ended == [link]
    assert not link.send(PING, heard, 3)
    link.close()
    await asyncio.sleep(0)
    assert len(heard.lost) == 3
    assert link.in_flight == 0


async def test_what_the_peer_closes_is_lost_after_it_was_sent(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    link = await bare_link(await peer(hangs_up))
    heard = Heard()
    link.send(PING, heard, 0)
    await heard.until(1)
    assert heard.lost == [(0, True)]
    assert link.reason


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+one\r\n+two\r\n"])
async def test_a_peer_that_speaks_otherwise_ends_the_link(
    peer: Callable[[Serve], Awaitable[int]], noise: bytes
) -> None:
    async def speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(noise)
        await never_answers(reader, writer)

    link = await bare_link(await peer(speaks))
    done = asyncio.Event()
    link.on_closed = lambda _link: done.set()
    heard = Heard()
    link.send(PING, heard, 0)
    async with asyncio.timeout(5):
        await done.wait()
    assert len(heard.replies) + len(heard.lost) == 1
    assert "Redis protocol" in link.reason or "nothing asked for" in link.reason


# --- bounds


async def test_above_its_bound_of_commands_a_link_takes_no_more(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    link = await bare_link(await peer(never_answers), max_in_flight=3)
    heard = Heard()
    assert [link.send(PING, heard, slot) for slot in range(4)] == [True, True, True, False]
    await closed(link)
    assert [slot for slot, _ in heard.lost] == [0, 1, 2]


async def test_asking_more_than_a_link_takes_is_an_error(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    link = await bare_link(await peer(never_answers), max_in_flight=1)
    with pytest.raises(LinkFull, match="Send less"):
        await ask(link, [PING, PING])
    await closed(link)


async def test_above_its_bound_of_bytes_a_link_takes_no_more_until_the_peer_reads(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    reading = asyncio.Event()

    async def reads_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reading.wait()
        await never_answers(reader, writer)

    link = await bare_link(await peer(reads_late), max_buffer_bytes=1 << 20)
    heard = Heard()
    big = pack_command(b"ECHO", bytes(1 << 19))
    sent = 0
    async with asyncio.timeout(10):
        # What the sockets take is beyond our bound; afterwards the link itself fills up.
        while link.send(big, heard, 0):
            sent += 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert sent < 200
        reading.set()
        while not link.send(PING, heard, 0):
            await asyncio.sleep(0.001)
    await closed(link)
    assert len(heard.lost) == sent + 1


async def test_one_turn_of_the_loop_can_not_cork_more_than_the_bound(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    link = await bare_link(await peer(never_answers), max_buffer_bytes=1000)
    heard = Heard()
    command = pack_command(b"ECHO", bytes(480))
    taken = [link.send(command, heard, slot) for slot in range(4)]
    assert taken == [True, True, False, False]
    await closed(link)


# --- who is not a replica server


async def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="no connection"):
        await open_link("127.0.0.1", free_port(), timeout_s=5)


async def test_a_silent_peer_is_unreachable_in_time(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    port = await peer(never_answers)
    with pytest.raises(Unreachable, match=r"within 0\.05 s"):
        await open_link("127.0.0.1", port, timeout_s=0.05)


async def test_a_web_server_is_not_a_replica_server(
    peer: Callable[[Serve], Awaitable[int]],
) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await never_answers(reader, writer)

    port = await peer(web)
    with pytest.raises(NotAReplicaServer, match="does not speak the Redis protocol"):
        await open_link("127.0.0.1", port, timeout_s=5)


async def test_an_evicting_server_is_refused_with_the_command_that_mends_it(
    servers: Servers,
) -> None:
    server = servers.valkey("--maxmemory-policy", "allkeys-lru")
    with pytest.raises(Evicting, match="CONFIG SET maxmemory-policy noeviction"):
        await open_link(server.host, server.port, timeout_s=5)


async def test_a_replica_of_another_server_is_refused(servers: Servers, valkey: Server) -> None:
    server = servers.valkey("--replicaof", f"{valkey.host} {valkey.port}")
    with pytest.raises(NotMaster, match="REPLICAOF NO ONE"):
        await open_link(server.host, server.port, timeout_s=5)


async def test_a_cluster_server_is_refused(servers: Servers) -> None:
    server = servers.valkey("--cluster-enabled", "yes")
    with pytest.raises(NotMaster, match="Cluster"):
        await open_link(server.host, server.port, timeout_s=5)


async def test_a_password_is_asked_for_and_used(valkey: Server) -> None:
    link = await open_link(valkey.host, valkey.port, timeout_s=5)
    await ask(link, [pack_command(b"CONFIG", b"SET", b"requirepass", b"secret")])
    await closed(link)
    for wrong in (None, "wrong"):
        with pytest.raises(AuthenticationFailed):
            await open_link(valkey.host, valkey.port, timeout_s=5, password=wrong)
    again = await open_link(valkey.host, valkey.port, timeout_s=5, password="secret")
    assert await ask(again, [PING]) == [b"PONG"]
    await closed(again)


@pytest.mark.peers
async def test_debians_redis_is_a_replica_server(redis_server: Server) -> None:
    link = await open_link(redis_server.host, redis_server.port, timeout_s=5)
    assert link.identity.server == "redis"
    assert link.identity.version >= (6, 2)
    await closed(link)


async def test_asking_a_lost_link_is_an_error_not_a_wait(link: Link) -> None:
    await closed(link)
    with pytest.raises(LinkLost, match="closed by us"):
        await ask(link, [PING])
