"""Clients that want more than they are granted, at both doors of running sidecars.

One sidecar with each gRPC engine. Whatever is not granted is refused, typed, and nothing is done.
"""

import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import orjson
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from redis.backoff import NoBackoff
from redis.retry import Retry

from control_plane.cli.main import run
from protos.dabbawala.v1 import data_pb2 as pb
from protos.dabbawala.v1 import data_pb2_grpc
from sidecar.redis.permits import OPEN
from sidecar.redis.table import command_table
from tests.support.attacked import ANSWER_TIMEOUT_S, Talk, until_closed
from tests.support.conversation import packed
from tests.support.local_cluster import (
    CHANNEL_OPTIONS,
    LocalCluster,
    local_cluster,
    second_sidecar,
    wait_until,
)
from tests.support.rich_errors import RichError, rich
from tests.support.rights import token_of, write_rights

pytestmark = pytest.mark.slow

OTHER_DATABASE = 7
GRANTED = {
    "reader": {"default": ["read"]},
    "writer": {"default": ["write"]},
    "both": {"default": ["read", "write"]},
    "elsewhere": {"other": ["read", "write"]},
    "nothing": {},
    "moody": {"default": ["read", "write"]},
    "local": {"default": ["read"]},
}
COMMANDS = command_table()
METHODS = pb.DESCRIPTOR.services_by_name["Data"].methods_by_name
UNARY = [name for name, method in METHODS.items() if not method.client_streaming]
DENIED, NOBODY = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


class Door:
    """A sidecar with rights."""

    def __init__(self, cluster: LocalCluster, number: int, engine: str) -> None:
        self.rights = cluster.folder / f"rights-{number}.json"
        self.grant(GRANTED)
        self.socket = str(cluster.folder / f"r{number}")
        second_sidecar(
            cluster,
            "a",
            number,
            grpc_engine=engine,
            rights_file=str(self.rights),
            redis_socket=self.socket,
            grpc_socket=f"{self.socket}g" if engine == "own" else "",
            grpc="127.0.0.1:0",
            redis="127.0.0.1:0",
            admin="127.0.0.1:0",
        )
        folder = cluster.folder / f"sidecar-{number}"
        ports = orjson.loads((folder / "ports.json").read_bytes())
        self.log = folder / "log"
        self.redis_port = int(ports["redis"].rpartition(":")[2])
        self.admin = ports["admin"]
        self.engine = engine
        self.grpc = ports["grpc"]
        self.channel = grpc.insecure_channel(self.grpc, options=CHANNEL_OPTIONS)
        wait_until(self._serves, "a sidecar with rights serves")

    def grant(self, granted: dict[str, dict[str, list[str]]]) -> None:
        write_rights(self.rights, granted, local={"unix_users": [os.getuid()]})

    def _serves(self) -> bool:
        with self.redis("both") as talk:
            return (talk.ask("GET", "k") or b"")[:1] != b"-"

    def redis(self, name: str = "") -> Talk:
        talk = Talk(self.redis_port)
        if name:
            assert talk.ask("AUTH", name, token_of(name)) == b"+OK"
        return talk

    def call(self, method: str, request: object, token: str = "") -> object:
        """The answer of a unary method of the Data service."""
        ask = getattr(data_pb2_grpc.DataStub(self.channel), method)
        return ask(request, timeout=ANSWER_TIMEOUT_S, metadata=bearer(token))

    def refusal(self, method: str, request: object, token: str = "") -> RichError:
        with pytest.raises(grpc.RpcError) as failed:
            self.call(method, request, token)
        return rich(failed.value)

    def page(self, name: str) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.admin}/{name}", timeout=ANSWER_TIMEOUT_S) as answer:
            return str(answer.read().decode())


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        made = running.dabba(
            *("keyspace", "create", "other", "--redis-db", str(OTHER_DATABASE), "--buckets", "8"),
        )
        assert made.status == 0, made
        yield running


@pytest.fixture(scope="module", params=["own", "grpcio"])
def door(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Door]:
    engine = request.param
    made = Door(cluster, 2 if engine == "own" else 3, engine)
    with made.channel:
        yield made


def fewest(name: str) -> list[str]:
    return [name, *("k", "1", "1")[: abs(COMMANDS[name].arity) - 1]]


# --- the Redis door


def test_every_command_is_denied_to_who_has_no_token_or_no_right(door: Door) -> None:
    with door.redis() as nobody, door.redis("nothing") as powerless:
        for name in COMMANDS.keys() - OPEN:
            assert nobody.ask(*fewest(name)) == b"-NOAUTH Authentication required."
            said = powerless.ask(*fewest(name)) or b""
            assert said.startswith(b"-NOPERM User nothing has no permissions to run the '"), name
        assert nobody.ask("PING") == powerless.ask("PING") == b"+PONG"


def test_a_wrong_token_and_the_token_of_another_application_let_nobody_in(door: Door) -> None:
    with door.redis() as talk:
        for user, token in (("both", "wrong"), ("both", token_of("reader")), ("x", "x")):
            assert (talk.ask("AUTH", user, token) or b"").startswith(b"-WRONGPASS ")
            assert talk.ask("GET", "k") == b"-NOAUTH Authentication required."


def test_a_write_with_the_right_to_read_does_nothing(door: Door) -> None:
    with door.redis("both") as owner, door.redis("reader") as reader:
        assert owner.ask("SET", "held", "mine") == b"+OK"
        for words in (("SET", "held", "x"), ("DEL", "held"), ("MSET", "held", "x")):
            said = reader.ask(*words) or b""
            assert said.startswith(b"-NOPERM User reader has no permissions to run the '")
            assert b"it takes write in keyspace 'default'" in said
        assert reader.ask("GET", "held") == owner.ask("GET", "held") == b"mine"


def test_a_read_with_the_right_to_write_tells_nothing(door: Door) -> None:
    with door.redis("writer") as writer:
        assert writer.ask("SET", "secret", "s") == b"+OK"
        for words in (("GET", "secret"), ("SET", "secret", "t", "GET"), ("SCAN", "0")):
            assert (writer.ask(*words) or b"").startswith(b"-NOPERM ")
        gets = packed("GET", "secret") * 100
        writer.socket.sendall(gets)
        assert all((writer.answer() or b"").startswith(b"-NOPERM ") for _ in range(100))


def test_the_token_of_another_keyspace_opens_that_one_alone(door: Door) -> None:
    with door.redis("elsewhere") as talk:
        get = packed("GET", "k")
        there, back = packed("SELECT", str(OTHER_DATABASE)), packed("SELECT", "0")
        talk.socket.sendall(get + there + get + back + get)
        answers = [talk.answer() for _ in range(5)]
        denied = [(answer or b"").startswith(b"-NOPERM ") for answer in answers]
        assert denied == [True, False, False, False, True]


def test_a_huge_auth_is_not_taken_in(door: Door) -> None:
    for attack in (
        b"*3\r\n$4\r\nAUTH\r\n$4\r\nboth\r\n$16777216\r\n" + b"x" * 100_000,
        packed("AUTH", *("x" * 10)),
        packed("AUTH", "both", "x" * (16 << 10) + "x"),
    ):
        with socket.create_connection(("127.0.0.1", door.redis_port), ANSWER_TIMEOUT_S) as sock:
            sock.sendall(attack)
            assert until_closed(sock).startswith(b"-ERR Protocol error: invalid ")
    with door.redis("both") as talk:
        assert talk.ask("SET", "large", b"x" * 500_000) == b"+OK"


def test_who_reads_no_answers_before_auth_is_let_go(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.redis_port), ANSWER_TIMEOUT_S) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ping = packed("PING", "x" * (16 << 10))
        with pytest.raises(ConnectionError):
            sock.sendall(ping * 2_000)


def test_a_client_on_the_unix_socket_is_its_user(door: Door) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(door.socket)
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.sendall(packed("SET", "k", "v"))
        assert sock.recv(1000).startswith(b"-NOPERM User local ")
        sock.sendall(packed("GET", "none"))
        assert sock.recv(1000) == b"$-1\r\n"


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("user", ["both", None])
def test_an_unmodified_redis_client_authenticates_as_usual(
    door: Door, user: str | None, version: int
) -> None:
    def client(**who: Any) -> redis.Redis:
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=door.redis_port, protocol=version, retry=once, **who)

    with client(username=user, password=token_of("both")) as known:
        assert known.set("k", "v")
        assert known.get("k") == b"v"
    with client(username=user, password="x") as wrong, client() as nobody:
        for refused in (wrong, nobody):
            with pytest.raises(redis.AuthenticationError):
                refused.get("k")


# --- the gRPC door


def test_the_command_line_brings_the_token_of_its_environment(
    door: Door, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("put", "k", "v", "--sidecar", door.grpc)
    monkeypatch.delenv("DABBA_TOKEN", raising=False)
    assert run(words) == 1
    assert "export DABBA_TOKEN" in capfd.readouterr().err
    monkeypatch.setenv("DABBA_TOKEN", token_of("both"))
    assert run(words) == 0


@pytest.mark.parametrize("method", UNARY)
def test_every_method_is_denied_to_who_has_no_token_or_no_right(door: Door, method: str) -> None:
    request = getattr(pb, METHODS[method].input_type.name)()
    nobody = door.refusal(method, request)
    assert (nobody.code, nobody.reason) == (NOBODY, "UNAUTHENTICATED")
    wrong = door.refusal(method, request, "wrong")
    assert (wrong.code, wrong.reason) == (NOBODY, "TOKEN_REFUSED")
    powerless = door.refusal(method, request, token_of("nothing"))
    assert (powerless.code, powerless.reason) == (DENIED, "RIGHT_MISSING")
    assert powerless.metadata["application"] == "nothing"
    assert "grant it in the sidecar's rights_file" in powerless.message


def test_writes_of_every_kind_take_the_right_to_write(door: Door) -> None:
    put = pb.PutRequest(key=b"{g}held", value=b"mine")
    door.call("Put", put, token_of("writer"))
    items = [pb.BatchWriteItem(key=b"{g}held", delete=True)]
    group = [pb.TransactItem(key=b"{g}held", delete=True)]
    for method, request in (
        ("Put", pb.PutRequest(key=b"{g}held", value=b"x")),
        ("Delete", pb.DeleteRequest(key=b"{g}held")),
        ("BatchWrite", pb.BatchWriteRequest(items=items)),
        ("Transact", pb.TransactRequest(items=group)),
        ("Increment", pb.IncrementRequest(key=b"{g}held")),
    ):
        refused = door.refusal(method, request, token_of("reader"))
        assert (refused.code, refused.metadata["missing"]) == (DENIED, "write")
        assert refused.metadata["outcome"] == "NOT_APPLIED"
    got = door.call("Get", pb.GetRequest(key=b"{g}held"), token_of("reader"))
    assert isinstance(got, pb.GetResponse)
    assert got.value == b"mine"


def test_reads_of_every_kind_take_the_right_to_read_in_that_keyspace(door: Door) -> None:
    for token, keyspace in (("writer", "default"), ("elsewhere", ""), ("reader", "other")):
        for method, request in (
            ("Get", pb.GetRequest(keyspace=keyspace, key=b"k")),
            ("BatchGet", pb.BatchGetRequest(keyspace=keyspace, keys=[b"k"])),
            ("Scan", pb.ScanRequest(keyspace=keyspace)),
            ("Locate", pb.LocateRequest(keyspace=keyspace, key=b"k")),
        ):
            refused = door.refusal(method, request, token_of(token))
            assert (refused.code, refused.metadata["missing"]) == (DENIED, "read")
            assert refused.metadata["keyspace"] == (keyspace or "default")


def test_a_pipeline_is_judged_request_by_request(door: Door) -> None:
    requests = [
        pb.PipelineRequest(id=1, get=pb.GetRequest(key=b"k")),
        pb.PipelineRequest(id=2, put=pb.PutRequest(key=b"k", value=b"x")),
        pb.PipelineRequest(id=3, get=pb.GetRequest(keyspace="other", key=b"k")),
    ]
    stub = data_pb2_grpc.DataStub(door.channel)
    for token, codes in (("reader", {1: 0, 2: 7, 3: 7}), ("", {1: 16, 2: 16, 3: 16})):
        metadata = bearer(token_of(token) if token else "")
        answers = stub.Pipeline(iter(requests), timeout=ANSWER_TIMEOUT_S, metadata=metadata)
        assert {answer.id: answer.error.code for answer in answers} == codes


def test_a_client_on_the_grpc_socket_is_its_user(door: Door) -> None:
    if door.engine == "grpcio":  # which could not tell: it has no such socket
        assert "grpc_socket" not in orjson.loads(door.page("config_dump"))["addresses"]
        return
    with grpc.insecure_channel(f"unix:{door.socket}g", options=CHANNEL_OPTIONS) as channel:
        stub = data_pb2_grpc.DataStub(channel)
        assert not stub.Get(pb.GetRequest(key=b"none"), timeout=ANSWER_TIMEOUT_S).found
        with pytest.raises(grpc.RpcError) as failed:
            stub.Put(pb.PutRequest(key=b"none", value=b"x"), timeout=ANSWER_TIMEOUT_S)
    assert rich(failed.value).metadata["application"] == "local"


def test_health_and_reflection_stay_open(door: Door) -> None:
    health: Any = health_pb2_grpc.HealthStub(door.channel)
    checked = health.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_TIMEOUT_S)
    assert checked.status == health_pb2.HealthCheckResponse.SERVING
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(door.channel)
    assert list(reflection.ServerReflectionInfo(iter([listing]), timeout=ANSWER_TIMEOUT_S))


def test_an_authorization_header_of_a_megabyte_is_not_taken_in(door: Door) -> None:
    options = (*CHANNEL_OPTIONS, ("grpc.max_metadata_size", 1 << 22))
    huge = bearer("x" * (1 << 20))
    with grpc.insecure_channel(door.grpc, options=options) as channel:
        stub = data_pb2_grpc.DataStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.Get(pb.GetRequest(key=b"k"), timeout=ANSWER_TIMEOUT_S, metadata=huge)
    door.call("Get", pb.GetRequest(key=b"k"), token_of("reader"))


# --- what changes while they are connected


def test_rights_taken_away_are_gone_on_open_connections_and_come_back(door: Door) -> None:
    asked: SimpleQueue[pb.PipelineRequest | None] = SimpleQueue()
    stub = data_pb2_grpc.DataStub(door.channel)
    stream = stub.Pipeline(iter(asked.get, None), metadata=bearer(token_of("moody")))

    def piped() -> int:
        asked.put(pb.PipelineRequest(id=1, get=pb.GetRequest(key=b"k")))
        answer: pb.PipelineResponse = next(stream)
        return int(answer.error.code)

    get = pb.GetRequest(key=b"k")
    with door.redis("moody") as talk:
        assert (talk.ask("SET", "k", "v"), piped()) == (b"+OK", 0)
        door.grant(GRANTED | {"moody": {"default": ["read"]}})
        wait_until(lambda: (talk.ask("SET", "k", "v") or b"")[:7] == b"-NOPERM", "no writes more")
        assert talk.ask("GET", "k") == b"v"
        door.grant({name: rights for name, rights in GRANTED.items() if name != "moody"})
        wait_until(lambda: (talk.ask("GET", "k") or b"")[:7] == b"-NOAUTH", "no reads more")
        assert door.refusal("Get", get, token_of("moody")).reason == "TOKEN_REFUSED"
        assert piped() == NOBODY.value[0]
        door.grant(GRANTED)
        wait_until(lambda: talk.ask("GET", "k") == b"v", "the token is good again")
        assert piped() == 0
    asked.put(None)
    assert list(stream) == []


def test_a_bad_new_file_is_shown_and_the_rights_of_before_stay(door: Door) -> None:
    before = door.rights.read_bytes()
    door.rights.write_bytes(b'{"applications": [{"name": "both"}]}')
    wait_until(lambda: "rights: keeps the rights it had" in door.page("ready"), "it is shown")
    with door.redis("both") as talk, door.redis() as nobody:
        assert talk.ask("SET", "k", "v") == b"+OK"
        assert nobody.ask("GET", "k") == b"-NOAUTH Authentication required."
    door.rights.write_bytes(before)
    wait_until(lambda: "rights:" not in door.page("ready"), "all is well again")


def test_neither_the_admin_door_nor_the_log_tells_a_token(door: Door) -> None:
    with door.redis("both") as talk:
        said = talk.ask("CLIENT", "LIST") or b""
        assert b"user=both" in said
        assert (talk.ask("AUTHX", "both", "x") or b"").startswith(b"-ERR unknown command")
    door.call("Get", pb.GetRequest(key=b"k"), token_of("both"))
    hashed = orjson.loads(door.rights.read_bytes())["applications"][2]["tokens_sha256"][0]
    pages = ("config_dump", "stats", "stats/prometheus", "map", "nodes", "hints", "ready")
    told = [door.page(name) for name in pages] + [Path(door.log).read_text(), str(said)]
    for secret in (token_of("both"), hashed):
        assert not any(secret in page for page in told)
