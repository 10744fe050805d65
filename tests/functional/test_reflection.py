"""A client that has no .proto file: all it knows it asks of the server."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.support.local_cluster import LocalCluster, local_cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster() as running:
        yield running


def method_of(channel: grpc.Channel, service: str, method: str) -> Any:
    """(the method as something to call, its request's class)"""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    found: MethodDescriptor = pool.FindServiceByName(service).FindMethodByName(method)
    request, response = (
        message_factory.GetMessageClass(kind) for kind in (found.input_type, found.output_type)
    )
    call = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return call, request


@pytest.mark.parametrize("way", [0, 1], ids=["tcp", "unix"])
def test_put_get_and_health_without_a_proto_file(cluster: LocalCluster, way: int) -> None:
    channel = cluster.channel(cluster.grpc_targets[way])
    put, request = method_of(channel, "dabbawala.v1.Data", "Put")
    version = put(request(key=b"reflected", value=b"v"), timeout=5).version
    get, request = method_of(channel, "dabbawala.v1.Data", "Get")
    answer = get(request(key=b"reflected"), timeout=5)
    assert (answer.found, answer.value, answer.version) == (True, b"v", version)
    check, request = method_of(channel, "grpc.health.v1.Health", "Check")
    answer = check(request(service="dabbawala.v1.Data"), timeout=5)
    assert answer.status == answer.DESCRIPTOR.enum_types_by_name["ServingStatus"].values_by_name[
        "SERVING"
    ].number  # fmt: skip


def test_all_services_are_listed(cluster: LocalCluster) -> None:
    for address, services in (
        (cluster.grpc_targets[0], {"dabbawala.v1.Data", "grpc.health.v1.Health"}),
        (cluster.control_plane_address, {"dabbawala.v1.Admin", "grpc.health.v1.Health"}),
    ):
        database = ProtoReflectionDescriptorDatabase(cluster.channel(address))
        assert set(database.get_services()) >= services


def test_the_control_plane_is_called_without_a_proto_file(cluster: LocalCluster) -> None:
    channel = cluster.channel(cluster.control_plane_address)
    status, request = method_of(channel, "dabbawala.v1.Admin", "Status")
    assert [node.health for node in status(request(), timeout=5).nodes] == ["up"] * 6
