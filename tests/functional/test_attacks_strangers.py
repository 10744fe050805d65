"""Clients of the Redis door whom nobody knows, at a running sidecar with rights and few seats."""

import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle

import orjson
import pytest
import trustme

from tests.support.attacked import ANSWER_TIMEOUT_S, Talk, Target, until_closed
from tests.support.conversation import packed
from tests.support.local_cluster import (
    LocalCluster,
    local_cluster,
    second_sidecar,
    wait_until,
)
from tests.support.rights import token_of, write_rights

pytestmark = pytest.mark.slow

SEATS = 8
PATIENCE_MS = 2_000
TOO_LATE = b"-NOAUTH Authentication required within 2000 ms: the connection is closed."
GRANTED = {"both": {"default": ["read", "write"]}, "nothing": {}, "local": {"default": ["read"]}}


@dataclass
class Door:
    """The sidecar under attack, and its Unix socket."""

    target: Target
    socket: str

    def client(self, name: str = "both") -> Talk:
        talk = self.target.redis()
        assert talk.ask("AUTH", name, token_of(name)) == b"+OK"
        return talk

    def stat(self, name: str) -> int:
        return self.target.stat(name, "redis")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


def start(cluster: LocalCluster, number: int, **settings: object) -> Target:
    """A sidecar with rights that waits two seconds for AUTH."""
    rights = cluster.folder / f"rights-{number}.json"
    write_rights(rights, GRANTED, local={"unix_users": [os.getuid()]})
    part = second_sidecar(
        cluster,
        "a",
        number,
        rights_file=str(rights),
        max_connections=SEATS,
        auth_timeout_ms=PATIENCE_MS,
        grpc="127.0.0.1:0",
        redis="127.0.0.1:0",
        admin="127.0.0.1:0",
        **settings,
    )
    bound = orjson.loads((cluster.folder / f"sidecar-{number}" / "ports.json").read_bytes())
    grpc_port, redis_port = (int(bound[door].rpartition(":")[2]) for door in ("grpc", "redis"))
    return Target(part.pid, grpc_port, redis_port, bound["admin"])


@pytest.fixture(scope="module")
def door(cluster: LocalCluster) -> Door:
    path = str(cluster.folder / "r")
    started = Door(start(cluster, 2, redis_socket=path), path)

    def serves() -> bool:
        with started.client() as talk:
            return (talk.ask("GET", "k") or b"")[:1] != b"-"

    wait_until(serves, "a sidecar with rights serves")
    return started


@dataclass
class Stranger:
    """Says the same over and over until it is let go."""

    sock: socket.socket
    says: bytes
    heard: bytes = b""
    gone: bool = False

    def go_on(self) -> None:
        self.sock.settimeout(0.02)
        try:
            self.sock.sendall(self.says)
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            return
        except ConnectionError:
            data = b""
        self.heard += data
        self.gone = not data


def let_go(strangers: list[Stranger]) -> bool:
    for stranger in strangers:
        if not stranger.gone:
            stranger.go_on()
    return all(stranger.gone for stranger in strangers)


def crowd(door: Door, stack: ExitStack) -> list[Stranger]:
    """Strangers on all seats: one more is told that there is none."""
    seated: list[Stranger] = []
    for says in cycle((b"", packed("PING"), packed("RESET"), b"a drop in the ocean")):
        talk = stack.enter_context(door.target.redis())
        if (talk.ask("PING") or b"") == b"-ERR max number of clients reached":
            return seated
        seated.append(Stranger(talk.socket, says))
        if says[:1] == b"a":
            talk.socket.sendall(b"*2\r\n$4\r\nAUTH\r\n$16000\r\n")
    raise AssertionError("unreachable")


def test_seats_are_not_held_by_who_does_not_say_who_it_is(door: Door) -> None:
    before = door.stat("closed_unauthenticated")
    with (
        door.client() as known,
        door.client("nothing") as powerless,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local,
        ExitStack() as stack,
    ):
        local.connect(door.socket)
        strangers = crowd(door, stack)
        wait_until(lambda: let_go(strangers), "all strangers are let go")
        for silent in (stranger for stranger in strangers if not stranger.says):
            assert silent.heard.startswith(TOO_LATE)
        assert door.stat("closed_unauthenticated") == before + len(strangers)
        with door.client() as next_one:
            assert next_one.ask("SET", "seat", "mine") == b"+OK"
        # Who said so in time, or need not, was here all the while, and stays.
        assert known.ask("GET", "seat") == b"mine"
        assert powerless.ask("PING") == b"+PONG"
        local.settimeout(ANSWER_TIMEOUT_S)
        local.sendall(packed("GET", "seat"))
        assert local.recv(100) == b"$4\r\nmine\r\n"


def test_who_was_known_and_resets_has_the_whole_time_again(door: Door) -> None:
    with door.client() as returns, door.client() as stays_away:
        began = time.monotonic()
        for talk in (returns, stays_away):
            assert talk.ask("RESET") == b"+RESET"
        assert returns.ask("AUTH", "both", token_of("both")) == b"+OK"
        assert until_closed(stays_away.socket).startswith(TOO_LATE)
        assert time.monotonic() - began >= PATIENCE_MS / 1000
        assert returns.ask("PING") == b"+PONG"


@pytest.mark.parametrize(
    "guess", [("AUTH", "both"), ("AUTH",), ("HELLO", "3", "AUTH", "both")], ids=str
)
def test_who_guesses_tokens_is_told_so_and_let_go(door: Door, guess: tuple[str, ...]) -> None:
    before = door.stat("closed_wrong_tokens"), door.stat("calls_connection")
    with door.target.redis() as talk:
        talk.socket.sendall(b"".join(packed(*guess, f"guess-{number}") for number in range(100)))
        heard = until_closed(talk.socket)
    assert heard.count(b"-WRONGPASS ") == heard.count(b"\r\n") == 5
    assert heard.endswith(b"disabled. So were those before: the connection is closed\r\n")
    assert (door.stat("closed_wrong_tokens"), door.stat("calls_connection")) == (
        before[0] + 1,
        before[1] + 5,
    )


def test_a_stranger_who_reads_no_farewell_over_tls_is_gone_too(cluster: LocalCluster) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    key, chain = cluster.folder / "key.pem", cluster.folder / "chain.pem"
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(chain))
    target = start(cluster, 3, tls_cert=str(chain), tls_key=str(key))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with (
        socket.create_connection(("127.0.0.1", target.redis_port)) as sock,
        trusting.wrap_socket(sock, server_hostname="127.0.0.1"),
    ):
        wait_until(lambda: target.stat("closed_unauthenticated", "redis") == 1, "it is told")
        wait_until(lambda: target.stat("connections", "redis") == 0, "its seat is free")
