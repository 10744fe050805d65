"""The loss of power that probes simulate is one: what was not synced is gone, the rest is there."""

from pathlib import Path

import pytest
import redis

from tests.support.local_cluster import wait_until
from tests.support.power_loss import PowerLoss, power_loss
from tests.support.servers import Server, Servers

pytestmark = [pytest.mark.slow, pytest.mark.peers]

KEYS = 100


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PowerLoss:
    folder = tmp_path / "power"
    folder.mkdir()
    return power_loss(folder, monkeypatch)


def kept_server(servers: Servers, fsync: str) -> Server:
    return servers.valkey("--appendonly", "yes", "--appendfsync", fsync)


def write(server: Server, first: int = 0) -> None:
    with redis.Redis(port=server.port) as client:
        for number in range(first, first + KEYS):
            client.set(f"key-{number}", number)


def after_power_loss(server: Server, power: PowerLoss) -> int:
    """How many keys it has when it is back."""
    server.kill()
    power.lose(server.folder)
    server.restart()
    with redis.Redis(port=server.port) as client:
        return int(client.dbsize())


def all_durable(server: Server, power: PowerLoss) -> bool:
    logs = list(server.folder.rglob("*.incr.aof"))
    return bool(logs) and all(power.durable_bytes(log) == log.stat().st_size > 0 for log in logs)


def test_with_fsync_always_nothing_acknowledged_is_gone(servers: Servers, power: PowerLoss) -> None:
    server = kept_server(servers, "always")
    write(server)
    assert after_power_loss(server, power) == KEYS
    write(server, KEYS)  # into a log that was cut
    assert after_power_loss(server, power) == 2 * KEYS


def test_without_fsync_everything_is_gone(servers: Servers, power: PowerLoss) -> None:
    server = kept_server(servers, "no")
    write(server)
    assert after_power_loss(server, power) == 0


def test_with_fsync_every_second_what_is_older_than_that_is_there(
    servers: Servers, power: PowerLoss
) -> None:
    server = kept_server(servers, "everysec")
    write(server)
    wait_until(lambda: all_durable(server, power), "the second is over")
    write(server, KEYS)
    assert KEYS <= after_power_loss(server, power) <= 2 * KEYS
