"""The configuration of one control-plane process: file, environment, flags; the later one wins."""

import argparse
import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from control_plane.errors import BadConfig

ENV_PREFIX: Final = "DABBA_CONTROL_PLANE_"
_NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
_ADDRESS: Final = re.compile(r"^(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\s]+):(?P<port>\d{1,5})$")

Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=_NAME_PATTERN)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times in milliseconds. With port 0 `listen` takes a free one, which `ports_file` names."""

    cluster: Name
    id: Name
    store: str
    listen: str = "127.0.0.1:0"
    advertise: str = ""  # where other instances reach this one; empty: where it listens
    ports_file: str = ""
    metrics: str = ""  # host:port of a Prometheus page; empty: none
    probe_interval_ms: Annotated[int, msgspec.Meta(ge=50, le=10_000)] = 1_000
    # How long a node that lost data is SUSPECT before it is repaired by itself; -1: never.
    admission_settle_ms: Annotated[int, msgspec.Meta(ge=-1, le=3_600_000)] = 3_000
    # How often each keyspace's old tombstones are taken away; -1: by command only.
    compaction_interval_ms: Annotated[int, msgspec.Meta(ge=-1, le=31_536_000_000)] = 86_400_000
    session_timeout_ms: Annotated[int, msgspec.Meta(ge=600, le=60_000)] = 10_000
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"

    def __post_init__(self) -> None:
        split_address("listen", self.listen)
        if self.advertise:
            split_address("advertise", self.advertise)
        if self.metrics:
            split_address("metrics", self.metrics)


_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Config)}


def split_address(key: str, address: str) -> tuple[str, int]:
    """Host (IPv6 in brackets) and port. ValueError names the key and the form."""
    match = _ADDRESS.match(address)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError(f"{key} is {address!r}; write host:port with a port from 0 to 65535")
    return match["host"], int(match["port"])


def load_config(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Config:
    """Read flags (`--cluster dev`), DABBA_CONTROL_PLANE_* variables and the file of `--config`.

    Raises BadConfig with one line that names the key, the bound and what to do.
    """
    environment = os.environ if environment is None else environment
    flags = vars(_parser().parse_args(arguments))
    path = flags.pop("config") or environment.get(ENV_PREFIX + "CONFIG")
    values: dict[str, Any] = _read_file(Path(path)) if path else {}
    texts = _from_environment(environment) | {
        key: text for key, text in flags.items() if text is not None
    }
    values |= {key: _number_if_one(key, text) for key, text in texts.items()}
    for key in values:
        if key not in _FIELDS:
            raise BadConfig(_unknown(key, path or "the environment"))
    for key in ("cluster", "id", "store"):
        if key not in values:
            raise BadConfig(
                f"{key} is not set; give --{key}, {_variable(key)}, or {key} in the --config file"
            )
    try:
        return msgspec.convert(values, Config)
    except (msgspec.ValidationError, ValueError) as error:
        raise BadConfig(_bad_value(str(error))) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dabba-control-plane",
        description="Places buckets on nodes, watches the nodes, and hands the map to sidecars.",
        epilog=f"Flags are also keys of the --config file, and variables: {_variable('cluster')}.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a .json or .toml file")
    for name, field in _FIELDS.items():
        default = "" if field.default in (msgspec.NODEFAULT, "") else f" (default {field.default})"
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, help=f"{_HELP[name]}{default}"
        )
    return parser


_HELP: Final = {
    "cluster": "name of the cluster: a-z, 0-9 and '-'",
    "id": "name of this instance: a-z, 0-9 and '-'",
    "store": "sqlite:///path or zookeeper://host:port,host:port",
    "listen": "host:port of the gRPC server",
    "advertise": "host:port where other instances reach this one; where it listens when not set",
    "ports_file": "file that names the bound ports, as JSON, once they are bound",
    "metrics": "host:port of a Prometheus page; none when not set",
    "probe_interval_ms": "how often each node is asked how it is, 50 to 10000",
    "admission_settle_ms": "how long a node that lost data waits for its repair; -1: for ever",
    "compaction_interval_ms": "how often old tombstones are taken away; 0 or -1: by command only",
    "session_timeout_ms": "silence after which another instance leads, 600 to 60000",
    "log_level": "debug, info, warning or error",
}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadConfig(f"cannot read --config {path}: {error.strerror}") from None
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text.decode())
        if path.suffix == ".json":
            return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, msgspec.DecodeError) as error:
        raise BadConfig(f"{path} is not valid: {error}") from None
    raise BadConfig(f"--config {path}: the name must end with .json or .toml")


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENV_PREFIX) and name != ENV_PREFIX + "CONFIG"
    }


def _number_if_one(key: str, text: str) -> str | int:
    """Flags and variables are text; in a file a number must be a number."""
    field = _FIELDS.get(key)
    return (
        int(text)
        if field is not None and isinstance(field.default, int) and text.isdigit()
        else text
    )


def _variable(key: str) -> str:
    return ENV_PREFIX + key.upper()


def _unknown(key: str, where: str) -> str:
    near = difflib.get_close_matches(key, _FIELDS, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else "the keys are " + ", ".join(_FIELDS)
    return f"unknown configuration key {key!r} in {where}; {advice}"


def _bad_value(message: str) -> str:
    """msgspec says 'Expected `int` >= 50 - at `$.listen`'; people look for the key first."""
    match = re.match(r"(?P<what>.*) - at `\$\.(?P<key>\w+)`$", message)
    if match is None:
        return message
    key = match["key"]
    return f"{key}: {match['what'][0].lower()}{match['what'][1:]} ({_HELP.get(key, 'see --help')})"
