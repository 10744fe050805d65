"""Our few discovery messages have the bytes of Envoy's own definitions, in both directions."""

import pytest
from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import Locality, Node
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    Resource,
)
from envoy_data_plane.google.protobuf import Any, Struct
from envoy_data_plane.google.rpc import Status
from google.protobuf.message import Message as OurMessage

from protos.dabbawala.v1 import discovery_pb2

NODES = "type.googleapis.com/dabbawala.v1.NodeTable"


def our_node() -> discovery_pb2.DiscoveryNode:
    node = discovery_pb2.DiscoveryNode(
        id="s1",
        cluster="mumbai",
        locality=discovery_pb2.DiscoveryLocality(region="r", zone="a", sub_zone="x"),
        user_agent_name="dabba-sidecar",
        user_agent_version="1.2.3",
    )
    node.metadata["address"] = "127.0.0.1:7070"
    return node


def their_node() -> Node:
    return Node(
        id="s1",
        cluster="mumbai",
        metadata=Struct.from_dict({"address": "127.0.0.1:7070"}),
        locality=Locality(region="r", zone="a", sub_zone="x"),
        user_agent_name="dabba-sidecar",
        user_agent_version="1.2.3",
    )


def our_response() -> discovery_pb2.DeltaDiscoveryResponse:
    response = discovery_pb2.DeltaDiscoveryResponse(
        system_version_info="12", type_url=NODES, nonce="3", removed_resources=["x", "y"]
    )
    resource = response.resources.add(version="abc", name="nodes")
    resource.resource.type_url = NODES
    resource.resource.value = bytes(range(256))
    return response


CASES = {
    "first request": (
        discovery_pb2.DeltaDiscoveryRequest(
            node=our_node(), type_url=NODES, resource_names_subscribe=["*"]
        ),
        DeltaDiscoveryRequest(node=their_node(), type_url=NODES, resource_names_subscribe=["*"]),
    ),
    "resuming request": (
        discovery_pb2.DeltaDiscoveryRequest(
            type_url=NODES, initial_resource_versions={"nodes": "abc"}
        ),
        DeltaDiscoveryRequest(type_url=NODES, initial_resource_versions={"nodes": "abc"}),
    ),
    "refusal": (
        discovery_pb2.DeltaDiscoveryRequest(
            type_url=NODES,
            response_nonce="7",
            resource_names_unsubscribe=["x"],
            error_detail={"code": 3, "message": "nodes: wrong"},
        ),
        DeltaDiscoveryRequest(
            type_url=NODES,
            response_nonce="7",
            resource_names_unsubscribe=["x"],
            error_detail=Status(code=3, message="nodes: wrong"),
        ),
    ),
    "response": (
        our_response(),
        DeltaDiscoveryResponse(
            system_version_info="12",
            resources=[
                Resource(
                    version="abc",
                    resource=Any(type_url=NODES, value=bytes(range(256))),
                    name="nodes",
                )
            ],
            type_url=NODES,
            nonce="3",
            removed_resources=["x", "y"],
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_write_the_same_bytes(case: str) -> None:
    ours, theirs = CASES[case]
    # Envoy's Python code writes fields as they stand in its source, not by number; put in order
    # (which keeps fields that are unknown to us) nothing may differ.
    ordered = type(ours).FromString(bytes(theirs)).SerializeToString(deterministic=True)
    assert len(bytes(theirs)) == len(ordered)
    assert ours.SerializeToString(deterministic=True) == ordered


@pytest.mark.parametrize("case", CASES)
def test_each_reads_what_the_other_wrote(case: str) -> None:
    ours: OurMessage
    theirs: Message
    ours, theirs = CASES[case]
    assert type(theirs).parse(ours.SerializeToString()) == theirs
    assert type(ours).FromString(bytes(theirs)) == ours
