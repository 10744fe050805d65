"""How jobs are shown."""

from io import StringIO

from rich.console import Console

from control_plane.cli.repair import job_table
from protos.dabbawala.v1 import admin_pb2


def shown(job: admin_pb2.JobStatus) -> str:
    out = Console(file=StringIO(), width=400)
    out.print(job_table([job], now_ms=70_000))
    return out.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_running_job_shows_how_far_it_is_and_how_long_it_will_take() -> None:
    job = admin_pb2.JobStatus(
        id="repair-1", kind="repair", subject="places", state="running", buckets_done=3,
        buckets_total=64, records=900, differing=2, copied=4, moved_bytes=2048,
        started_ms=10_000, eta_ms=12_400, problem="bucket 2: n3 is not trusted now",
    )  # fmt: skip
    text = shown(job)
    assert all(part in text for part in ("3/64", "900", "2.0 KiB", "1m", "12s", "n3 is not"))


def test_an_accepted_loss_is_shown_with_its_times() -> None:
    job = admin_pb2.JobStatus(id="admit-n0", state="done", loss_from_ms=1_000, loss_to_ms=61_000)
    assert "from 1970-01-01 00:00:01Z until 1970-01-01 00:01:01Z may be lost" in shown(job)
    job.loss_from_ms = 0
    assert "acknowledged until 1970-01-01 00:01:01Z may be lost" in shown(job)
    job.loss_to_ms = 0
    assert "lost" not in shown(job)
