"""Rights at the Data service: no method answers who may not call it."""

import hashlib
import time

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.net.data_service import SERVICE, DataService
from sidecar.net.grpc_rights import GrpcRights
from sidecar.rights import STRANGER, Peer, Rights, parse_rights
from sidecar.wire.grpc import Call
from tests.support.memory_coordinator import MemoryCoordinator

PERMISSION_DENIED, UNAUTHENTICATED = 7, 16
METHODS = pb.DESCRIPTOR.services_by_name["Data"].methods_by_name
UNARY = [name for name, method in METHODS.items() if not method.client_streaming]
READS = {"Get", "BatchGet", "Scan", "Locate"}
WRITES = {"Put", "Delete", "BatchWrite", "Transact"}


class Asked(Call):
    """Keeps how it was answered."""

    __slots__ = ("code", "dead", "info", "text")

    def __init__(self, *headers: bytes, peer: object = STRANGER) -> None:
        super().__init__(
            method=b"",
            metadata=tuple((b"authorization", header) for header in headers),
            timeout_ns=None,
        )
        self.peer = peer
        self.code = -1
        self.text = ""
        self.dead = False
        self.info = ErrorInfo()

    @property
    def cancelled(self) -> bool:
        return self.dead

    def respond(self, message: bytes) -> None:
        self.finish()

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        self.ended, self.code, self.text = True, status, message
        for detail in Status.FromString(details).details:
            detail.Unpack(self.info)


def rights(**more: list[str]) -> Rights:
    granted = {"reader": ["read"], "writer": ["write"], "nothing": []} | more
    applications = [
        {
            "name": name,
            "rights": {"default": verbs},
            "tokens_sha256": [hashlib.sha256(name.encode()).hexdigest()],
            "identities": [f"{name}.example"],
        }
        for name, verbs in granted.items()
    ]
    return parse_rights({"applications": applications}, dict[str, int]().__getitem__)


class Service:
    """The Data service over a coordinator in memory, with rights."""

    def __init__(self) -> None:
        core = MemoryCoordinator({0: "default", 1: "other"}, lambda: 1_763_700_000_000)
        self.rights = GrpcRights(rights())
        service = DataService(core, time.monotonic, lambda act: None, self.rights)  # type: ignore[arg-type]
        self.handlers = service.handlers()

    def ask(self, method: str, call: Asked, keyspace: str = "") -> Asked:
        request = pb.GetRequest(keyspace=keyspace)  # the keyspace is field 1 of all of them
        self.handlers[SERVICE + method.encode()](call, request.SerializeToString())
        return call


@pytest.mark.parametrize("method", UNARY)
def test_no_method_answers_who_is_granted_nothing(method: str) -> None:
    service = Service()
    nobody = service.ask(method, Asked())
    assert (nobody.code, nobody.info.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED")
    assert "authorization: Bearer TOKEN" in nobody.text
    denied = service.ask(method, Asked(b"Bearer nothing"))
    assert (denied.code, denied.info.reason) == (PERMISSION_DENIED, "RIGHT_MISSING")
    wrong = service.ask(method, Asked(b"Bearer wrong"))
    assert (wrong.code, wrong.info.reason) == (UNAUTHENTICATED, "TOKEN_REFUSED")


@pytest.mark.parametrize("method", UNARY)
def test_a_method_takes_its_rights_and_no_others(method: str) -> None:
    guarded = GrpcRights(rights()).guard(method, lambda call, _: call.respond(b""))
    for name, allowed in (("reader", READS), ("writer", WRITES)):
        for keyspace in ("", "default", "other"):
            call = Asked(f"Bearer {name}".encode())
            guarded(call, pb.GetRequest(keyspace=keyspace).SerializeToString())
            granted = method in allowed and keyspace != "other"
            assert call.code == (0 if granted else PERMISSION_DENIED)
            assert call.info.metadata["keyspace"] == ("" if granted else keyspace or "default")


def test_the_last_keyspace_of_a_message_counts_as_it_does_for_the_handler() -> None:
    service = Service()
    parts = [pb.GetRequest(keyspace=name).SerializeToString() for name in ("default", "other")]
    for smuggled in (b"".join(parts), b"".join(reversed(parts))):
        seen = pb.GetRequest.FromString(smuggled).keyspace
        call = Asked(b"Bearer reader")
        service.handlers[SERVICE + b"Get"](call, smuggled)
        assert (call.code == PERMISSION_DENIED) == (seen == "other")


def test_the_error_says_who_lacks_what_and_where_it_is_granted() -> None:
    call = Service().ask("CompareAndSet", Asked(b"Bearer reader"))
    assert dict(call.info.metadata) == {
        "application": "reader",
        "keyspace": "default",
        "missing": "write",
        "outcome": "NOT_APPLIED",
    }
    assert call.text == (
        "reader may not write in keyspace default; grant it in the sidecar's rights_file"
    )


def test_two_authorizations_are_nobodys_though_the_first_is_known() -> None:
    service = Service()
    known = service.ask("Get", Asked(b"Bearer reader"))
    assert known.code not in (UNAUTHENTICATED, PERMISSION_DENIED)
    twice = service.ask("Get", Asked(b"Bearer reader", b"Bearer writer"))
    assert (twice.code, twice.info.reason) == (UNAUTHENTICATED, "TOKEN_REFUSED")


@pytest.mark.parametrize(
    "headers",
    [
        (b"reader",),
        (b"Basic reader",),
        (b"Bearer",),
        (b"Bearer ",),
        (b"Bearer Reader",),
        (b"Bearer reader", b"Bearer reader"),
        (b"Bearer wrong", b"Bearer reader"),
        (hashlib.sha256(b"reader").hexdigest().encode(),),
    ],
    ids=repr,
)
def test_an_authorization_that_is_nobodys_is_never_overlooked(headers: tuple[bytes, ...]) -> None:
    peer = Peer(frozenset({"reader.example"}))
    call = Service().ask("Get", Asked(*headers, peer=peer))
    assert (call.code, call.info.reason) == (UNAUTHENTICATED, "TOKEN_REFUSED")


def test_a_client_is_known_by_its_certificate_and_a_token_says_more() -> None:
    service = Service()
    peer = Peer(frozenset({"reader.example"}))
    assert service.ask("Get", Asked(peer=peer)).code != PERMISSION_DENIED
    assert service.ask("Put", Asked(peer=peer)).code == PERMISSION_DENIED
    assert service.ask("Put", Asked(b"bearer writer", peer=peer)).code != PERMISSION_DENIED
    assert service.ask("Get", Asked(peer="reader.example")).code == UNAUTHENTICATED


def test_a_right_taken_away_is_gone_for_who_was_known_already() -> None:
    service = Service()
    assert service.ask("Get", Asked(b"Bearer reader")).code != PERMISSION_DENIED
    service.rights.use(rights(reader=[]))
    assert service.ask("Get", Asked(b"Bearer reader")).code == PERMISSION_DENIED
    service.rights.use(parse_rights({}, dict[str, int]().__getitem__))
    assert service.ask("Get", Asked(b"Bearer reader")).info.reason == "TOKEN_REFUSED"


def test_what_is_denied_is_counted_by_kind() -> None:
    service = Service()
    service.ask("Get", Asked())
    for header in (b"Bearer wrong", b"reader"):
        service.ask("Get", Asked(header))
    for method in ("Put", "Delete", "Increment", "Get"):
        service.ask(method, Asked(b"Bearer reader"))
    assert service.rights.denials.numbers() == {
        "denied_no_token": 1,
        "denied_unknown_token": 2,
        "denied_no_right": 3,
    }


def test_a_long_header_is_judged_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[bytes] = []
    by_digest = Rights.by_digest

    def counting(of: Rights, digest: bytes) -> object:
        looked_up.append(digest)
        return by_digest(of, digest)

    monkeypatch.setattr(Rights, "by_digest", counting)
    service = Service()
    for header, times in ((b"Bearer reader", 1), (b"Bearer" + b" " * 8000 + b"reader", 2)):
        looked_up.clear()
        assert [service.ask("Put", Asked(header)).code for _ in range(2)] == [PERMISSION_DENIED] * 2
        assert len(looked_up) == times
