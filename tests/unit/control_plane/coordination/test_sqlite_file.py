"""Leases of the embedded store, with time as an argument."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control_plane.coordination.errors import Conflict
from control_plane.coordination.primitives import Holding, PutEphemeral
from control_plane.coordination.sqlite_file import SqliteFile, open_file
from control_plane.coordination.store import Check, Put

LENGTH_MS = 1_000


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], SqliteFile]]:
    files: list[SqliteFile] = []

    def opener() -> SqliteFile:
        path = tmp_path / "c.db"
        file = open_file(path, busy_timeout_ms=100, session_length_ms=LENGTH_MS, cluster=None)
        files.append(file)
        return file

    yield opener
    for file in files:
        file.close()


def test_a_lease_ends_when_it_was_not_renewed_in_time(opened: Callable[[], SqliteFile]) -> None:
    mine, theirs = opened(), opened()
    mine.apply([PutEphemeral("/i/a", b"")], now_ms=0)
    assert theirs.holding("/i/a", now_ms=LENGTH_MS - 1) == Holding(0, ours=False, ephemeral=True)
    assert theirs.holding("/i/a", now_ms=LENGTH_MS) is None


def test_a_renewed_lease_lives_on(opened: Callable[[], SqliteFile]) -> None:
    mine, theirs = opened(), opened()
    mine.apply([PutEphemeral("/i/a", b"")], now_ms=0)
    mine.renew(now_ms=LENGTH_MS - 1)
    assert theirs.holding("/i/a", now_ms=LENGTH_MS) is not None


def test_asking_renews(opened: Callable[[], SqliteFile]) -> None:
    mine, theirs = opened(), opened()
    mine.apply([PutEphemeral("/i/a", b"")], now_ms=0)
    assert mine.holding("/i/a", now_ms=LENGTH_MS - 1) == Holding(0, ours=True, ephemeral=True)
    assert theirs.holding("/i/a", now_ms=LENGTH_MS) is not None


def test_a_lease_that_is_over_cannot_be_renewed_even_if_nobody_noticed(
    opened: Callable[[], SqliteFile],
) -> None:
    mine = opened()
    mine.apply([PutEphemeral("/i/a", b"")], now_ms=0)
    before = mine.session_id
    assert mine.holding("/i/a", now_ms=LENGTH_MS) is None
    assert mine.session_id not in (0, before)


def test_a_lease_from_before_a_restart_of_the_machine_is_over(
    opened: Callable[[], SqliteFile],
) -> None:
    # The clock begins again with the machine, so that lease seems to end in the far future.
    mine, theirs = opened(), opened()
    mine.apply([PutEphemeral("/i/a", b"")], now_ms=900_000_000)
    assert theirs.holding("/i/a", now_ms=5) is None


def test_session_ids_are_never_used_again(opened: Callable[[], SqliteFile]) -> None:
    first = opened()
    first.renew(now_ms=0)
    used = first.session_id
    first.end_session()
    second = opened()
    second.renew(now_ms=0)
    assert second.session_id > used


def test_a_refused_transaction_forgets_the_session_it_began(
    opened: Callable[[], SqliteFile],
) -> None:
    file = opened()
    with pytest.raises(Conflict):
        file.apply([Check("/a", 3), PutEphemeral("/i/a", b"")], now_ms=0)
    assert file.session_id == 0
    file.apply([PutEphemeral("/i/a", b"")], now_ms=0)
    assert file.holding("/i/a", now_ms=1) == Holding(0, ours=True, ephemeral=True)


def test_a_change_number_is_never_used_again(opened: Callable[[], SqliteFile]) -> None:
    file = opened()
    file.apply([Put("/a", b"x")], now_ms=0)
    (before,) = file.seen(["/a"])
    file.delete_tree("/a")
    file.apply([Put("/a", b"x")], now_ms=0)
    (after,) = file.seen(["/a"])
    assert before is not None
    assert after is not None
    assert (before.version, after.version) == (0, 0)
    assert after.change > before.change
