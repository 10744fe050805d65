"""Every command against a real cluster."""

import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import redis
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from buckets.hashing import bucket_shift, key_hash
from tests.support.dev import Dev, Home, dev_cluster, home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def at() -> Iterator[Home]:
    with home() as folders:
        yield folders


@pytest.fixture(scope="module")
def dev(at: Home) -> Iterator[Dev]:
    with dev_cluster(at) as cluster:
        yield cluster


@pytest.mark.peers
def test_what_redis_cli_writes_is_read_by_redis_cli_and_by_dabba(at: Home, dev: Dev) -> None:
    def redis_cli(*words: str) -> str:
        command = ["redis-cli", "-p", str(dev.redis_port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert redis_cli("SET", "lunch", "box") == "OK\n"
    assert redis_cli("GET", "lunch") == "box\n"
    assert at.dabba("get", "lunch").out == "box\n"


def test_a_client_that_knows_only_reflection_reads_the_same_key(at: Home, dev: Dev) -> None:
    assert at.dabba("put", "reflected", "value").status == 0
    address = dev.facts["sidecar"]["grpc"]
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("dabbawala.v1.Data").FindMethodByName("Get")
        request, response = (
            message_factory.GetMessageClass(kind)
            for kind in (method.input_type, method.output_type)
        )
        get = channel.unary_unary(
            "/dabbawala.v1.Data/Get",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer: Any = get(request(key=b"reflected"), timeout=5)
    assert answer.found
    assert answer.value == b"value"


def test_where_tells_the_truth_about_the_owners(at: Home, dev: Dev) -> None:
    assert at.dabba("put", "tiffin", "rice").status == 0
    found = at.dabba("where", "tiffin", "-o", "json").json
    hashed = key_hash(b"tiffin")
    assert found["key_hash"] == f"0x{hashed:016x}"
    assert found["bucket"] == hashed >> bucket_shift(64)
    assert found["epoch"] >= 1
    assert sorted(owner["zone"] for owner in found["owners"]) == ["a", "b", "c"]
    assert found["target"] in {owner["node"] for owner in found["owners"]}
    assert found["reason"]
    for owner in found["owners"]:
        server = redis.Redis(port=int(owner["address"].rpartition(":")[2]))
        record = server.hget(found["data_key"], found["field"])
        server.close()
        assert isinstance(record, bytes)
        assert record.endswith(b"rice")


@pytest.mark.peers
def test_the_command_that_where_suggests_finds_the_record(at: Home, dev: Dev) -> None:
    assert at.dabba("put", "a key with 'quotes'", "rice").status == 0
    check = at.dabba("where", "a key with 'quotes'", "-o", "json").json["check"]
    shown = subprocess.run(["bash", "-c", check], capture_output=True, check=True).stdout
    assert b"rice" in shown


def test_put_get_delete_round_trip(at: Home, dev: Dev) -> None:
    written = at.dabba("put", "round", "trip", "-c", "all", "-o", "json").json
    read = at.dabba("get", "round", "-c", "all", "-o", "json").json
    assert (read["value"], read["version"]) == ("trip", written["version"])
    assert (written["consistency"], read["consistency"]) == ("ALL", "ALL")
    assert at.dabba("delete", "round", "-o", "json").json["existed"] is True
    gone = at.dabba("get", "round", "-o", "json")
    assert (gone.status, gone.json["found"]) == (1, False)


def test_the_same_write_again_is_the_same_version(at: Home, dev: Dev) -> None:
    version = at.dabba("put", "again", "one", "-o", "json").json["version"]
    again = at.dabba("put", "again", "one", "--retry-version", version, "-o", "json").json
    assert again["version"] == version


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "k", "-k", "nope"], "keyspace"),
        (["get", ""], "key"),
        (["put", "k" * 1025, "v"], "1024"),
        (["keyspace", "create", "default"], "exists"),
        (["keyspace", "create", "odd", "--buckets", "7"], "power of two"),
        (["keyspace", "describe", "nope"], "nope"),
        (["node", "add", "node-9", "127.0.0.1:1", "--zone", "a"], "Connection refused"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    at: Home, dev: Dev, arguments: list[str], words: str
) -> None:
    answer = at.dabba(*arguments)
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.count("\n") == 1
    assert words in answer.err


def test_a_node_can_not_be_registered_twice(at: Home, dev: Dev) -> None:
    address = dev.facts["nodes"][0]["address"]
    answer = at.dabba("node", "add", "another", address, "--zone", "a")
    assert (answer.status, answer.out) == (1, "")
    assert "node-1" in answer.err


def test_status_is_well_and_knows_everybody(at: Home, dev: Dev) -> None:
    status = at.dabba("status", "-o", "json").json
    assert status["problems"] == []
    assert [node["node"]["id"] for node in status["nodes"]] == [
        f"node-{number}" for number in range(1, 7)
    ]
    keyspaces = {one["config"]["name"]: one["config"]["redis_db"] for one in status["keyspaces"]}
    assert keyspaces == {"default": 0, "places": 1}
    assert [one["state"] for one in status["sidecars"]] == ["SYNCED"]
    assert "all is well" in at.dabba("status").out


def test_a_new_keyspace_is_served_at_once(at: Home, dev: Dev) -> None:
    made = at.dabba("keyspace", "create", "orders", "--buckets", "16", "--redis-db", "9")
    assert made.status == 0, made.err
    assert at.dabba("put", "o-1", "paid", "-k", "orders").status == 0
    assert redis.Redis(port=dev.redis_port, db=9).get("o-1") == b"paid"
    shares = at.dabba("keyspace", "describe", "orders", "-o", "json").json["shares"]
    assert sum(share["buckets"] for share in shares) == 48
    buckets = at.dabba("map", "show", "-k", "orders", "-o", "json").json["buckets"]
    assert [bucket["bucket"] for bucket in buckets] == list(range(16))


def test_doctor_finds_nothing(at: Home, dev: Dev) -> None:
    answer = at.dabba("doctor", "-o", "json")
    assert answer.status == 0, answer.out
    assert {finding["severity"] for finding in answer.json["findings"]} == {"ok"}
