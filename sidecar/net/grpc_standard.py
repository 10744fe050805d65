"""The services that tools expect of every gRPC server: health and reflection.

Kubernetes probes and load balancers ask for the first; grpcurl and its like need nothing but the
second to call every method.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from sidecar.wire.grpc import Call, GrpcRoutes, StreamSink

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
REFLECTION_SERVICES: Final = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_INVALID_ARGUMENT: Final = 3
_NOT_FOUND: Final = 5

_REMEMBERED_QUESTIONS: Final = 128
_REMEMBERED_BYTES: Final = 256  # of a question; its answer is a file's description, 20 KB at most

Status: TypeAlias = int  # one of the three above


class HealthService:
    """grpc.health.v1: the status of each service by name; "" stands for the whole server."""

    def __init__(self, status: Status = NOT_SERVING) -> None:
        self._statuses: dict[str, Status] = {"": status}
        self._watchers: dict[str, set[_Watcher]] = {}

    def routes(self) -> GrpcRoutes:
        prefix = f"/{HEALTH_SERVICE}/".encode()
        return GrpcRoutes({prefix + b"Check": self._check}, {prefix + b"Watch": self})

    def set(self, service: str, status: Status) -> None:
        """Tells all who watch the service, if its status is another than before."""
        if self._statuses.get(service) == status:
            return
        self._statuses[service] = status
        for watcher in list(self._watchers.get(service, ())):
            watcher.tell(status)

    def status(self, service: str) -> Status | None:
        return self._statuses.get(service)

    def start(self, call: Call) -> StreamSink:
        """A Watch begins."""
        return _Watcher(self, call)

    def _check(self, call: Call, message: bytes) -> None:
        name = _read_service(call, message)
        if name is None:
            return
        status = self._statuses.get(name)
        if status is None:
            call.fail(_NOT_FOUND, f"no service {name!r} here")
        else:
            call.respond(_health(status))

    def _join(self, name: str, watcher: "_Watcher") -> None:
        self._watchers.setdefault(name, set()).add(watcher)
        watcher.tell(self._statuses.get(name, SERVICE_UNKNOWN))

    def _leave(self, name: str, watcher: "_Watcher") -> None:
        watchers = self._watchers.get(name, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(name, None)


class _Watcher:
    """One Watch call: its client is told the status now and at every change."""

    def __init__(self, health: HealthService, call: Call) -> None:
        self._health = health
        self._call = call
        self._name: str | None = None
        self._latest: Status | None = None
        self._full = False
        call.on_writable = self._on_writable

    def message(self, message: bytes) -> None:
        if self._name is not None:
            self._call.fail(_INVALID_ARGUMENT, "Watch takes one request")
            self.cancelled()
            return
        self._name = _read_service(self._call, message)
        if self._name is not None:
            self._health._join(self._name, self)

    def half_closed(self) -> None:
        if self._name is None:
            self._call.fail(_INVALID_ARGUMENT, "Watch needs a request")

    def cancelled(self) -> None:
        if self._name is not None:
            self._health._leave(self._name, self)
        self._call.finish()

    def tell(self, status: Status) -> None:
        """A client that does not read gets only the latest status once it does."""
        self._latest = status
        if not self._full:
            self._full = not self._call.send(_health(status))
            self._latest = None

    def _on_writable(self, call: Call) -> None:
        self._full = False
        if self._latest is not None:
            self.tell(self._latest)


def _read_service(call: Call, message: bytes) -> str | None:
    try:
        return health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError:
        call.fail(_INVALID_ARGUMENT, "not a HealthCheckRequest")
        return None


def _health(status: Status) -> bytes:
    return health_pb2.HealthCheckResponse(status=status).SerializeToString()


class ReflectionService:
    """Server reflection, v1 and v1alpha: the messages of the two are the same on the wire."""

    def __init__(self, services: Iterable[str]) -> None:
        """`services`: full names of all services here; their files must have been imported."""
        self._servicer = ReflectionServicer([*services, *REFLECTION_SERVICES])
        # What is said never changes, takes 50 us to say, and is asked for in 20 bytes: a window
        # full of questions would hold up the loop for half a second.
        self.answers_to = lru_cache(maxsize=_REMEMBERED_QUESTIONS)(self._ask)

    def routes(self) -> GrpcRoutes:
        path = "ServerReflectionInfo"
        return GrpcRoutes({}, {f"/{name}/{path}".encode(): self for name in REFLECTION_SERVICES})

    def start(self, call: Call) -> StreamSink:
        return _Reflection(self, call)

    def _ask(self, message: bytes) -> tuple[bytes, ...]:
        """The answers to a question. Raises DecodeError."""
        request = reflection_pb2.ServerReflectionRequest.FromString(message)
        no_context = cast(Any, None)  # the servicer uses none
        answers = self._servicer.ServerReflectionInfo(iter([request]), no_context)
        return tuple(answer.SerializeToString() for answer in answers)


class _Reflection:
    """One stream of questions, answered in order."""

    def __init__(self, service: ReflectionService, call: Call) -> None:
        self._service = service
        self._call = call
        call.on_writable = self._on_writable

    def message(self, message: bytes) -> None:
        ask: Callable[[bytes], tuple[bytes, ...]] = self._service.answers_to
        if len(message) > _REMEMBERED_BYTES:
            ask = self._service.answers_to.__wrapped__
        try:
            answers = ask(message)
        except DecodeError:
            self._call.fail(_INVALID_ARGUMENT, "not a ServerReflectionRequest")
            return
        for answer in answers:
            if not self._call.send(answer):
                self._call.pause()  # who does not read the answers may not ask on

    def half_closed(self) -> None:
        self._call.finish()

    def cancelled(self) -> None:
        self._call.finish()

    def _on_writable(self, call: Call) -> None:
        call.resume()


def standard_routes(health: HealthService, services: Iterable[str]) -> GrpcRoutes:
    """Health and reflection; `services`: the full names of the application's own services."""
    reflection = ReflectionService([*services, HEALTH_SERVICE])
    return health.routes() | reflection.routes()
