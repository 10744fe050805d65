"""Hostile clients at the Redis door of a running sidecar.

Throughout it lives, takes bounded memory and processor time, and serves an honest client on both
doors; who attacks is told why and closed where nothing better can be done.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench import attacks_redis as hostile
from bench.attacks import Attack, connect
from tests.support.attacked import MIB, Target, until_closed
from tests.support.conversation import packed
from tests.support.local_cluster import LocalCluster, local_cluster

pytestmark = pytest.mark.slow

# Replies of one client: 64 MiB of one command, or unsent, in up to four copies while they are made.
REPLIES_BYTES = 320 * MIB


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def target(cluster: LocalCluster) -> Target:
    return Target.of(cluster).prepare()


def test_a_thousand_idle_clients_take_little_each(target: Target) -> None:
    with target.attacked(grows_bytes=1_000 * 32 * 1024) as bill:
        crowd = [connect(("127.0.0.1", target.redis_port)) for _ in range(1_000)]
        for sock in crowd:
            sock.sendall(packed("PING"))
        for sock in crowd:
            sock.settimeout(10)
            assert sock.recv(7) == b"+PONG\r\n"
        bill.work += 2 * len(crowd)
        for sock in crowd:
            sock.close()


def test_sizes_declared_by_hundreds_take_no_memory(target: Target) -> None:
    half = b"*32768\r\n$16777216\r\n"
    with target.attacked(grows_bytes=16 * MIB) as bill:
        crowd = [connect(("127.0.0.1", target.redis_port)) for _ in range(300)]
        for sock in crowd:
            sock.sendall(half)
        bill.work += len(crowd)
        for sock in crowd:
            sock.close()


@pytest.mark.parametrize(
    ("attack", "words"), hostile.REFUSED, ids=[attack.name for attack, _ in hostile.REFUSED]
)
def test_what_is_no_command_is_answered_by_an_error_and_closed(
    target: Target, attack: Attack, words: bytes
) -> None:
    with target.attacked() as bill:
        for _ in range(5):
            fought = target.fight_to_the_end(attack, target.redis_port, bill)
            assert fought.heard.startswith(b"-ERR Protocol error: " + words)
            assert fought.heard.count(b"\r\n") == 1


@pytest.mark.parametrize("attack", hostile.HTTP, ids=lambda attack: attack.name)
def test_who_speaks_http_is_hung_up_on_and_nothing_of_it_is_done(
    target: Target, attack: Attack
) -> None:
    with target.attacked() as bill:
        for _ in range(5):
            assert target.fight_to_the_end(attack, target.redis_port, bill).heard == b""


@pytest.mark.parametrize("attack", hostile.GRINDS, ids=lambda attack: attack.name)
def test_what_is_borne_costs_no_more_than_honest_work(target: Target, attack: Attack) -> None:
    with target.attacked(grows_bytes=48 * MIB if attack.reads else REPLIES_BYTES) as bill:
        fought = target.fight(attack, target.redis_port, bill, for_s=3)
        lines = fought.heard.split(b"\r\n")
        assert not any(line.startswith(b"-ERR\r") or line == b"+OK" for line in lines)


def test_half_commands_of_all_clients_together_are_bounded(target: Target) -> None:
    half = b"*2\r\n$3\r\nSET\r\n$16777216\r\n" + bytes(15 * MIB)
    with target.attacked(grows_bytes=400 * MIB) as bill:
        crowd = [connect(("127.0.0.1", target.redis_port)) for _ in range(20)]
        shed = 0
        for sock in crowd:
            sock.settimeout(10)
            try:
                sock.sendall(half)
            except (ConnectionResetError, BrokenPipeError):
                shed += 1
        bill.work += len(crowd) * len(half) // 1024
        assert shed, "300 MiB of half commands were taken in"
        for sock in crowd:
            sock.close()


def test_commands_that_come_byte_by_byte_cost_what_their_bytes_cost(target: Target) -> None:
    command = packed("ECHO", b"e" * 5_000)
    with target.attacked() as bill, connect(("127.0.0.1", target.redis_port)) as sock:
        sock.setsockopt(6, 1, 1)  # TCP_NODELAY
        for at in range(len(command)):
            sock.send(command[at : at + 1])
        bill.work += len(command)
        sock.settimeout(10)
        assert sock.recv(10_000).startswith(b"$5000\r\n")


def test_clients_that_do_not_read_are_let_go_before_their_replies_fill_memory(
    target: Target,
) -> None:
    asking = packed("ECHO", bytes(15 * MIB))
    with target.attacked(grows_bytes=450 * MIB) as bill, ExitStack() as stack:
        crowd = [stack.enter_context(connect(("127.0.0.1", target.redis_port))) for _ in range(40)]
        for sock in crowd:
            sock.settimeout(10)
            sock.sendall(asking)
        bill.work += len(crowd) * len(asking) // 1024
        answer = b"$%d\r\n" % (15 * MIB) + bytes(15 * MIB) + b"\r\n"
        whole = [until_closed(sock, len(answer)) == answer for sock in crowd]
        assert 15 <= sum(whole) < len(crowd)


def test_an_error_never_carries_a_line_of_the_clients(target: Target) -> None:
    evil = b"x\r\n+INJECTED\r\n$"
    with target.attacked() as bill, connect(("127.0.0.1", target.redis_port)) as sock:
        for command in (
            packed(evil),
            packed("GET", b"k", evil),
            packed("CLIENT", evil),
            packed("HELLO", "3", evil),
            packed("AUTH", evil, evil),
            packed("SET", b"k", b"v", evil),
            packed("SELECT", evil),
            packed("CLIENT", "SETNAME", evil),
            packed("DABBA.CONSISTENCY", evil),
            packed("GET", b"k" * 70_000 + evil),
        ):
            sock.sendall(command + packed("QUIET", b"."))
            bill.work += 2
        sock.sendall(packed("QUIT"))
        heard = until_closed(sock)
        assert b"\nINJECTED" not in heard
        assert b"\n+INJECTED" not in heard
        assert heard.count(b"\r\n") == 21
