"""Leases of the embedded store, on a clock that the test sets."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from control_plane.coordination.errors import Conflict
from control_plane.coordination.primitives import Holding, PutEphemeral
from control_plane.coordination.sqlite_file import SqliteFile, open_file
from control_plane.coordination.store import Check, Put

LENGTH_MS = 1_000


@dataclass
class Clock:
    now_ms: int = 0

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """What all files read, unless they are opened with another."""
    return Clock()


@pytest.fixture
def opened(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., SqliteFile]]:
    files: list[SqliteFile] = []

    def opener(clock_ms: Callable[[], int] = clock) -> SqliteFile:
        file = open_file(
            tmp_path / "c.db",
            busy_timeout_ms=2_000,
            session_length_ms=LENGTH_MS,
            cluster=None,
            clock_ms=clock_ms,
        )
        files.append(file)
        return file

    yield opener
    for file in files:
        file.close()


def test_a_lease_ends_when_it_was_not_renewed_in_time(
    opened: Callable[..., SqliteFile], clock: Clock
) -> None:
    mine, theirs = opened(), opened()
    mine.apply([PutEphemeral("/i/a", b"")])
    clock.now_ms = LENGTH_MS - 1
    assert theirs.holding("/i/a") == Holding(0, ours=False, ephemeral=True)
    clock.now_ms = LENGTH_MS
    assert theirs.holding("/i/a") is None


def test_a_renewed_lease_lives_on(opened: Callable[..., SqliteFile], clock: Clock) -> None:
    mine, theirs = opened(), opened()
    mine.apply([PutEphemeral("/i/a", b"")])
    clock.now_ms = LENGTH_MS - 1
    mine.renew()
    clock.now_ms = LENGTH_MS
    assert theirs.holding("/i/a") is not None


def test_asking_renews(opened: Callable[..., SqliteFile], clock: Clock) -> None:
    mine, theirs = opened(), opened()
    mine.apply([PutEphemeral("/i/a", b"")])
    clock.now_ms = LENGTH_MS - 1
    assert mine.holding("/i/a") == Holding(0, ours=True, ephemeral=True)
    clock.now_ms = LENGTH_MS
    assert theirs.holding("/i/a") is not None


def test_a_lease_that_is_over_cannot_be_renewed_even_if_nobody_noticed(
    opened: Callable[..., SqliteFile], clock: Clock
) -> None:
    mine = opened()
    mine.apply([PutEphemeral("/i/a", b"")])
    before = mine.session_id
    clock.now_ms = LENGTH_MS
    assert mine.holding("/i/a") is None
    assert mine.session_id not in (0, before)


def test_a_lease_from_before_a_restart_of_the_machine_is_over(
    opened: Callable[..., SqliteFile], clock: Clock
) -> None:
    # The clock begins again with the machine, so that lease seems to end in the far future.
    mine, theirs = opened(), opened()
    clock.now_ms = 900_000_000
    mine.apply([PutEphemeral("/i/a", b"")])
    clock.now_ms = 5
    assert theirs.holding("/i/a") is None


def test_a_lease_renewed_while_another_waited_for_the_lock_is_not_from_the_future(
    opened: Callable[..., SqliteFile],
) -> None:
    """Two leaders would follow: the waiting one would end the session of the one that leads."""
    begun = time.monotonic()

    def since_ms() -> int:
        return round((time.monotonic() - begun) * 1_000)

    waiting = opened(since_ms)
    waiter = threading.Thread(target=waiting.renew)

    def late() -> int:
        if not waiter.ident:
            waiter.start()
            time.sleep(0.2)  # it waits for the lock, which this write holds
        return since_ms()

    leading = opened(late)
    leading.apply([PutEphemeral("/i/a", b"")])
    waiter.join()
    assert leading.holding("/i/a") == Holding(0, ours=True, ephemeral=True)


def test_session_ids_are_never_used_again(opened: Callable[..., SqliteFile]) -> None:
    first = opened()
    first.renew()
    used = first.session_id
    first.end_session()
    second = opened()
    second.renew()
    assert second.session_id > used


def test_a_refused_transaction_forgets_the_session_it_began(
    opened: Callable[..., SqliteFile], clock: Clock
) -> None:
    file = opened()
    with pytest.raises(Conflict):
        file.apply([Check("/a", 3), PutEphemeral("/i/a", b"")])
    assert file.session_id == 0
    file.apply([PutEphemeral("/i/a", b"")])
    clock.now_ms = 1
    assert file.holding("/i/a") == Holding(0, ours=True, ephemeral=True)


def test_a_change_number_is_never_used_again(opened: Callable[..., SqliteFile]) -> None:
    file = opened()
    file.apply([Put("/a", b"x")])
    (before,) = file.seen(["/a"])
    file.delete_tree("/a")
    file.apply([Put("/a", b"x")])
    (after,) = file.seen(["/a"])
    assert before is not None
    assert after is not None
    assert (before.version, after.version) == (0, 0)
    assert after.change > before.change
