"""`dabba get`, `put`, `delete` and `where`: one key, through the sidecar."""

import os
import shlex
import sys
import time
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.text import Text

from control_plane.cli import session_file
from control_plane.cli.calls import sidecar
from control_plane.cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError
from control_plane.cli.options import (
    DEFAULT_TIMEOUT_S,
    ConsistencyLevel,
    Keyspace,
    Output,
    OutputFormat,
    SidecarAddress,
    Timeout,
    level_name,
    level_number,
)
from control_plane.cli.output import coloured, console, next_commands, pairs, print_json, table
from control_plane.cli.session_file import SessionFile
from control_plane.cli.views import bytes_view, shown
from protos.dabbawala.v1 import data_pb2

Key = Annotated[str, typer.Argument(help="The key, 1 to 1024 bytes.", show_default=False)]
Value = Annotated[str, typer.Argument(help="The value; - reads it from standard input.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="Write the value's bytes exactly, without a newline.")
]
TimeToLive = Annotated[
    float | None,
    typer.Option("--ttl", min=0.001, max=1e9, metavar="SECONDS", help="When the value expires."),
]
RetryVersion = Annotated[
    str,
    typer.Option(
        metavar="HEX",
        help="The version that an attempt with an unknown outcome named: the same write again.",
    ),
]

_VERSION_BYTES = 16


def get(
    key: Key,
    keyspace: Keyspace = "default",
    consistency: ConsistencyLevel = None,
    raw: Raw = False,
    session: SessionFile = None,
    sidecar_address: SidecarAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print the value of a key. Status 1 when there is none."""
    request = data_pb2.GetRequest(
        keyspace=keyspace,
        key=os.fsencode(key),
        consistency=level_number(consistency),
        timeout_ms=_milliseconds(timeout),
        session=session_file.brought(session),
    )
    with sidecar(sidecar_address, timeout) as (peer, data):
        response = peer.call(data.Get, request)
    if output is OutputFormat.JSON:
        print_json(_get_view(request, response))
    elif response.found and raw:
        sys.stdout.buffer.write(response.value)
        sys.stdout.buffer.flush()
    elif response.found:
        sys.stdout.write(shown(response.value) + "\n")
    session_file.keep(session, response.session)
    if not response.found:
        if output is OutputFormat.TABLE:
            sys.stderr.write(f"dabba: not found: {key!r} in keyspace {keyspace}\n")
        raise typer.Exit(EXIT_FAILED)


def put(
    key: Key,
    value: Value,
    keyspace: Keyspace = "default",
    consistency: ConsistencyLevel = None,
    ttl: TimeToLive = None,
    retry_version: RetryVersion = "",
    session: SessionFile = None,
    sidecar_address: SidecarAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Write the value of a key."""
    request = data_pb2.PutRequest(
        keyspace=keyspace,
        key=os.fsencode(key),
        value=sys.stdin.buffer.read() if value == "-" else os.fsencode(value),
        consistency=level_number(consistency),
        timeout_ms=_milliseconds(timeout),
        expires_at_ms=0 if ttl is None else int((time.time() + ttl) * 1000),
        retry_version=_version_bytes(retry_version),
        session=session_file.brought(session),
    )
    with sidecar(sidecar_address, timeout) as (peer, data):
        response = peer.call(data.Put, request)
    written = {"superseded": response.superseded}
    _print_write(output, request, response, written)
    session_file.keep(session, response.session)


def delete(
    key: Key,
    keyspace: Keyspace = "default",
    consistency: ConsistencyLevel = None,
    retry_version: RetryVersion = "",
    session: SessionFile = None,
    sidecar_address: SidecarAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Delete a key."""
    request = data_pb2.DeleteRequest(
        keyspace=keyspace,
        key=os.fsencode(key),
        consistency=level_number(consistency),
        timeout_ms=_milliseconds(timeout),
        retry_version=_version_bytes(retry_version),
        session=session_file.brought(session),
    )
    with sidecar(sidecar_address, timeout) as (peer, data):
        response = peer.call(data.Delete, request)
    written = {"existed": response.existed, "superseded": response.superseded}
    _print_write(output, request, response, written)
    session_file.keep(session, response.session)


def where(
    key: Key,
    keyspace: Keyspace = "default",
    consistency: ConsistencyLevel = None,
    sidecar_address: SidecarAddress = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show the bucket and the owners of a key, and which one a read would take and why."""
    request = data_pb2.LocateRequest(
        keyspace=keyspace, key=os.fsencode(key), consistency=level_number(consistency)
    )
    with sidecar(sidecar_address, timeout) as (peer, data):
        found = peer.call(data.Locate, request)
    if output is OutputFormat.JSON:
        print_json(_location_view(request.key, found))
    else:
        _print_location(request.key, found)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _version_bytes(text: str) -> bytes:
    try:
        version = bytes.fromhex(text)
    except ValueError:
        version = b"?"
    if len(version) not in (0, _VERSION_BYTES):
        raise CommandError(
            f"--retry-version is {text!r}, which is no version",
            f"give the {2 * _VERSION_BYTES} hexadecimal digits that the earlier attempt printed",
            exit_code=EXIT_USAGE,
        )
    return version


def _get_view(request: data_pb2.GetRequest, response: data_pb2.GetResponse) -> dict[str, object]:
    value: dict[str, object] = {"value": None}
    if response.found:
        value = dict(bytes_view("value", response.value))
    return {
        "keyspace": request.keyspace,
        **bytes_view("key", request.key),
        "found": response.found,
        **value,
        "version": response.version.hex(),
        "consistency": level_name(response.consistency),
        "expires_at_ms": response.expires_at_ms,
    }


def _print_write(
    output: OutputFormat,
    request: data_pb2.PutRequest | data_pb2.DeleteRequest,
    response: data_pb2.PutResponse | data_pb2.DeleteResponse,
    facts: dict[str, bool],
) -> None:
    level, version = level_name(response.consistency), response.version.hex()
    if output is OutputFormat.JSON:
        print_json(
            {
                "keyspace": request.keyspace,
                **bytes_view("key", request.key),
                "outcome": "OK",
                "version": version,
                "consistency": level,
                **facts,
            }
        )
        return
    line = Text("OK", style="green")
    line.append(f" at {level}, version {version}", style="default")
    if not facts.get("existed", True):
        line.append(", there was no value")
    if facts["superseded"]:
        line.append(", superseded: a newer write was there already", style="yellow")
    console().print(line)


def _owner_view(owner: data_pb2.OwnerView) -> dict[str, object]:
    return {
        "node": owner.node,
        "zone": owner.zone,
        "rack": owner.rack,
        "address": owner.address,
        "health": owner.health,
        "latency_ms": owner.latency_ms,
        "incarnation": owner.incarnation,
    }


def _location_view(key: bytes, found: data_pb2.LocateResponse) -> dict[str, object]:
    return {
        "keyspace": found.keyspace,
        **bytes_view("key", key),
        "bucket": found.bucket,
        "epoch": found.epoch,
        "key_hash": f"0x{found.key_hash:016x}",
        "stage": found.stage,
        "owners": [_owner_view(owner) for owner in found.owners],
        "pending_owners": [_owner_view(owner) for owner in found.pending_owners],
        "read_replicas": [_owner_view(owner) for owner in found.read_replicas],
        "target": found.target,
        "reason": found.reason,
        "data_key": found.data_key,
        **bytes_view("field", found.field),
        "consistency": level_name(found.consistency),
        "map_revision": found.map_revision,
        "check": _check_command(found),
    }


def _check_command(found: data_pb2.LocateResponse) -> str:
    """What a person types to see the record on the owner itself, without Dabbawala in between."""
    owners = sorted(found.owners, key=lambda owner: owner.node != found.target)
    if not owners:
        return ""
    host, _, port = owners[0].address.rpartition(":")
    return (
        f"redis-cli -h {host.strip('[]')} -p {port} HGET {shlex.quote(found.data_key)}"
        f" {_shell_word(found.field)}"
    )


def _shell_word(value: bytes) -> str:
    text = shown(value)
    if value.isascii() and text.isprintable() and not text.startswith("b'"):
        return shlex.quote(text)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in value) + "'"


def _print_location(key: bytes, found: data_pb2.LocateResponse) -> None:
    out = console()
    target = Text(found.target or "none can be reached", style="" if found.target else "bold red")
    if found.reason:
        target.append(f" ({found.reason})", style="dim")
    rows: list[tuple[str, str | Text]] = [
        ("key", shown(key)),
        ("keyspace", found.keyspace),
        ("bucket", f"{found.bucket} (hash 0x{found.key_hash:016x})"),
        ("epoch", f"{found.epoch}, stage {found.stage}, map revision {found.map_revision}"),
        ("a read takes", target),
        ("on the owners", f"{found.data_key}, field {shown(found.field)}"),
    ]
    out.print(pairs(rows))
    groups = (
        ("owners", found.owners),
        ("pending owners", found.pending_owners),
        ("read replicas", found.read_replicas),
    )
    for title, owners in groups:
        if owners:
            out.print(
                table(title, ("NODE", "ZONE", "ADDRESS", "HEALTH", "LATENCY>"), _owner_rows(owners))
            )
    out.print(next_commands([_check_command(found)]))


def _owner_rows(owners: Iterable[data_pb2.OwnerView]) -> list[tuple[str | Text, ...]]:
    return [
        (o.node, o.zone, o.address, coloured(o.health), f"{o.latency_ms:.2f} ms") for o in owners
    ]
