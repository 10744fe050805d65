"""`dabba status`, `sidecars`, `doctor` and `map show`: the cluster as a whole."""

import time
from collections.abc import Iterable
from typing import Annotated

import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.table import Table
from rich.text import Text

from control_plane.cli.calls import control_plane, sidecar
from control_plane.cli.errors import EXIT_FAILED, CommandError
from control_plane.cli.keyspaces import keyspace_table
from control_plane.cli.nodes import node_table
from control_plane.cli.options import (
    DEFAULT_TIMEOUT_S,
    ControlPlaneAddress,
    Output,
    OutputFormat,
    SidecarAddress,
    Timeout,
)
from control_plane.cli.output import (
    age_text,
    coloured,
    console,
    next_commands,
    pairs,
    print_json,
    table,
)
from control_plane.cli.views import plain
from protos.dabbawala.v1 import admin_pb2, map_pb2

map_app = typer.Typer(help="The map: which nodes own which bucket.", no_args_is_help=True)

MapKeyspace = Annotated[
    str, typer.Option("-k", "--keyspace", help="Only this keyspace.", show_default="all")
]

_RANGE_BUCKETS = 64


def status(
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show nodes, keyspaces and sidecars, and what is wrong."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.Status, admin_pb2.StatusRequest())
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    now_ms = time.time_ns() // 1_000_000
    out = console()
    out.print(_summary(response))
    tables = (
        node_table(response.nodes, now_ms),
        keyspace_table(response.keyspaces),
        _sidecar_table(response.sidecars, now_ms),
    )
    for part in tables:
        out.print(part, "")
    for problem in response.problems:
        out.print(Text("! ", style="bold red").append(problem, style="default"))
    if not response.problems:
        out.print(Text("all is well", style="green"))
    out.print(next_commands(_after_status(response)))


def _summary(response: admin_pb2.StatusResponse) -> Text:
    line = Text(f"cluster {response.cluster}", style="bold")
    line.append(f", map revision {response.map_revision}, store {response.store}", style="default")
    if not response.store_reachable:
        line.append(" (unreachable)", style="bold red")
    if response.leader:
        line.append(f", leader {response.leader}")
    else:
        line.append(", no leader now", style="yellow")
    return line


def _after_status(response: admin_pb2.StatusResponse) -> list[str]:
    if response.problems:
        return ["dabba doctor", "dabba node list"]
    return ["dabba where KEY", "dabba keyspace describe NAME", "dabba sidecars"]


def _sidecar_table(sidecars: Iterable[admin_pb2.SidecarStatus], now_ms: int) -> Table:
    return table(
        "sidecars",
        ("ID", "ZONE", "ADDRESS", "MAP", "REVISION>", "CLOCK>", "CONNECTED>", "DETAIL"),
        (
            (
                one.id,
                one.zone,
                one.address,
                coloured(one.state),
                one.map_revision,
                _clock_text(one),
                age_text(one.connected_since_ms, now_ms),
                "; ".join(filter(None, (one.detail, one.clock_problem))),
            )
            for one in sidecars
        ),
    )


def _clock_text(sidecar: admin_pb2.SidecarStatus) -> str:
    """How far it is from the median of the nodes' clocks."""
    return f"{sidecar.clock_skew_ms:+.0f} ms" if sidecar.HasField("clock_skew_ms") else "-"


def sidecars(
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the sidecars that take their map from the control plane, and how new their map is."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.ListSidecars, admin_pb2.ListSidecarsRequest())
    if output is OutputFormat.JSON:
        print_json(plain(response))
        return
    console().print(_sidecar_table(response.sidecars, time.time_ns() // 1_000_000))


def doctor(
    control_plane_address: ControlPlaneAddress = None,
    sidecar_address: SidecarAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Check everything: what is wrong, why, and how to mend it. Status 1 when there is an error."""
    findings = [
        *_control_plane_findings(control_plane_address, timeout),
        *_sidecar_findings(sidecar_address, timeout),
    ]
    if output is OutputFormat.JSON:
        print_json({"findings": [plain(finding) for finding in findings]})
    else:
        _print_findings(findings)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def _control_plane_findings(address: str | None, timeout_s: float) -> list[admin_pb2.Finding]:
    try:
        with control_plane(address, timeout_s) as (peer, admin):
            return list(peer.call(admin.Doctor, admin_pb2.DoctorRequest()).findings)
    except CommandError as error:
        return [_unreachable("control-plane-unreachable", "control plane", error)]


def _sidecar_findings(address: str | None, timeout_s: float) -> list[admin_pb2.Finding]:
    request = health_pb2.HealthCheckRequest()
    try:
        with sidecar(address, timeout_s) as (peer, _):
            health = health_pb2_grpc.HealthStub(peer.channel)
            answer: health_pb2.HealthCheckResponse = peer.call(
                health.Check,  # type: ignore[attr-defined]  # set by its constructor
                request,
            )
            subject = f"sidecar {peer.address}"
    except CommandError as error:
        return [_unreachable("sidecar-unreachable", "sidecar", error)]
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return [admin_pb2.Finding(id="sidecar-ready", severity="ok", subject=subject)]
    return [
        admin_pb2.Finding(
            id="sidecar-not-ready",
            severity="error",
            subject=subject,
            cause="it says that it does not serve: it has no map yet, or it is draining",
            fix="see its map and its log: dabba sidecars",
        )
    ]


def _unreachable(finding_id: str, subject: str, error: CommandError) -> admin_pb2.Finding:
    return admin_pb2.Finding(
        id=finding_id, severity="error", subject=subject, cause=error.message, fix=error.hint
    )


def _print_findings(findings: list[admin_pb2.Finding]) -> None:
    rows = [(coloured(one.severity), one.id, one.subject, one.cause, one.fix) for one in findings]
    console().print(table("", ("SEVERITY", "CHECK", "SUBJECT", "CAUSE", "WHAT TO DO"), rows))


@map_app.command("show")
def map_show(
    keyspace: MapKeyspace = "",
    control_plane_address: ControlPlaneAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the owners of every bucket."""
    with control_plane(control_plane_address, timeout) as (peer, admin):
        response = peer.call(admin.GetMap, admin_pb2.GetMapRequest(keyspace=keyspace))
    buckets = [bucket for part in response.ranges for bucket in _buckets(part, response.nodes)]
    if output is OutputFormat.JSON:
        print_json(
            {
                "revision": response.revision,
                "cluster": response.nodes.cluster,
                "nodes": [plain(node) for node in response.nodes.nodes],
                "keyspaces": [plain(config) for config in response.keyspaces],
                "buckets": buckets,
            }
        )
        return
    out = console()
    out.print(pairs([("cluster", response.nodes.cluster), ("revision", str(response.revision))]))
    columns = ("KEYSPACE", "BUCKET>", "EPOCH>", "STAGE", "OWNERS")
    out.print(table("", columns, (_bucket_row(bucket) for bucket in buckets)))


def _bucket_row(bucket: dict[str, object]) -> tuple[str, ...]:
    owners = bucket["owners"]
    names = " ".join(str(owner) for owner in owners) if isinstance(owners, list) else ""
    return (
        str(bucket["keyspace"]),
        str(bucket["bucket"]),
        str(bucket["epoch"]),
        str(bucket["stage"]),
        names,
    )


def _buckets(part: map_pb2.BucketRange, nodes: map_pb2.NodeTable) -> list[dict[str, object]]:
    """The columns of a range as one value a bucket, owners by their id."""
    names = {node.number: node.id for node in nodes.nodes}
    counts = list(part.owner_counts) or [part.owners_each] * part.count
    extras = {extra.slot: extra for extra in part.extras}
    made: list[dict[str, object]] = []
    start = 0
    for slot, owners in enumerate(counts):
        extra = extras.get(slot, map_pb2.BucketExtra())
        offset = part.epoch_offsets[slot] if part.epoch_offsets else 0
        made.append(
            {
                "keyspace": part.keyspace,
                "bucket": part.index * _RANGE_BUCKETS + slot,
                "epoch": part.base_epoch + offset,
                "stage": map_pb2.Stage.Name(extra.stage).removeprefix("STAGE_"),
                "owners": [names.get(n, f"#{n}") for n in part.owners[start : start + owners]],
                "pending": [names.get(o.node, f"#{o.node}") for o in extra.pending],
                "read_replicas": [names.get(o.node, f"#{o.node}") for o in extra.read_replicas],
            }
        )
        start += owners
    return made
