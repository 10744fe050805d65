"""`dabba repair`: compare the owners of a keyspace's buckets, and move what differs."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from control_plane.cli.calls import Peer, control_plane
from control_plane.cli.errors import EXIT_FAILED
from control_plane.cli.options import (
    DEFAULT_TIMEOUT_S,
    ControlPlaneAddress,
    Output,
    OutputFormat,
    Timeout,
)
from control_plane.cli.output import age_text, coloured, console, print_json, size_text, table
from control_plane.cli.views import plain
from protos.dabbawala.v1 import admin_pb2
from protos.dabbawala.v1.admin_pb2_grpc import AdminStub

STATUS = "status"
_RUNNING = "running"

Subject = Annotated[
    str, typer.Argument(metavar="KEYSPACE|status", help="What to repair; status: list the jobs.")
]
Buckets = Annotated[
    list[int] | None, typer.Option("--bucket", min=0, help="Only this bucket; may be repeated.")
]
Wait = Annotated[bool, typer.Option(help="Show progress until it is over.")]


def repair(
    subject: Subject,
    bucket: Buckets = None,
    wait: Wait = True,
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> int:
    """Make the owners of a keyspace's buckets equal. Goes on by itself when this is interrupted."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        if subject == STATUS:
            _show_jobs(peer, admin, output)
            return 0
        request = admin_pb2.StartRepairRequest(keyspace=subject, buckets=bucket or [])
        job = peer.call(admin.StartRepair, request)
        if wait:
            job = follow(peer, admin, job, _progress_words, quiet=output is OutputFormat.JSON)
    if output is OutputFormat.JSON:
        print_json(plain(job))
    else:
        _print_end(job)
    return EXIT_FAILED if job.state == "failed" or job.unhealed else 0


def _show_jobs(peer: Peer, admin: AdminStub, output: OutputFormat) -> None:
    response = peer.call(admin.ListJobs, admin_pb2.ListJobsRequest())
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    console().print(job_table(response.jobs, time.time_ns() // 1_000_000))


def follow(
    peer: Peer,
    admin: AdminStub,
    job: admin_pb2.JobStatus,
    words: Callable[[admin_pb2.JobStatus], str],
    *,
    quiet: bool,
) -> admin_pb2.JobStatus:
    """The job at its end; until then a line of progress, with `words` about it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console(), disable=quiet, transient=True) as progress:
        task = progress.add_task(f"{job.kind} of {job.subject}", total=job.buckets_total, words="")
        while job.state == _RUNNING:
            request = admin_pb2.ListJobsRequest(id=job.id, seen_ms=job.updated_ms)
            [job] = peer.call(admin.ListJobs, request).jobs
            progress.update(task, completed=job.buckets_done, words=words(job))
    return job


def _progress_words(job: admin_pb2.JobStatus) -> str:
    left = f", {job.eta_ms / 1000:.0f} s to go" if job.eta_ms else ""
    return f"{job.buckets_done}/{job.buckets_total} buckets, {job.differing} keys differed{left}"


def _print_end(job: admin_pb2.JobStatus) -> None:
    out = console()
    out.print(job_table([job], time.time_ns() // 1_000_000))
    if job.problem:
        out.print(Text(f"! {job.problem}", style="yellow"))


def job_table(jobs: Iterable[admin_pb2.JobStatus], now_ms: int) -> Table:
    """One row a job: how far it is, and what it found and did."""
    columns = (
        "ID", "KIND", "SUBJECT", "STATE", "BUCKETS>", "SKIPPED>", "RECORDS>", "DIFFERING>",
        "COPIED>", "HEALED>", "UNHEALED>", "MOVED>", "STARTED>", "ETA>", "PROBLEM",
    )  # fmt: skip
    return table("jobs", columns, (_row(job, now_ms) for job in jobs))


def _row(job: admin_pb2.JobStatus, now_ms: int) -> tuple[str | Text | int, ...]:
    return (
        job.id,
        job.kind,
        job.subject,
        coloured(job.state),
        f"{job.buckets_done}/{job.buckets_total}",
        job.buckets_skipped,
        job.records,
        job.differing,
        job.copied,
        job.healed,
        job.unhealed,
        size_text(job.moved_bytes),
        age_text(job.started_ms, now_ms),
        f"{job.eta_ms / 1000:.0f}s" if job.eta_ms else "-",
        job.problem or _loss_words(job),
    )


def _loss_words(job: admin_pb2.JobStatus) -> str:
    """What was given up, where no majority was left."""
    if not job.loss_to_ms:
        return ""
    began = f"from {_time_text(job.loss_from_ms)} " if job.loss_from_ms else ""
    return f"what was acknowledged {began}until {_time_text(job.loss_to_ms)} may be lost"


def _time_text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
