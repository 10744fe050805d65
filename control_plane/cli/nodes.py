"""`dabba node add` and `node list`."""

import time
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from control_plane.cli.calls import control_plane
from control_plane.cli.errors import EXIT_USAGE, CommandError
from control_plane.cli.options import (
    DEFAULT_TIMEOUT_S,
    ControlPlaneAddress,
    Output,
    OutputFormat,
    Timeout,
)
from control_plane.cli.output import (
    age_text,
    coloured,
    console,
    next_commands,
    print_json,
    size_text,
    table,
)
from control_plane.cli.views import plain
from protos.dabbawala.v1 import admin_pb2, map_pb2

node_app = typer.Typer(help="The replica servers.", no_args_is_help=True)

NodeId = Annotated[str, typer.Argument(help="A name of its own: a-z, 0-9 and '-'.")]
NodeAddress = Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the server listens.")]
Zone = Annotated[str, typer.Option(help="What fails together: copies are spread over zones.")]
Rack = Annotated[str, typer.Option(help="Where in the zone.")]
Weight = Annotated[int, typer.Option(min=1, max=10_000, help="Capacity; 100 is an ordinary node.")]


@node_app.command("add")
def node_add(
    node_id: NodeId,
    address: NodeAddress,
    zone: Zone,
    rack: Rack = "",
    weight: Weight = 100,
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Register a replica server, after checking that it may be one."""
    host, port = _host_and_port(address)
    request = admin_pb2.AddNodeRequest(
        id=node_id, host=host, port=port, zone=zone, rack=rack, weight=weight
    )
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.AddNode, request)
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    out = console()
    entry = response.node
    out.print(Text(f"added {entry.id} at {address} in zone {entry.zone}", style="green"))
    for warning in response.warnings:
        out.print(Text(f"! {warning}", style="yellow"))
    out.print(next_commands(["dabba status"]))


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CommandError(
            f"the address is {address!r}", "write HOST:PORT, port 1 to 65535", exit_code=EXIT_USAGE
        )
    return host.strip("[]"), int(port)


AcceptLoss = Annotated[
    bool,
    typer.Option(
        "--accept-loss",
        help="Where no majority is left: merge what can be reached, give up the rest.",
    ),
]


@node_app.command("recover")
def node_recover(
    node_id: NodeId,
    accept_loss: AcceptLoss = False,
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Take back a replica server whose data is not trusted, now."""
    request = admin_pb2.RecoverNodeRequest(id=node_id, accept_loss=accept_loss)
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.RecoverNode, request)
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    out = console()
    out.print(Text(f"{node_id} is being repaired", style="green"))
    out.print(next_commands(["dabba repair status", "dabba status"]))


@node_app.command("list")
def node_list(
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the replica servers and their health."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.ListNodes, admin_pb2.ListNodesRequest())
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    console().print(node_table(response.nodes, time.time_ns() // 1_000_000))


def node_table(nodes: Iterable[admin_pb2.NodeStatus], now_ms: int) -> Table:
    """One row a node: where it is, how it is, what it holds."""
    columns = (
        "ID", "ZONE", "ADDRESS", "HEALTH", "SINCE>", "STATE", "SERVER", "KEYS>", "MEMORY>",
        "BUCKETS>", "DETAIL",
    )  # fmt: skip
    return table("nodes", columns, (_row(status, now_ms) for status in nodes))


def _row(status: admin_pb2.NodeStatus, now_ms: int) -> tuple[str | Text | int, ...]:
    node = status.node
    return (
        node.id,
        node.zone,
        f"{node.host}:{node.port}",
        coloured(status.health),
        age_text(status.since_ms, now_ms),
        coloured(map_pb2.NodeState.Name(node.state).removeprefix("NODE_STATE_").lower()),
        status.server,
        status.keys,
        size_text(status.used_memory_bytes),
        status.owned_buckets,
        status.detail or node.reason,
    )
