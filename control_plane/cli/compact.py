"""`dabba compact`: take old tombstones away now; the control plane does it by itself too."""

import time
from typing import Annotated

import typer
from rich.text import Text

from control_plane.cli.calls import control_plane
from control_plane.cli.errors import EXIT_FAILED
from control_plane.cli.options import (
    DEFAULT_TIMEOUT_S,
    ControlPlaneAddress,
    Output,
    OutputFormat,
    Timeout,
)
from control_plane.cli.output import age_text, coloured, console, print_json, size_text, table
from control_plane.cli.repair import Wait, follow
from control_plane.cli.views import plain
from protos.dabbawala.v1 import admin_pb2

Keyspace = Annotated[str, typer.Argument(help="Whose tombstones.", show_default=False)]


def compact(
    keyspace: Keyspace,
    wait: Wait = True,
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> int:
    """Take away tombstones older than the keyspace's grace that no owner needs any more."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        request = admin_pb2.StartCompactionRequest(keyspace=keyspace)
        job = peer.call(admin.StartCompaction, request)
        if wait:
            job = follow(peer, admin, job, _words, quiet=output is OutputFormat.JSON)
    if output is OutputFormat.JSON:
        print_json(plain(job))
    else:
        _print(job)
    return EXIT_FAILED if job.state == "failed" else 0


def _words(job: admin_pb2.JobStatus) -> str:
    return f"{job.buckets_done}/{job.buckets_total} buckets, {job.purged} records removed"


def _print(job: admin_pb2.JobStatus) -> None:
    columns = (
        "KEYSPACE", "STATE", "BUCKETS>", "LEFT OUT>", "RECORDS>", "TOMBSTONES>", "REMOVED>",
        "FREED>", "STARTED>",
    )  # fmt: skip
    row = (
        job.subject,
        coloured(job.state),
        f"{job.buckets_done}/{job.buckets_total}",
        job.buckets_skipped,
        job.records,
        job.tombstones,
        job.purged,
        size_text(job.purged_bytes),
        age_text(job.started_ms, time.time_ns() // 1_000_000),
    )
    out = console()
    out.print(table("compaction, counted on all owners", columns, [row]))
    if job.problem:
        out.print(Text(f"! {job.problem}", style="yellow"))
