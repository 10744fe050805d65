import msgspec
import pytest

from control_plane.dev.load_report import (
    DoorReport,
    Doors,
    Finished,
    LoadEvent,
    LoadReport,
    NodeReads,
    Progress,
    Seconds,
    max_over_mean,
    node_reads,
    zone_reads,
)

NODES = [NodeReads("node-1", "a", 30), NodeReads("node-2", "b", 10), NodeReads("node-3", "a", 20)]
DOOR = DoorReport(reads_per_s=10.0, p50_ms=0.5, p99_ms=2.0, reads=100, errors=0)


def finished(**changes: object) -> Finished:
    facts: dict[str, object] = {
        "records_loaded": 5,
        "records_verified": 5,
        "mismatches": 0,
        "errors": 0,
        "doors": Doors(grpc=DOOR, redis=DOOR),
        "nodes": NODES,
        "zones": zone_reads(NODES),
        "max_over_mean": max_over_mean(NODES),
        "seconds": Seconds(load=1.0, verify=1.0, run=1.0),
        "ready_seconds": 2.0,
        "sidecar_rss_bytes": 1,
    }
    report = LoadReport(**(facts | changes))  # type: ignore[arg-type]
    return Finished(report, records_expected=5, retries=0, first_errors=[])


def test_reads_of_a_node_are_what_came_on_top() -> None:
    before = [{"id": "node-1", "zone": "a", "reads": 5}]
    after = [
        {"id": "node-2", "zone": "b", "reads": 7},
        {"id": "node-1", "zone": "a", "reads": 9},
    ]
    assert node_reads(before, after) == [NodeReads("node-1", "a", 4), NodeReads("node-2", "b", 7)]


def test_zones_are_sums_of_their_nodes() -> None:
    assert [(zone.zone, zone.reads) for zone in zone_reads(NODES)] == [("a", 50), ("b", 10)]


def test_the_most_loaded_node_against_the_mean() -> None:
    assert max_over_mean(NODES) == 1.5
    assert max_over_mean([NodeReads("node-1", "a", 0)]) == 0.0
    assert max_over_mean([]) == 0.0


def test_nothing_wrong_is_nothing_said() -> None:
    assert finished().wrong == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"records_loaded": 4}, "4 of 5 records were loaded"),
        ({"records_verified": 4}, "4 of 5 were verified"),
        ({"mismatches": 1}, "1 answers differ"),
        ({"errors": 2}, "2 operations failed"),
        (
            {"doors": Doors(grpc=DOOR, redis=msgspec.structs.replace(DOOR, reads=0))},
            "no read through the Redis door",
        ),
    ],
)
def test_whatever_is_wrong_is_said(changes: dict[str, object], words: str) -> None:
    assert any(words in line for line in finished(**changes).wrong)


def test_the_written_report_has_exactly_these_names() -> None:
    written = msgspec.json.decode(msgspec.json.encode(finished().report))
    assert list(written) == [
        "records_loaded", "records_verified", "mismatches", "errors", "doors", "nodes", "zones",
        "max_over_mean", "seconds", "ready_seconds", "sidecar_rss_bytes",
    ]  # fmt: skip
    door = {"reads_per_s": 10.0, "p50_ms": 0.5, "p99_ms": 2.0, "reads": 100, "errors": 0}
    assert written["doors"] == {"grpc": door, "redis": door}
    assert written["nodes"][0] == {"id": "node-1", "zone": "a", "reads": 30}
    assert written["seconds"] == {"load": 1.0, "verify": 1.0, "run": 1.0}


def test_events_come_out_as_they_went_in() -> None:
    for event in (Progress("load", 1, 2), finished()):
        assert msgspec.json.decode(msgspec.json.encode(event), type=LoadEvent) == event
