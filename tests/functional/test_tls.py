"""TLS and mTLS at both doors, with both gRPC engines: who comes in, who is told why not, what a
client may do whom its certificate names, and new files at run time.
"""

import datetime as dt
import resource
import socket
import ssl
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import orjson
import pytest
import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

from control_plane.cli.main import run
from protos.dabbawala.v1 import data_pb2, data_pb2_grpc
from tests.support.local_cluster import (
    CHANNEL_OPTIONS,
    PATIENT_CHANNEL_OPTIONS,
    LocalCluster,
    Part,
    local_cluster,
    second_sidecar,
    wait_until,
)
from tests.support.rich_errors import rich
from tests.support.rights import write_rights

pytestmark = pytest.mark.slow

ALLOWED = "app.example"
READER = "reader.example"
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class Files:
    """The files of a door's certificate, and certificates for its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.path("ca")))
        self.renew()

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def renew(self) -> None:
        """A new certificate for the door, written as renewal tools do: under another name first."""
        issued = self.authority.issue_cert("127.0.0.1")
        fresh = {"cert": issued.cert_chain_pems[0], "key": issued.private_key_pem}
        for name, pem in fresh.items():
            pem.write_to_path(str(self.path("new")))
            self.path("new").replace(self.path(name))

    def client(self, *names: str, authority: trustme.CA | None = None, **how: object) -> "Client":
        issued = (authority or self.authority).issue_cert(*names, **how)  # type: ignore[arg-type]
        chain = issued.cert_chain_pems[0].bytes()
        name = self.path(f"client-{names[0]}-{id(issued)}")
        name.write_bytes(issued.private_key_pem.bytes() + chain)
        root = self.authority.cert_pem.bytes()
        return Client(root, issued.private_key_pem.bytes(), chain, name, self.path("ca"))


@dataclass
class Client:
    """One application's certificate."""

    root: bytes
    key: bytes
    chain: bytes
    file: Path
    authority_file: Path

    def grpc(self, address: str) -> grpc.Channel:
        credentials = grpc.ssl_channel_credentials(self.root, self.key, self.chain)
        return grpc.secure_channel(address, credentials, options=PATIENT_CHANNEL_OPTIONS)

    def redis(self, port: int) -> redis.Redis:
        return redis.Redis(
            "127.0.0.1",
            port,
            ssl=True,
            ssl_certfile=str(self.file),
            ssl_keyfile=str(self.file),
            ssl_ca_certs=str(self.authority_file),
            retry=Retry(NoBackoff(), 0),
        )


@dataclass
class Door:
    """A sidecar that speaks TLS."""

    part: Part
    engine: str
    files: Files
    grpc: str
    redis_port: int
    admin: str

    def ready(self) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.admin}/ready", timeout=5) as answer:
            return str(answer.read().decode())

    def certificates(self) -> list[str]:
        """What a new connection is shown, at each door."""
        ports = (self.redis_port, int(self.grpc.rpartition(":")[2]))
        return [ssl.get_server_certificate(("127.0.0.1", port), timeout=5) for port in ports]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


@pytest.fixture(scope="module", params=["own", "grpcio"])
def door(
    cluster: LocalCluster,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Door:
    files = Files(tmp_path_factory.mktemp("tls"))
    rights = files.folder / "rights.json"
    write_rights(
        rights,
        {"app": {"default": ["read", "write"]}, "reader": {"default": ["read"]}},
        app={"identities": [ALLOWED]},
        reader={"identities": [READER]},
    )
    number = 2 if request.param == "own" else 3
    part = second_sidecar(
        cluster,
        "a",
        number,
        grpc_engine=request.param,
        rights_file=str(rights),
        tls_cert=str(files.path("cert")),
        tls_key=str(files.path("key")),
        tls_client_ca=str(files.path("ca")),
        tls_identities=[ALLOWED, READER],
        grpc="127.0.0.1:0",
        redis="127.0.0.1:0",
        admin="127.0.0.1:0",
    )
    ports = orjson.loads((cluster.folder / f"sidecar-{number}" / "ports.json").read_bytes())
    redis_port = int(ports["redis"].rpartition(":")[2])
    return Door(part, request.param, files, ports["grpc"], redis_port, ports["admin"])


def get(channel: grpc.Channel) -> data_pb2.GetResponse:
    return data_pb2_grpc.DataStub(channel).Get(data_pb2.GetRequest(key=b"k"), timeout=10)


def test_a_client_of_a_known_name_is_served_at_both_doors(door: Door) -> None:
    client = door.files.client(ALLOWED)
    with client.grpc(door.grpc) as channel:
        put = data_pb2.PutRequest(key=b"k", value=b"v")
        data_pb2_grpc.DataStub(channel).Put(put, timeout=10)
        assert get(channel).value == b"v"
    with client.redis(door.redis_port) as door_of_redis:
        assert door_of_redis.get("k") == b"v"


def test_the_command_line_brings_the_certificates_of_its_environment(
    door: Door, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = door.files.client(ALLOWED)
    put = ("put", "k", "v", "--sidecar", door.grpc)
    for name in ("DABBA_TOKEN", "DABBA_TLS_CA", "DABBA_TLS_CERT", "DABBA_TLS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert run(put) == 1
    assert "see whether DABBA_TLS_CA fits it" in capfd.readouterr().err
    monkeypatch.setenv("DABBA_TLS_CA", str(client.authority_file))
    assert run(put) == 1  # the sidecar wants to know who it is
    monkeypatch.setenv("DABBA_TLS_CERT", str(client.file))
    monkeypatch.setenv("DABBA_TLS_KEY", str(client.file))
    assert run(put) == 0
    monkeypatch.setenv("DABBA_TLS_CA", str(client.file))  # which is of no authority
    assert run(put) == 1


def test_a_client_of_another_name_is_told_so(door: Door) -> None:
    client = door.files.client("other.example")
    with client.grpc(door.grpc) as channel, pytest.raises(grpc.RpcError) as failed:
        get(channel)
    error = rich(failed.value)
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "IDENTITY_REFUSED")
    assert "other.example, which is not among tls_identities" in error.message
    with client.redis(door.redis_port) as refused, pytest.raises(redis.RedisError) as said:
        refused.get("k")
    assert "other.example, which is not among tls_identities" in str(said.value)


def test_a_client_may_do_what_its_certificate_is_granted(door: Door) -> None:
    client = door.files.client(READER)
    with client.grpc(door.grpc) as channel:
        get(channel)
        put = data_pb2.PutRequest(key=b"k", value=b"v")
        with pytest.raises(grpc.RpcError) as failed:
            data_pb2_grpc.DataStub(channel).Put(put, timeout=10)
        piped = data_pb2.PipelineRequest(id=1, get=data_pb2.GetRequest(key=b"k"))
        [answer] = data_pb2_grpc.DataStub(channel).Pipeline(iter([piped]), timeout=10)
        assert answer.WhichOneof("response") == "get"
    error = rich(failed.value)
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "RIGHT_MISSING")
    assert error.metadata["application"] == "reader"
    with client.redis(door.redis_port) as reader:
        reader.get("k")
        with pytest.raises(redis.exceptions.NoPermissionError, match="User reader has no perm"):
            reader.set("k", "v")


@pytest.mark.parametrize("wrong", ["expired", "another authority", "none at all"])
def test_without_a_good_certificate_the_handshake_ends(door: Door, wrong: str) -> None:
    if wrong == "expired":
        later = LONG_AGO + dt.timedelta(days=1)
        client = door.files.client(ALLOWED, not_before=LONG_AGO, not_after=later)
    else:
        client = door.files.client(ALLOWED, authority=trustme.CA())
    if wrong == "none at all":
        credentials = grpc.ssl_channel_credentials(client.root)
        channel = grpc.secure_channel(door.grpc, credentials, options=PATIENT_CHANNEL_OPTIONS)
    else:
        channel = client.grpc(door.grpc)
    with channel, pytest.raises(grpc.RpcError) as failed:
        get(channel)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    if wrong != "none at all":
        with client.redis(door.redis_port) as refused, pytest.raises(redis.ConnectionError):
            refused.get("k")


def test_a_client_that_speaks_in_the_clear_gets_nowhere(door: Door) -> None:
    with (
        grpc.insecure_channel(door.grpc, options=CHANNEL_OPTIONS) as channel,
        pytest.raises(grpc.RpcError),
    ):
        get(channel)
    with socket.create_connection(("127.0.0.1", door.redis_port), timeout=5) as plain:
        plain.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert not plain.recv(100).startswith(b"+")


def test_new_files_serve_new_connections_and_the_old_ones_live_on(door: Door) -> None:
    client = door.files.client(ALLOWED)
    with client.grpc(door.grpc) as channel, client.redis(door.redis_port) as held:
        get(channel)
        number = held.client_id()
        before = door.certificates()
        door.files.renew()
        wait_until(
            lambda: not set(door.certificates()) & set(before), "a new connection sees the new file"
        )
        assert held.client_id() == number  # the same connection
        get(channel)
        with client.redis(door.redis_port) as fresh:
            assert fresh.client_id() != number


def test_files_that_can_not_be_used_leave_the_old_ones_and_are_shown(door: Door) -> None:
    before = door.certificates()
    good = door.files.path("cert").read_bytes()
    door.files.path("cert").write_bytes(b"no certificate")
    wait_until(lambda: "tls: keeps the certificate it had" in door.ready(), "the bad file is shown")
    assert door.certificates() == before
    with door.files.client(ALLOWED).grpc(door.grpc) as channel:
        get(channel)
    door.files.path("cert").write_bytes(good)
    wait_until(lambda: "tls" not in door.ready(), "all is well again")


class Descriptors:
    """How many files a process may have open."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def leave_one(self) -> None:
        """It may open one more, when what it is closing is closed."""
        seen: deque[frozenset[int]] = deque(maxlen=10)

        def settled() -> bool:
            folder = Path(f"/proc/{self._pid}/fd")
            seen.append(frozenset(int(entry.name) for entry in folder.iterdir()))
            return len(seen) == seen.maxlen and len(set(seen)) == 1

        wait_until(settled, "connections of before are closed")
        _first, second, *_ = (number for number in range(len(seen[0]) + 2) if number not in seen[0])
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (second, self._before[1]))

    def leave_all(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._before)


def test_new_files_come_into_force_though_descriptors_ran_out_at_first(door: Door) -> None:
    if door.engine == "grpcio":  # which has no server that would have to be made anew
        return
    before = door.certificates()
    descriptors = Descriptors(door.part.pid)

    looks = 0

    def told(what: str) -> int:
        return door.part.log.read_text().count(what)

    def has_looked() -> bool:
        return told("files read again") > looks

    try:
        while not told("new connections still get what was before"):
            # Enough to read the files, and for one of two servers: unless something else was closed
            # just then.
            descriptors.leave_one()
            looks = told("files read again")
            door.files.renew()
            wait_until(has_looked, "it has looked")
    finally:
        descriptors.leave_all()
    wait_until(lambda: not set(door.certificates()) & set(before), "a connection sees them")
    wait_until(lambda: "tls" not in door.ready(), "all is well again")
