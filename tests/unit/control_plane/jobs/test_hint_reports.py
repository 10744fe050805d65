"""Which hints hold tombstones."""

import pytest

from control_plane.jobs.compaction import held_ms
from control_plane.jobs.hint_reports import HintRecord

HOUR_MS = 3_600_000
NOW_MS = 1_800_000_000_000


def record(oldest_hours: float = 0, only_copy_hours: float = 0, age_hours: float = 3) -> HintRecord:
    def at_ms(hours: float) -> int:
        return NOW_MS - int(hours * HOUR_MS) if hours else 0

    return HintRecord("s", at_ms(oldest_hours), int(age_hours * HOUR_MS), at_ms(only_copy_hours))


@pytest.mark.parametrize(
    ("said", "hours"),
    [
        (record(), 0),
        (record(oldest_hours=2), 2),
        (record(oldest_hours=4), 0),  # dropped, or will be before it is replayed
        (record(oldest_hours=4, age_hours=24), 4),
        (record(only_copy_hours=400), 400),
        (record(oldest_hours=2, only_copy_hours=1), 2),
        (record(oldest_hours=4, only_copy_hours=1), 1),
    ],
)
def test_a_hint_holds_tombstones_until_it_ages_out_and_an_only_copy_for_ever(
    said: HintRecord, hours: float
) -> None:
    expected = NOW_MS - int(hours * HOUR_MS) if hours else 0
    assert said.holds_ms(NOW_MS) == expected
    assert held_ms([record(), said], NOW_MS) == ([expected] if hours else [])
