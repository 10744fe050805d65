"""Calls over gRPC with a deadline, and what their errors mean in words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from control_plane.cli.addresses import CONTROL_PLANE, SIDECAR, Server, find_address
from control_plane.cli.credentials import CA_VARIABLE, tls_credentials, token_metadata
from control_plane.cli.errors import CommandError
from protos.dabbawala.v1.admin_pb2_grpc import AdminStub
from protos.dabbawala.v1.data_pb2_grpc import DataStub

Response = TypeVar("Response")

_MAX_MESSAGE_BYTES = 64 << 20  # a map of many keyspaces is larger than gRPC's default of 4 MiB
_CHANNEL_OPTIONS = (
    # An HTTP proxy of the environment is for the web, never for a server on this host.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
)

_ANSWER_MARGIN_S = 0.5

# What to type after a refusal, by its stable reason.
_NEW_SESSION = "a new session begins when the file of --session is removed"
_NEXT_BY_REASON = {
    "KEYSPACE_UNKNOWN": "see which there are: dabba keyspace list",
    "NO_MAP": "see why: dabba doctor",
    "NO_OWNER_IN_ZONE": "see where the owners are: dabba status",
    "NOT_ENOUGH_REPLICAS": "see which nodes are down: dabba status",
    "TIMEOUT": "try a longer --timeout, or see which nodes are slow: dabba status",
    "REPLICAS_DISAGREE": "see what is wrong: dabba doctor",
    "SESSION_INVALID": _NEW_SESSION,
    "SESSION_KEY_UNKNOWN": _NEW_SESSION,
    "SESSION_STALE": _NEW_SESSION,
    "UNAUTHENTICATED": "name the application by its token: export DABBA_TOKEN=...",
    "TOKEN_REFUSED": "look at the token in DABBA_TOKEN",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One server and how long to wait for each of its answers."""

    server: Server
    address: str
    channel: grpc.Channel
    timeout_s: float
    metadata: tuple[tuple[str, str], ...] = ()

    def call(self, method: Callable[..., Response], request: object) -> Response:
        """The answer of one unary call. Raises CommandError."""
        try:
            # A server keeps the time itself and says what was slow: it is given the time to say so.
            return method(
                request, timeout=self.timeout_s + _ANSWER_MARGIN_S, metadata=self.metadata
            )
        except grpc.RpcError as error:
            raise self._in_words(error) from error

    def _in_words(self, error: grpc.RpcError) -> CommandError:
        code, details = error.code(), error.details() or ""
        reason, metadata = _error_info(error)
        where = f"{self.server.title} at {self.address}"
        if code is grpc.StatusCode.UNAVAILABLE and not reason and _not_connected(details):
            tls = f" see whether {CA_VARIABLE} fits it," if self.server is SIDECAR else ""
            return CommandError(
                f"cannot reach {where}",
                f"check that it runs,{tls} or name another with {self.server.flag} HOST:PORT,"
                " or start a cluster with: dabba dev",
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and not reason:
            return CommandError(
                f"{where} did not answer within {self.timeout_s:g} s",
                "try a longer --timeout, or see what is wrong: dabba doctor",
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return CommandError(
                f"{where} does not know this call",
                f"check that {self.server.flag} names {self.server.title} and not another server",
            )
        message = f"{details or code.name}{_facts(metadata)}"
        return CommandError(message.rstrip("."), _NEXT_BY_REASON.get(reason, ""))


def _not_connected(details: str) -> bool:
    """Whether gRPC itself says so, and not a server that answered UNAVAILABLE."""
    return any(
        words in details
        for words in ("failed to connect", "Connection refused", "Socket closed", "resolution")
    )


def _error_info(error: grpc.RpcError) -> tuple[str, dict[str, str]]:
    """The reason and the facts that a server attached, or ("", {})."""
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:  # the trailer contradicts the status: believe the status
        return "", {}
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}


def _facts(metadata: dict[str, str]) -> str:
    """The outcome of a write, with the version that repeats it: what a person must not miss."""
    outcome = metadata.get("outcome", "")
    if outcome in ("", "OK"):
        return ""
    version = metadata.get("version", "")
    again = f", repeat it with --retry-version {version}" if version else ""
    return f" (outcome {outcome}{again})"


@contextmanager
def _connected(
    server: Server,
    flag: str | None,
    timeout_s: float,
    metadata: tuple[tuple[str, str], ...] = (),
    tls: grpc.ChannelCredentials | None = None,
) -> Iterator[Peer]:
    address = find_address(server, flag)
    if tls is None or address.startswith("unix:"):  # where nobody speaks TLS
        made = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
    else:
        made = grpc.secure_channel(address, tls, options=_CHANNEL_OPTIONS)
    with made as channel:
        yield Peer(server, address, channel, timeout_s, metadata)


@contextmanager
def control_plane(flag: str | None, timeout_s: float) -> Iterator[tuple[Peer, AdminStub]]:
    """The control plane that the flag, the environment or a running `dabba dev` names."""
    with _connected(CONTROL_PLANE, flag, timeout_s) as peer:
        yield peer, AdminStub(peer.channel)


@contextmanager
def sidecar(flag: str | None, timeout_s: float) -> Iterator[tuple[Peer, DataStub]]:
    """The sidecar that the flag, the environment or a running `dabba dev` names."""
    with _connected(SIDECAR, flag, timeout_s, token_metadata(), tls_credentials()) as peer:
        yield peer, DataStub(peer.channel)
