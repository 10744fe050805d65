"""The sidecar's configuration: one frozen, typed value; a key that is not known is an error."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

ENV_PREFIX = "DABBA_SIDECAR_"
BAD_CONFIGURATION = 2  # status of a process that can not start with what it was told
ENGINES = ("own", "grpcio")
LISTS = ("control_planes", "tls_identities")  # comma separated in variables and flags


class ConfigError(Exception):
    """The configuration can not be used; the text says which key, its bound, and what to do."""


class SidecarConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a sidecar is told. Addresses are host:port, port 0 takes a free one."""

    cluster: str  # name of the cluster whose map it serves
    zone: str  # the zone it stands in: nearest replicas, LOCAL levels
    id: str = ""  # empty: made from host name and process
    grpc: str = "127.0.0.1:7070"
    redis: str = "127.0.0.1:6380"
    grpc_socket: str = ""  # path of a Unix socket; empty: none
    redis_socket: str = ""
    admin: str = "127.0.0.1:7071"
    control_planes: tuple[str, ...] = ()
    state_dir: str = ""  # keeps the map and the clock over restarts; empty: keeps nothing
    session_key_file: str = ""  # signs session tokens: the same for all sidecars of a cluster
    ports_file: str = ""  # where to write the addresses really bound, as JSON
    workers: int = 1  # processes that share the doors
    default_timeout_ms: int = 1000  # of requests that bring no deadline
    drain_timeout_ms: int = 10_000  # on SIGTERM, for what is in flight
    max_connections: int = 10_000  # per door and worker
    half_sent_timeout_ms: int = 60_000  # of a request or command whose end does not come
    unread_timeout_ms: int = 30_000  # of answers that a client does not read
    auth_timeout_ms: int = 10_000  # of a Redis client that is nobody until AUTH, if rights_file
    hint_log_bytes: int = 256 << 20  # per worker, of writes kept for owners that missed them
    hint_age_ms: int = 3 * 3_600_000  # older ones are dropped, and their buckets marked
    grpc_engine: str = "own"  # or "grpcio": the same services on grpcio's server
    grpc_max_message_bytes: int = 4 << 20  # of one request
    grpc_connection_age_ms: int = 0  # older connections are drained; 0: never
    grpc_connection_grace_ms: int = 30_000  # what they have to end in
    # TLS of both doors on TCP: PEM files; the doors on Unix sockets speak in the clear.
    tls_cert: str = ""  # empty: no TLS
    tls_key: str = ""
    tls_client_ca: str = ""  # clients must bring a certificate of it; empty: none is asked for
    tls_identities: tuple[str, ...] = ()  # names of clients that may come in; empty: all of the CA
    rights_file: str = ""  # who may do what; empty: everybody everything
    allow_remote: bool = False  # doors on addresses other than loopback


_BOUNDS = {
    "workers": (1, 64),
    "default_timeout_ms": (1, 600_000),
    "drain_timeout_ms": (0, 600_000),
    "max_connections": (1, 1_000_000),
    "half_sent_timeout_ms": (100, 3_600_000),
    "unread_timeout_ms": (100, 3_600_000),
    "auth_timeout_ms": (100, 3_600_000),
    "grpc_max_message_bytes": (64 << 10, 64 << 20),
    "grpc_connection_age_ms": (0, 30 * 86_400_000),
    "grpc_connection_grace_ms": (0, 3_600_000),
    "hint_log_bytes": (1 << 20, 1 << 40),
    "hint_age_ms": (1000, 30 * 86_400_000),
}
_ADDRESSES = ("grpc", "redis", "admin")


def load_config(path: str | None, overrides: Mapping[str, object]) -> SidecarConfig:
    """From a TOML or JSON file (if any), then DABBA_SIDECAR_* variables, then `overrides`.

    Raises ConfigError; the nearest right key is named for one that is not known.
    """
    values = _from_file(path) if path else {}
    values.update(_from_environment(os.environ))
    values.update({key: value for key, value in overrides.items() if value is not None})
    _refuse_unknown(values)
    try:
        config = msgspec.convert(values, SidecarConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}") from None
    _check(config)
    return config


def _from_file(path: str) -> dict[str, object]:
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"configuration file {path}: {error.strerror}") from None
    try:
        return decode_settings(path, raw)
    except ValueError as error:
        raise ConfigError(f"configuration file {path} {error}") from None


def decode_settings(path: str, raw: bytes) -> dict[str, object]:
    """TOML, or JSON when the file's name says so. Raises ValueError."""
    try:
        if path.endswith(".json"):
            return msgspec.json.decode(raw, type=dict[str, object])
        return tomllib.loads(raw.decode())
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "a JSON object" if path.endswith(".json") else "TOML"
        raise ValueError(f"is not {kind}: {error}") from None
    except RecursionError:
        raise ValueError("is nested too deep to be settings") from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in environment.items():
        if name.startswith(ENV_PREFIX):
            key = name.removeprefix(ENV_PREFIX).lower()
            values[key] = value.split(",") if key in LISTS else value
    return values


def _refuse_unknown(values: Mapping[str, object]) -> None:
    known = SidecarConfig.__struct_fields__
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"configuration: unknown key {key!r}; {hint}")


def _check(config: SidecarConfig) -> None:
    for key in ("cluster", "zone"):
        if not getattr(config, key):
            raise ConfigError(f"configuration: {key} is empty; name the sidecar's {key}")
    for key, (low, high) in _BOUNDS.items():
        value = getattr(config, key)
        if not low <= value <= high:
            raise ConfigError(f"configuration: {key} is {value}; it may be {low} to {high}")
    for key in _ADDRESSES:
        host, _port = split_address(key, getattr(config, key))
        if host not in ("127.0.0.1", "::1", "localhost") and not config.allow_remote:
            raise ConfigError(
                f"configuration: {key} is on {host}, which other hosts can reach; use 127.0.0.1,"
                " or set allow_remote to true if that is meant"
            )
    _check_tls(config)
    for address in config.control_planes:
        split_address("control_planes", address)


def _check_tls(config: SidecarConfig) -> None:
    if config.grpc_engine not in ENGINES:
        known = " or ".join(ENGINES)
        raise ConfigError(f"configuration: grpc_engine is {config.grpc_engine!r}; use {known}")
    needs = (
        ("tls_cert", "tls_key"),
        ("tls_key", "tls_cert"),
        ("tls_client_ca", "tls_cert"),
        ("tls_identities", "tls_client_ca"),
    )
    for key, other in needs:
        if getattr(config, key) and not getattr(config, other):
            raise ConfigError(f"configuration: {key} is given without {other}; give both, or none")


def split_address(key: str, address: str) -> tuple[str, int]:
    """`host:port` as a pair; ConfigError names `key` when it is not one."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ConfigError(
            f"configuration: {key} is {address!r}; it must be host:port with a port of 0 to 65535"
        )
    return host.strip("[]"), int(port)
