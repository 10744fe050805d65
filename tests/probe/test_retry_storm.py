"""One group of owners frozen under several times the load, by clients that repeat at once."""

import threading
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.local_cluster import LocalCluster, wait_until
from tests.support.processes import resident_bytes

pytestmark = [pytest.mark.slow, pytest.mark.probe]

STORMERS = 10  # each has as much under way, all the time, as the one client before the storm
PIPELINE = 200
STORM_S = 6.0
RECOVERED_WITHIN_S = 30.0
MAX_GROWTH_BYTES = 256 << 20


class Stormer:
    """Reads and writes keys in pipelines; what fails is repeated at once, for ever."""

    def __init__(self, cluster: LocalCluster, keys: list[str]) -> None:
        self._client = redis.Redis(
            port=cluster.redis_port, socket_timeout=20, retry=Retry(NoBackoff(), 0)
        )
        self._keys = keys
        self._stop = threading.Event()
        self.good_since = 0.0  # when it was last answered without an error, after an error
        self.failing = True
        self.crash: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def round(self) -> list[object]:
        """One pipeline's replies, errors among them."""
        pipe = self._client.pipeline(transaction=False)
        for number in range(PIPELINE):
            key = self._keys[number % len(self._keys)]
            if number % 4:
                pipe.get(key)
            else:
                pipe.set(key, "v")
        replies: list[object] = pipe.execute(raise_on_error=False)
        return replies

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                failed = any(isinstance(reply, Exception) for reply in self.round())
                if self.failing and not failed:
                    self.good_since = time.monotonic()
                self.failing = failed
        except BaseException as crash:  # noqa: BLE001  # raised again by who waits
            self.crash = crash

    def close(self) -> None:
        self._stop.set()
        if self.thread.is_alive():
            self.thread.join()
        self._client.close()


def keys_of(cluster: LocalCluster, dead: set[str], count: int) -> list[str]:
    """Keys of which the nodes in `dead` are a majority of the owners."""
    found = []
    for number in range(5_000):
        key = f"storm-{number}"
        if len(cluster.owners(key.encode()) & dead) >= 2:
            found.append(key)
            if len(found) == count:
                return found
    raise AssertionError("no such bucket")


@pytest.mark.fault(33)
def test_a_retry_storm_on_a_frozen_group_ends_soon_after_the_repair(cluster: LocalCluster) -> None:
    dead = cluster.nodes[0], cluster.nodes[1]
    keys = keys_of(cluster, {node.name for node in dead}, 20)
    stormers = [Stormer(cluster, keys) for _ in range(STORMERS)]
    assert not any(isinstance(reply, Exception) for reply in stormers[0].round())
    before_bytes = resident_bytes(cluster.sidecar.pid)
    try:
        for node in dead:
            node.pause()
        for stormer in stormers:
            stormer.thread.start()
        time.sleep(STORM_S)
        assert all(stormer.failing for stormer in stormers)
        peak_bytes = resident_bytes(cluster.sidecar.pid)
        repaired_at = time.monotonic()
        for node in dead:
            node.resume()
        wait_until(
            lambda: not any(stormer.failing for stormer in stormers),
            f"all are served again: {[stormer.crash for stormer in stormers]}",
            RECOVERED_WITHIN_S,
        )
        recovered_s = max(stormer.good_since for stormer in stormers) - repaired_at
        assert recovered_s < RECOVERED_WITHIN_S
        assert [stormer.crash for stormer in stormers] == [None] * STORMERS
    finally:
        for stormer in stormers:
            stormer.close()
    began = time.monotonic()
    replies = stormers[0].round()
    took_s = time.monotonic() - began
    stormers[0].close()
    said = f"recovered in {recovered_s:.1f} s, grown by {(peak_bytes - before_bytes) >> 20} MiB"
    assert not any(isinstance(reply, Exception) for reply in replies), said
    assert took_s < 1.0, said
    assert peak_bytes - before_bytes < MAX_GROWTH_BYTES, said
