"""The options that several commands share."""

import enum
from typing import Annotated

import typer

from protos.dabbawala.v1.data_pb2 import Consistency


class OutputFormat(enum.StrEnum):
    """For people, or one JSON object for programs."""

    TABLE = "table"
    JSON = "json"


class Level(enum.StrEnum):
    """How many owners must agree, as people write it."""

    ANY = "any"
    ONE = "one"
    LOCAL_ONE = "local_one"
    QUORUM = "quorum"
    LOCAL_QUORUM = "local_quorum"
    EACH_QUORUM = "each_quorum"
    ALL = "all"
    BOUNDED = "bounded"
    SESSION = "session"

    @property
    def number(self) -> Consistency.ValueType:
        """The value of the protocol's enumeration."""
        return Consistency.Value(f"CONSISTENCY_{self.name}")


def level_number(level: Level | None) -> Consistency.ValueType:
    """The protocol's value; unspecified (the keyspace's default) when none was given."""
    return Consistency.CONSISTENCY_UNSPECIFIED if level is None else level.number


def level_name(number: int) -> str:
    """The protocol's value as people read it: QUORUM; "default" when unspecified."""
    if number == Consistency.CONSISTENCY_UNSPECIFIED:
        return "default"
    if number not in Consistency.values():
        return str(number)
    return Consistency.Name(Consistency.ValueType(number)).removeprefix("CONSISTENCY_")


Output = Annotated[
    OutputFormat,
    typer.Option("-o", "--output", help="How to print: a table, or one JSON object."),
]
ControlPlaneAddress = Annotated[
    str | None,
    typer.Option(
        "--control-plane",
        metavar="HOST:PORT",
        help="The control plane (else DABBA_CONTROL_PLANE, else that of a running `dabba dev`).",
    ),
]
SidecarAddress = Annotated[
    str | None,
    typer.Option(
        "--sidecar",
        metavar="HOST:PORT",
        help="The sidecar's gRPC door (else DABBA_SIDECAR, else that of a running `dabba dev`).",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.001,
        max=600.0,
        metavar="SECONDS",
        help="How long to wait for each answer, in seconds.",
    ),
]
Keyspace = Annotated[str, typer.Option("-k", "--keyspace", help="The keyspace of the key.")]
ConsistencyLevel = Annotated[
    Level | None,
    typer.Option(
        "-c",
        "--consistency",
        case_sensitive=False,
        help="How many owners must agree (else what the keyspace says).",
    ),
]

DEFAULT_TIMEOUT_S = 5.0
