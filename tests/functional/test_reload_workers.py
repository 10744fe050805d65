"""New rights and certificates reach every worker of a sidecar, and every connection that stands.

One sidecar with each gRPC engine, three workers, TLS on TCP.
"""

import os
import resource
import signal
import socket
import ssl
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import orjson
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from protos.dabbawala.v1 import data_pb2 as pb
from protos.dabbawala.v1 import data_pb2_grpc
from tests.support.attacked import ANSWER_TIMEOUT_S, Talk
from tests.support.local_cluster import (
    PATIENT_CHANNEL_OPTIONS,
    LocalCluster,
    local_cluster,
    second_sidecar,
    wait_until,
)
from tests.support.rights import Granted, token_of, write_rights

pytestmark = pytest.mark.slow

WORKERS = 3
START_S = 60.0  # processes start, one after a failure and a pause; the machine may be busy
MANY = 12  # connections of which one worker hardly gets none, and none hardly gets all
READ = {"moody": {"default": ["read"]}}
BOTH = {"moody": {"default": ["read", "write"]}}
Metadata = tuple[tuple[str, str], ...]
METADATA: Metadata = (("authorization", f"Bearer {token_of('moody')}"),)


class Piped:
    """A stream that stays open."""

    def __init__(self, channel: grpc.Channel, metadata: Metadata) -> None:
        self.asked: SimpleQueue[pb.PipelineRequest | None] = SimpleQueue()
        stub = data_pb2_grpc.DataStub(channel)
        self._answers = stub.Pipeline(iter(self.asked.get, None), metadata=metadata)

    def put(self) -> int:
        """The code of its answer."""
        self.asked.put(pb.PipelineRequest(id=1, put=pb.PutRequest(key=b"k", value=b"v")))
        answer: pb.PipelineResponse = next(self._answers)
        return int(answer.error.code)


class Door:
    """A sidecar of several workers."""

    def __init__(self, cluster: LocalCluster, number: int, engine: str) -> None:
        folder = cluster.folder
        self.rights = folder / f"rights-{number}.json"
        self.socket = str(folder / f"w{number}")
        self.key, self.chain = folder / f"key-{number}.pem", folder / f"chain-{number}.pem"
        self.authority = trustme.CA()
        self.trusting = ssl.create_default_context()
        self.authority.configure_trust(self.trusting)
        self.grant(BOTH)
        self.renew()
        self.part = second_sidecar(
            cluster,
            "a",
            number,
            workers=WORKERS,
            grpc_engine=engine,
            rights_file=str(self.rights),
            tls_cert=str(self.chain),
            tls_key=str(self.key),
            redis_socket=self.socket,
            grpc="127.0.0.1:0",
            redis="127.0.0.1:0",
            admin="127.0.0.1:0",
        )
        ports = orjson.loads((folder / f"sidecar-{number}" / "ports.json").read_bytes())
        self.addresses = {
            door: ("127.0.0.1", int(ports[door].rpartition(":")[2])) for door in ("grpc", "redis")
        }
        self.admin = ports["admin"]
        self.until_all_serve()

    def grant(self, granted: Granted) -> None:
        local: Any = {"local": {"unix_users": [os.getuid()]}} if "local" in granted else {}
        write_rights(self.rights, granted, **local)

    def renew(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1")
        for path, pem in (
            (self.key, issued.private_key_pem),
            (self.chain, issued.cert_chain_pems[0]),
        ):
            pem.write_to_path(str(path.with_suffix(".new")))
            path.with_suffix(".new").replace(path)

    def page(self, name: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.admin}/{name}", timeout=ANSWER_TIMEOUT_S) as answer:
            return bytes(answer.read())

    def workers(self) -> int:
        return int(orjson.loads(self.page("stats"))["workers"])

    def children(self) -> list[int]:
        """Process ids of its workers but the first."""
        told = Path(f"/proc/{self.part.pid}/task/{self.part.pid}/children").read_text()
        return [int(pid) for pid in told.split()]

    def until_all_serve(self) -> None:
        wait_until(lambda: self.workers() == WORKERS, "all workers have come", START_S)
        with ExitStack() as stack:
            wait_until(all_say(self.in_every_worker(stack), b"+OK"), "all serve")

    def redis(self, *, known: bool = True) -> Talk:
        plain = socket.create_connection(self.addresses["redis"], ANSWER_TIMEOUT_S)
        talk = Talk(self.trusting.wrap_socket(plain, server_hostname="127.0.0.1"))
        if known:
            assert talk.ask("AUTH", "moody", token_of("moody")) == b"+OK"
        return talk

    def local(self) -> Talk:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.connect(self.socket)
        return Talk(sock)

    def in_every_worker(self, stack: ExitStack) -> list[Talk]:
        """Connections, at least two to each worker."""
        talks: list[Talk] = []
        found: Counter[str] = Counter()
        while len(found) < WORKERS or min(found.values()) < 2:
            assert len(talks) < 30 * WORKERS, f"some workers get no connections: {found}"
            talk = stack.enter_context(self.redis())
            talks.append(talk)
            found[worker_of(talk)] += 1
        return talks

    def streams(self, stack: ExitStack, metadata: Metadata = METADATA) -> list[Piped]:
        """Each over a connection of its own."""
        root = grpc.ssl_channel_credentials(self.authority.cert_pem.bytes())
        address = f"127.0.0.1:{self.addresses['grpc'][1]}"
        opened = []
        for _ in range(MANY):
            channel = grpc.secure_channel(address, root, options=PATIENT_CHANNEL_OPTIONS)
            opened.append(Piped(stack.enter_context(channel), metadata))
            stack.callback(opened[-1].asked.put, None)
        return opened


def worker_of(talk: Talk) -> str:
    told = (talk.ask("INFO", "server") or b"").decode()
    return told.partition("process_id:")[2].partition("\r")[0]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


# For what has nothing to do with the engine.
any_engine = pytest.mark.parametrize("door", ["own"], indirect=True)


@pytest.fixture(scope="module", params=["own", "grpcio"])
def door(cluster: LocalCluster, request: pytest.FixtureRequest) -> Door:
    return Door(cluster, 2 if request.param == "own" else 3, request.param)


def all_say(talks: list[Talk], sign: bytes) -> Callable[[], bool]:
    def ask() -> bool:
        return all((talk.ask("SET", "k", "v") or b"").startswith(sign) for talk in talks)

    return ask


def test_new_rights_hold_on_every_open_connection_of_every_worker(door: Door) -> None:
    with ExitStack() as stack:
        talks, streams = door.in_every_worker(stack), door.streams(stack)
        for granted, sign, code in (
            (READ, b"-NOPERM", grpc.StatusCode.PERMISSION_DENIED),
            (BOTH, b"+OK", grpc.StatusCode.OK),
            ({}, b"-NOAUTH", grpc.StatusCode.UNAUTHENTICATED),
            (BOTH, b"+OK", grpc.StatusCode.OK),
        ):
            door.grant(granted)
            wait_until(all_say(talks, sign), f"{granted} in every worker")
            # Both doors of a worker change at once; and once it has changed it does not go back.
            assert {stream.put() for stream in streams} == {code.value[0]}
            assert all_say(talks, sign)()
            with ExitStack() as new:
                known = "moody" in granted
                fresh = [new.enter_context(door.redis(known=known)) for _ in range(MANY)]
                assert all_say(fresh, sign)()


@any_engine
def test_a_unix_user_taken_out_is_out_on_every_open_connection(door: Door) -> None:
    door.grant(BOTH | {"local": {"default": ["write"]}})
    with ExitStack() as stack:
        locals_ = [stack.enter_context(door.local()) for _ in range(MANY)]
        wait_until(all_say(locals_, b"+OK"), "the user is known in every worker")
        door.grant(BOTH)
        wait_until(all_say(locals_, b"-NOAUTH"), "it is not")


def test_new_certificates_are_shown_by_every_worker_and_connections_stand(door: Door) -> None:
    def shown(name: str) -> set[str]:
        many = range(MANY * 2)
        return {ssl.get_server_certificate(door.addresses[name], timeout=5) for _ in many}

    with ExitStack() as stack:
        talks, streams = door.in_every_worker(stack), door.streams(stack)
        assert {stream.put() for stream in streams} == {0}
        (before,) = shown("grpc")
        door.renew()
        wait_until(lambda: before not in shown("redis") | shown("grpc"), "the new ones alone")
        assert len(shown("redis") | shown("grpc")) == 1
        assert {stream.put() for stream in streams} == {0}
        assert all_say(talks, b"+OK")()
        with ExitStack() as new:
            door.in_every_worker(new)


def test_denials_of_all_workers_are_added_up(door: Door) -> None:
    def denied() -> dict[tuple[str, str], int]:
        families = text_string_to_metric_families(door.page("stats/prometheus").decode())
        (family,) = (family for family in families if family.name == "dabbawala_denied")
        return {(s.labels["door"], s.labels["kind"]): int(s.value) for s in family.samples}

    with ExitStack() as stack:
        talks, streams = door.in_every_worker(stack), door.streams(stack, metadata=())
        for talk in talks:
            assert (talk.ask("AUTH", "wrong") or b"").startswith(b"-WRONGPASS")
        assert {stream.put() for stream in streams} == {grpc.StatusCode.UNAUTHENTICATED.value[0]}
        told = {("redis", "unknown_token"): len(talks), ("grpc", "no_token"): len(streams)}
        # What other tests have others denied is of other kinds.
        wait_until(lambda: told.items() <= denied().items(), f"{told} is counted")


@any_engine
def test_a_worker_that_can_not_read_the_new_file_is_shown_until_it_can(door: Door) -> None:
    pid = door.children()[0]
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        talks = door.in_every_worker(stack)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, limits[1]))  # no file more
        try:
            door.grant(READ)
            wait_until(lambda: b"rights: keeps the rights it had" in door.page("ready"), "shown")
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        wait_until(all_say(talks, b"-NOPERM"), "it has read it")
        wait_until(lambda: b"rights:" not in door.page("ready"), "all is well again")
        door.grant(BOTH)
        wait_until(all_say(talks, b"+OK"), "all is as before")


@any_engine
def test_a_worker_that_dies_while_the_file_is_bad_comes_back_with_a_good_one(door: Door) -> None:
    door.rights.write_bytes(b'{"applications": [{"name": "moody"}]}')
    wait_until(lambda: b"rights: keeps the rights it had" in door.page("ready"), "it is shown")
    os.kill(door.children()[0], signal.SIGKILL)
    wait_until(lambda: door.workers() == WORKERS - 1, "its end is noticed")
    with ExitStack() as stack:
        rest = [stack.enter_context(door.redis()) for _ in range(MANY)]
        assert all_say(rest, b"+OK")()
        said = "worker can not start"
        told = door.part.log.read_text
        wait_until(lambda: said in told(), "the log says why it stays away", START_S)
        assert all_say(rest, b"+OK")()
    assert "Traceback" not in door.part.log.read_text()
    door.grant(READ)
    wait_until(lambda: door.workers() == WORKERS, "it is back", START_S)
    with ExitStack() as stack:
        wait_until(all_say(door.in_every_worker(stack), b"-NOPERM"), "all judge by the new file")
