import orjson
import pytest

from control_plane.dev.load_report import (
    DoorReport,
    Doors,
    Finished,
    LoadReport,
    NodeReads,
    Progress,
    Seconds,
    zone_reads,
)
from control_plane.dev.screen import PhaseDisplay, Screen, show_finished

DOOR = DoorReport(reads_per_s=12345.6, p50_ms=0.5, p99_ms=2.25, reads=100, errors=3)
NODES = [NodeReads("node-1", "a", 30_000), NodeReads("node-2", "b", 10_000)]


def finished(records_verified: int) -> Finished:
    report = LoadReport(
        records_loaded=5,
        records_verified=records_verified,
        mismatches=0,
        errors=0,
        doors=Doors(grpc=DOOR, redis=DOOR),
        nodes=NODES,
        zones=zone_reads(NODES),
        max_over_mean=1.5,
        seconds=Seconds(load=1.0, verify=1.0, run=10.0),
        ready_seconds=2.0,
        sidecar_rss_bytes=64 << 20,
    )
    return Finished(report, records_expected=5, retries=7, first_errors=["GET: late"])


def test_the_end_shows_doors_nodes_zones_and_what_was_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_finished(Screen(), finished(records_verified=4))
    out = capsys.readouterr().out
    for words in (
        "5 records loaded in 1.0 s",
        "7 retries",
        "12,346",
        "2.25",
        "30,000",
        "zone b: 10,000 reads",
        "most loaded node / mean: 1.50",
        "64 MiB",
        "error: GET: late",
        "WRONG: 4 of 5 were verified",
        "GeoNames",
    ):
        assert words in out
    assert "nothing was wrong" not in out


def test_the_end_of_a_good_load_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    show_finished(Screen(), finished(records_verified=5))
    out = capsys.readouterr().out
    assert "nothing was wrong" in out
    assert "WRONG" not in out


def test_in_a_pipe_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with PhaseDisplay(Screen()) as display:
        for done in range(0, 1001, 10):
            display.show(Progress("load", done, 1000))
    assert capsys.readouterr().out.splitlines() == [
        "write at QUORUM, gRPC door: 0 of 1,000",
        "write at QUORUM, gRPC door: 1,000 of 1,000",
    ]


def test_with_json_people_read_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.line("for people")
    screen.object({"for": "programs"})
    out, err = capsys.readouterr()
    assert orjson.loads(out) == {"for": "programs"}
    assert err == "for people\n"


def test_what_others_wrote_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().line("[bold]x[/bold] :smile:")
    assert capsys.readouterr().out == "[bold]x[/bold] :smile:\n"
