"""`dabba keyspace create`, `list` and `describe`."""

import enum
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from control_plane.cli.calls import control_plane
from control_plane.cli.options import (
    DEFAULT_TIMEOUT_S,
    ControlPlaneAddress,
    Level,
    Output,
    OutputFormat,
    Timeout,
    level_name,
    level_number,
)
from control_plane.cli.output import console, next_commands, pairs, print_json, size_text, table
from control_plane.cli.views import plain, short_name
from protos.dabbawala.v1 import admin_pb2, map_pb2

keyspace_app = typer.Typer(help="The keyspaces.", no_args_is_help=True)


class Mode(enum.StrEnum):
    """How writes of one key are ordered."""

    TUNABLE = "tunable"
    LINEARIZABLE = "linearizable"


class Durability(enum.StrEnum):
    """What a node has done before it acknowledges a write."""

    MEMORY = "memory"
    FSYNC = "fsync"


Name = Annotated[str, typer.Argument(help="The name: a-z, 0-9 and '-'.", show_default=False)]
Buckets = Annotated[
    int, typer.Option(min=0, help="How many buckets, a power of two.", show_default="64")
]
Copies = Annotated[
    int,
    typer.Option(
        "--copies", "--replication-factor", min=0, help="Owners of each bucket.", show_default="3"
    ),
]
ReadLevel = Annotated[
    Level | None, typer.Option(case_sensitive=False, help="Of reads that name none.")
]
WriteLevel = Annotated[
    Level | None, typer.Option(case_sensitive=False, help="Of writes that name none.")
]
RedisDb = Annotated[int, typer.Option(min=-1, max=9999, help="The n of SELECT n; -1 for none.")]
Durable = Annotated[
    Durability | None,
    typer.Option(
        case_sensitive=False,
        help="What a node has done before it acknowledges a write.",
        show_default="memory; of linearizable keyspaces fsync",
    ),
]
MaxValue = Annotated[int, typer.Option(min=0, help="Largest value in bytes.", show_default="1 MiB")]
GraceHours = Annotated[
    float, typer.Option(min=0, help="How long tombstones stay, in hours.", show_default="240")
]

# Creating fences on every owner of every bucket takes longer than a question.
_CREATE_TIMEOUT_S = 30.0


@keyspace_app.command("create")
def keyspace_create(
    name: Name,
    buckets: Buckets = 0,
    copies: Copies = 0,
    mode: Annotated[Mode, typer.Option(case_sensitive=False)] = Mode.TUNABLE,
    durability: Durable = None,
    read_consistency: ReadLevel = None,
    write_consistency: WriteLevel = None,
    redis_db: RedisDb = -1,
    max_value_bytes: MaxValue = 0,
    grace_hours: GraceHours = 0,
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = _CREATE_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Create a keyspace and give its buckets their owners."""
    config = map_pb2.KeyspaceConfig(
        name=name,
        buckets=buckets,
        replication_factor=copies,
        mode=map_pb2.KeyspaceMode.Value(f"KEYSPACE_MODE_{mode.name}"),
        durability=_durability_number(durability),
        read_consistency=int(level_number(read_consistency)),
        write_consistency=int(level_number(write_consistency)),
        redis_db=redis_db,
        max_value_bytes=max_value_bytes,
        grace_ms=round(grace_hours * 3_600_000),
    )
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.CreateKeyspace, admin_pb2.CreateKeyspaceRequest(config=config))
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    out = console()
    made = response.config
    out.print(
        Text(
            f"created {made.name}: {made.buckets} buckets, {made.replication_factor} copies",
            style="green",
        )
    )
    for warning in response.warnings:
        out.print(Text(f"! {warning}", style="yellow"))
    out.print(
        next_commands(
            [f"dabba put -k {made.name} KEY VALUE", f"dabba keyspace describe {made.name}"]
        )
    )


def _durability_number(durability: Durability | None) -> "map_pb2.Durability.ValueType":
    name = durability.name if durability is not None else "UNSPECIFIED"
    return map_pb2.Durability.Value(f"DURABILITY_{name}")


@keyspace_app.command("list")
def keyspace_list(
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the keyspaces and how many of their buckets are well."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.ListKeyspaces, admin_pb2.ListKeyspacesRequest())
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    console().print(keyspace_table(response.keyspaces))


@keyspace_app.command("describe")
def keyspace_describe(
    name: Name,
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the settings of a keyspace, what they promise, and where its buckets are."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.DescribeKeyspace, admin_pb2.DescribeKeyspaceRequest(name=name))
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    out = console()
    out.print(pairs(_settings(response.keyspace.config)))
    out.print(keyspace_table([response.keyspace]))
    shares = ((share.node, share.zone, share.buckets) for share in response.shares)
    out.print(table("owners", ("NODE", "ZONE", "BUCKETS>"), shares))
    for note in response.notes:
        out.print(Text(f"- {note}"))


def _settings(config: map_pb2.KeyspaceConfig) -> list[tuple[str, str | Text]]:
    return [
        ("name", config.name),
        ("mode", _mode(config)),
        ("durability", short_name(map_pb2.Durability.DESCRIPTOR, config.durability).lower()),
        ("largest value", size_text(config.max_value_bytes)),
        ("old versions kept", f"{config.retention_ms} ms"),
        ("change log", f"{size_text(config.log_bytes_per_bucket)} a bucket"),
        ("clock skew allowed", f"{config.max_skew_ms} ms"),
        ("tombstones stay", f"{config.grace_ms / 3_600_000:g} h"),
    ]


def _mode(config: map_pb2.KeyspaceConfig) -> str:
    return short_name(map_pb2.KeyspaceMode.DESCRIPTOR, config.mode).lower()


def keyspace_table(keyspaces: Iterable[admin_pb2.KeyspaceStatus]) -> Table:
    """One row a keyspace: its settings and the state of its buckets."""
    columns = (
        "NAME", "MODE", "COPIES>", "READ", "WRITE", "SELECT>", "BUCKETS>", "HEALTHY>", "DEGRADED>",
        "UNAVAILABLE>",
    )  # fmt: skip
    return table("keyspaces", columns, (_row(status) for status in keyspaces))


def _row(status: admin_pb2.KeyspaceStatus) -> tuple[str | Text | int, ...]:
    config = status.config
    degraded, unavailable = status.buckets_degraded, status.buckets_unavailable
    return (
        config.name,
        _mode(config) + (" (being created)" if config.creating else ""),
        config.replication_factor,
        level_name(config.read_consistency),
        level_name(config.write_consistency),
        config.redis_db if config.redis_db >= 0 else "-",
        config.buckets,
        Text(str(status.buckets_healthy), style="green"),
        Text(str(degraded), style="yellow" if degraded else ""),
        Text(str(unavailable), style="bold red" if unavailable else ""),
    )
