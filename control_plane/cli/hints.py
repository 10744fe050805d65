"""`dabba hints`: what a sidecar keeps for owners that missed writes, and what needs repair."""

import http.client
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from control_plane.cli.addresses import SIDECAR_ADMIN, find_address
from control_plane.cli.calls import control_plane
from control_plane.cli.errors import CommandError
from control_plane.cli.options import (
    DEFAULT_TIMEOUT_S,
    ControlPlaneAddress,
    Output,
    OutputFormat,
    Timeout,
)
from control_plane.cli.output import console, next_commands, print_json, size_text, table
from protos.dabbawala.v1 import admin_pb2

_MAX_ANSWER_BYTES = 64 << 20
_MARKS_SHOWN = 20

AdminAddress = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="HOST:PORT",
        help="The sidecar's admin door (else DABBA_ADMIN, else that of a running `dabba dev`).",
    ),
]


Forget = Annotated[
    str | None,
    typer.Option(
        metavar="SIDECAR",
        help="This sidecar will not come back: what it kept is lost, and holds no tombstone.",
    ),
]


class Bucket(msgspec.Struct):
    """Hints that wait for one node in one bucket."""

    keyspace: str
    bucket: int
    count: int
    size_bytes: int


class Node(msgspec.Struct):
    """Hints that wait for one node."""

    node: str
    count: int
    size_bytes: int
    oldest_age_s: float
    buckets: list[Bucket]


class Mark(msgspec.Struct):
    """A bucket in need of repair; -1: every bucket."""

    keyspace: str
    bucket: int
    cause: str
    lost: int
    durable: bool


class Hints(msgspec.Struct):
    """What GET /hints answers, as far as it is shown."""

    state: str
    problem: str
    size_bytes: int
    bound_bytes: int
    nodes: list[Node]
    needs_repair: list[Mark]


def hints(
    admin_address: AdminAddress = None,
    forget: Forget = None,
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the hints of a sidecar: writes kept for owners that missed them; buckets to repair."""
    if forget is not None:
        _forget(forget, control_plane_address, timeout, output)
        return
    address = find_address(SIDECAR_ADMIN, admin_address)
    raw = _get(address, "/hints", timeout)
    try:
        answer = msgspec.json.decode(raw, type=Hints)
    except msgspec.MsgspecError as error:
        raise CommandError(
            f"{address} does not answer as a sidecar's admin door: {error}",
            "check that --admin names the admin address; a running sidecar logs it",
        ) from None
    if output is OutputFormat.JSON:
        print_json(msgspec.json.decode(raw))
        return
    _print(answer)


def _forget(
    sidecar: str, control_plane_address: str | None, timeout: float, output: OutputFormat
) -> None:
    request = admin_pb2.ForgetHintsRequest(sidecar=sidecar)
    with control_plane(control_plane_address, timeout) as (peer, admin):
        answer = peer.call(admin.ForgetHints, request)
    if not answer.known:
        raise CommandError(
            f"sidecar {sidecar!r} has reported no hints",
            "see which sidecars are away with hints: dabba status",
        )
    if output is OutputFormat.JSON:
        print_json({"forgotten": sidecar})
        return
    console().print(Text(f"the hints of {sidecar} are forgotten", style="green"))


def _get(address: str, path: str, timeout_s: float) -> bytes:
    """The body of one GET. No proxy of the environment is asked: the door is on this host."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(
            f"cannot reach the sidecar's admin door at {address}: {error}",
            "check that it runs, or name another with --admin HOST:PORT",
        ) from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise CommandError(
            f"{address}{path} answered {response.status} {response.reason}",
            "check that --admin names a sidecar's admin address",
        )
    return body


def _print(answer: Hints) -> None:
    out = console()
    out.print(_summary(answer))
    if answer.nodes:
        out.print(
            table("", ("NODE", "HINTS>", "SIZE>", "OLDEST>", "BUCKETS"), map(_row, answer.nodes))
        )
    if answer.needs_repair:
        marks = answer.needs_repair[:_MARKS_SHOWN]
        columns = ("KEYSPACE", "BUCKET>", "LOST>", "ON DISK", "CAUSE")
        out.print(table("buckets in need of repair", columns, map(_mark_row, marks)))
        more = len(answer.needs_repair) - len(marks)
        if more:
            out.print(Text(f"and {more} more: dabba hints -o json", style="dim"))
    out.print(next_commands(["dabba status", "dabba doctor"]))


def _summary(answer: Hints) -> Text:
    waiting = sum(node.count for node in answer.nodes)
    if answer.state != "on":
        return Text(f"hints are {answer.state}: ", style="bold red").append(
            answer.problem, style="default"
        )
    bound = f"{size_text(answer.size_bytes)} of {size_text(answer.bound_bytes)}"
    return Text(f"{waiting} hints wait ({bound})" if waiting else "no hint waits", style="bold")


def _row(node: Node) -> Sequence[str | int]:
    keyspaces: dict[str, int] = {}
    for bucket in node.buckets:
        keyspaces[bucket.keyspace] = keyspaces.get(bucket.keyspace, 0) + 1
    where = ", ".join(f"{count} of {name}" for name, count in keyspaces.items())
    return node.node, node.count, size_text(node.size_bytes), f"{node.oldest_age_s:.0f}s", where


def _mark_row(mark: Mark) -> Sequence[str | int]:
    bucket = "all" if mark.bucket < 0 else str(mark.bucket)
    keyspace = mark.keyspace or "all"
    return keyspace, bucket, mark.lost, "yes" if mark.durable else "not yet", mark.cause
