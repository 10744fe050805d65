"""The Redis door's turns: one flood leaves room for others, and so do many."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from sidecar.net.resp_door import RespConnection, RespDoor
from sidecar.redis import replies
from sidecar.redis.session import LONG_TURN_S
from sidecar.redis.slices import SLICE_BYTES
from sidecar.rights import parse_rights
from tests.support.conversation import Clock, Stopwatch, packed
from tests.support.memory_coordinator import MemoryCoordinator

PONG = b"+PONG\r\n"
COMMAND_S = LONG_TURN_S / 40


class Client:
    """A transport that counts what it is given, and whether it is read."""

    def __init__(self, door: RespDoor) -> None:
        self.pongs = 0
        self.reading = True
        self.connection = RespConnection(door)
        self.connection.connection_made(cast(asyncio.Transport, self))

    def send(self, data: bytes) -> None:
        assert self.reading
        self.connection.data_received(data)

    def write(self, data: bytes) -> None:
        self.pongs += data.count(PONG)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("127.0.0.1", 5000) if name in ("peername", "sockname") else None

    def close(self) -> None:
        pass


@pytest.fixture
def connect() -> Callable[[], Client]:
    """Clients of one door, for which each command takes a fortieth of a turn."""
    clock = Clock()
    coordinator = MemoryCoordinator({0: "default"}, clock)
    doors: list[RespDoor] = []

    def connected() -> Client:
        if not doors:
            doors.append(RespDoor(coordinator, clock=clock, stopwatch=Stopwatch(COMMAND_S)))
        return Client(doors[0])

    return connected


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def read_again(*clients: Client) -> None:
    """Returns when all that they sent has been answered."""
    while not all(client.reading for client in clients):
        await asyncio.sleep(0)
    await turns(2)  # what is due is sent


async def most_in_a_turn(client: Client, of_turns: int) -> int:
    """Commands of `client` that are answered in one turn of the loop, at most."""
    most = 0
    for _ in range(of_turns):
        before = client.pongs
        await asyncio.sleep(0)
        most = max(most, client.pongs - before)
    return most


async def test_a_flood_is_not_read_until_it_is_worked_off(connect: Callable[[], Client]) -> None:
    client = connect()
    client.send(packed("PING") * 3_000)
    assert not client.reading
    assert await most_in_a_turn(client, 20) <= 42
    await read_again(client)
    assert client.pongs == 3_000
    client.send(packed("PING"))
    await turns(1)
    assert client.pongs == 3_001


@pytest.mark.parametrize(
    "data",
    [b"*1\r\n$900000\r\n" + b"x" * 800_000, packed("ECHO", b"e" * (SLICE_BYTES - 100)) * 100],
    ids=["half a command", "a command a slice"],
)
async def test_who_sends_more_than_is_parsed_in_a_turn_is_not_read(
    connect: Callable[[], Client], data: bytes
) -> None:
    client = connect()
    client.send(packed("PING") * 2)
    await turns(1)
    client.send(data)
    assert not client.reading
    await read_again(client)


async def test_many_floods_share_what_one_may_take(connect: Callable[[], Client]) -> None:
    crowd = [connect() for _ in range(8)]
    for client in crowd:
        client.send(packed("PING") * 3_000)
    await turns(3)
    assert 0 < await most_in_a_turn(crowd[0], 10) <= 7
    await read_again(*crowd)
    assert [client.pongs for client in crowd] == [3_000] * 8
    crowd[0].send(packed("PING") * 3_000)
    assert await most_in_a_turn(crowd[0], 1) > 20, "alone again"


async def test_a_half_command_in_later_slices_is_accounted_for(
    connect: Callable[[], Client],
) -> None:
    client = connect()
    client.send(packed("PING") * 3_000 + b"*1\r\n$100000\r\n" + b"x" * 90_000)
    await read_again(client)
    session = client.connection.session
    assert session is not None
    assert session.held_bytes >= 90_000
    client.send(b"x" * 10_000 + b"\r\n")
    await read_again(client)
    assert session.held_bytes == 0


async def test_what_a_client_guessed_is_forgotten_when_it_is_gone() -> None:
    clock = Clock()
    rights = parse_rights({"applications": []}, lambda _name: 0)
    client = Client(RespDoor(MemoryCoordinator({0: "default"}, clock), clock=clock, rights=rights))
    session = client.connection.session
    assert session is not None
    for _ in range(4):
        client.send(packed("AUTH", "x"))
    client.connection.connection_lost(None)
    assert session.door.permits.authenticate(session, None, b"x") == replies.WRONG_TOKEN
