"""Which hints hold tombstones, and how what is said of them is kept."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from buckets.bucket_map import Durability, KeyspaceSettings, Mode
from control_plane.coordination.embedded import EmbeddedStore
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import CoordinationStore, StoreOptions
from control_plane.errors import Invalid
from control_plane.jobs.compaction import held_ms
from control_plane.jobs.hint_reports import (
    EVERYWHERE,
    HintRecord,
    HintReports,
    hints_away,
    repaired_marks,
)
from protos.dabbawala.v1 import admin_pb2
from tests.support.cluster_states import StoreContent

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


PATHS = ClusterPaths("test")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CoordinationStore]:
    options = StoreOptions(cluster="test")
    async with await EmbeddedStore.open(tmp_path / "store.db", options) as opened:
        yield opened


@pytest.fixture
def reports(store: CoordinationStore) -> HintReports:
    return HintReports(store, PATHS)


async def test_what_can_not_be_read_holds_all_tombstones_until_it_is_forgotten(
    reports: HintReports, store: CoordinationStore
) -> None:
    await store.write(f"{PATHS.root}/hints/abc", b"{torn")
    assert held_ms(await reports.read_all(), NOW_MS) == [1]
    [said] = await reports.known()
    assert await reports.forget(said.sidecar)
    assert await reports.read_all() == []


async def test_what_another_log_holds_is_not_forgotten_for_the_same_id(
    reports: HintReports,
) -> None:
    """Two sidecars that were given one id: what one no longer has, the other may have."""
    mine, other = (HintRecord("s", 0, 1, NOW_MS, log) for log in ("mine", "other"))
    await reports.take(mine)
    await reports.take(other)
    await reports.take(HintRecord("s", 0, 1, 0, "other"))
    assert await reports.read_all() == [mine]
    assert await reports.forget("s")
    assert await reports.read_all() == []


async def test_a_sidecar_that_starts_again_under_another_id_speaks_of_the_same_hints(
    reports: HintReports,
) -> None:
    await reports.take(HintRecord("host-1", 0, 1, NOW_MS, "log"))
    await reports.take(HintRecord("host-2", 0, 1, NOW_MS, "log"))
    assert [record.sidecar for record in await reports.known()] == ["host-2"]
    await reports.take(HintRecord("host-2", 0, 1, 0, "log"))
    assert await reports.known() == []


async def test_what_was_said_of_hints_that_are_too_old_does_not_stay_in_the_store(
    reports: HintReports,
) -> None:
    kept = [HintRecord("only", 0, 1, 1, "a"), HintRecord("young", NOW_MS, HOUR_MS, 0, "b")]
    for said in (*kept, HintRecord("old", NOW_MS - 2 * HOUR_MS, HOUR_MS, 0, "c")):
        await reports.take(said)
    await reports.forget_aged(NOW_MS)
    assert sorted(await reports.read_all(), key=lambda said: said.log) == kept


@pytest.mark.parametrize("wrong", [{"sidecar": ""}, {"sidecar": "x" * 257}, {"log": "x" * 257}])
async def test_a_report_that_names_nobody_is_refused(
    reports: HintReports, wrong: dict[str, str]
) -> None:
    request = admin_pb2.ReportHintsRequest(**({"sidecar": "s", "only_copy_ms": 1} | wrong))  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        await reports.answer(request, StoreContent(1, 2, 3).state())
    assert await reports.read_all() == []


def test_a_log_whose_sidecar_is_there_is_not_away_unless_it_has_a_new_one() -> None:
    first, second = record(only_copy_hours=9), structs.replace(record(only_copy_hours=1), log="new")
    assert hints_away([first], ["s"], NOW_MS) == []
    assert hints_away([first], ["t"], NOW_MS) == [first]
    assert hints_away([first, second], ["s"], NOW_MS) == [first, second]
    assert hints_away([record(oldest_hours=4)], [], NOW_MS) == []


def test_all_buckets_are_repaired_when_those_are_that_keep_hints() -> None:
    content = StoreContent(1, 2, 3)
    content.create_keyspace(KeyspaceSettings(name="kv", buckets=2))
    content.create_keyspace(
        KeyspaceSettings(
            name="ledger", buckets=2, mode=Mode.LINEARIZABLE, durability=Durability.MEMORY
        )
    )
    begun = {("kv", bucket): NOW_MS for bucket in range(2)}
    assert EVERYWHERE in repaired_marks({EVERYWHERE: 1}, begun, content.state())
    assert not repaired_marks({EVERYWHERE: 1}, begun | {("kv", 1): 0}, content.state())
