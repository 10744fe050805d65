"""How far tombstones may go, and in which order."""

import pytest

from replicas.purge import Purged, PurgeStep, What, parse_purge, purge_bound, purging
from replicas.replies import Code, Refusal
from replicas.version import ZERO_VERSION, physical_ms

NOW_MS = 1_800_000_000_000
GRACE_MS = 1_000_000


def bound_ms(repaired_ms: int, *hints_ms: int, grace_ms: int = GRACE_MS) -> int:
    return physical_ms(purge_bound(repaired_ms, NOW_MS, grace_ms, hints_ms))


def test_the_bound_is_the_lowest_of_repair_grace_and_hints() -> None:
    assert bound_ms(NOW_MS) == NOW_MS - GRACE_MS
    assert bound_ms(NOW_MS - GRACE_MS - 5) == NOW_MS - GRACE_MS - 5
    assert bound_ms(NOW_MS, NOW_MS - 3, NOW_MS - GRACE_MS - 7) == NOW_MS - GRACE_MS - 8


def test_without_a_repair_nothing_goes() -> None:
    assert purge_bound(0, NOW_MS, GRACE_MS) == ZERO_VERSION
    assert purge_bound(NOW_MS, NOW_MS, 2 * NOW_MS) == ZERO_VERSION
    assert list(purging(ZERO_VERSION)) == []


def test_a_bound_ends_with_room_for_the_drop() -> None:
    assert purge_bound(NOW_MS, NOW_MS, GRACE_MS)[6:] == bytes(10)


def test_owners_are_closed_then_made_equal_and_only_then_purged() -> None:
    steps = purging(purge_bound(NOW_MS, NOW_MS, GRACE_MS))
    assert next(steps) is What.LOOK
    assert steps.send(Purged(9, 6, 3, 90)) is What.CLOSE
    assert steps.send(Purged()) is What.EQUALIZE
    assert steps.send(None) is What.DROP
    with pytest.raises(StopIteration) as end:
        steps.send(Purged(9, 6, 2, 60))
    assert end.value.value == Purged(9, 6, 2, 60)


def test_where_nothing_can_go_nothing_is_closed() -> None:
    steps = purging(purge_bound(NOW_MS, NOW_MS, GRACE_MS))
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send(Purged(9, 6, 0, 0))
    assert end.value.value == Purged(9, 6, 0, 0)


def test_replies_are_understood_or_not_at_all() -> None:
    assert parse_purge([b"7", 4, 3, 2, 1]) == PurgeStep(b"7", Purged(4, 3, 2, 1))
    refusal = parse_purge([b"NOT_CLOSED", None, None, b""])
    assert refusal == Refusal(Code.NOT_CLOSED)
    assert parse_purge([b"7", 4, 3, 2]) is None
    assert parse_purge(1) is None
