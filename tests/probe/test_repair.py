"""What a Valkey lost comes back, and what was damaged is healed, while clients read and write."""

import time
from typing import Any

import pytest
import redis

from control_plane.controllers.status import natural
from replicas.layout import bucket_keys, user_field
from replicas.record import decode_record
from tests.support.fault_table import Judged
from tests.support.history import History
from tests.support.load import Load, load_on
from tests.support.local_cluster import LocalCluster, wait_until
from tests.support.replica_records import flip

pytestmark = [pytest.mark.slow, pytest.mark.probe]

BACK_WITHIN_S = 30.0
KILLS = 6


def restart_empty(cluster: LocalCluster, node_id: str) -> None:
    node = cluster.parts[node_id]
    node.kill()
    node.erase()
    node.start()


def incarnation(cluster: LocalCluster, node_id: str) -> int:
    [known] = [n.node for n in cluster.status().nodes if n.node.id == node_id]
    return known.incarnation


def wait_back(cluster: LocalCluster, node_id: str) -> None:
    wait_until(
        lambda: incarnation(cluster, node_id) > 1, f"{node_id} has a new life", BACK_WITHIN_S
    )
    cluster.wait_trusted()


def repaired(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    ended = cluster.dabba("repair", "default", *arguments, "-o", "json")
    assert ended.status == 0, ended.err
    job: dict[str, Any] = ended.json
    assert (job["state"], job["problem"], job["buckets_skipped"]) == ("done", "", 0)
    return job


def ended(load: Load) -> History:
    history = load.stop()
    load.read_all()
    assert history.failures == []
    return history


def all_equal(cluster: LocalCluster) -> None:
    """Every key is the same record on all of its owners, compared from outside."""
    repaired(cluster)
    data: dict[bytes, list[dict[bytes, bytes]]] = {}
    for node in cluster.nodes:
        host, _, port = node.address.rpartition(":")
        with redis.Redis(host, int(port)) as client:
            for key in client.scan_iter(b"dabba:*:data"):
                fields = client.hgetall(key)
                records = {f: raw for f, raw in fields.items() if f.startswith(b"k")}
                data.setdefault(key, []).append(records)
    assert any(copies[0] for copies in data.values())
    for key, copies in data.items():
        assert len(copies) == 3, key
        assert copies[0] == copies[1] == copies[2], key


@pytest.mark.fault(3)
def test_a_node_that_restarts_empty_under_load_is_back_in_its_next_incarnation(
    cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(cluster) as load:
        restart_empty(cluster, "node-1")
        began = time.monotonic()
        wait_until(lambda: cluster.node_health()["node-1"] == "suspect", "it is seen")
        wait_back(cluster, "node-1")
        assert time.monotonic() - began < BACK_WITHIN_S
        load.run_for(1_000)
        judged(ended(load))
    assert incarnation(cluster, "node-1") == 2
    all_equal(cluster)


@pytest.mark.fault(3)
def test_a_control_plane_killed_again_and_again_still_brings_the_node_back(
    cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(cluster) as load:
        restart_empty(cluster, "node-2")
        wait_until(lambda: cluster.node_health()["node-2"] == "suspect", "it is seen")
        for number in range(KILLS):
            wait_until(lambda: being_repaired(cluster), "the repair goes on", BACK_WITHIN_S)
            time.sleep(0.04 * number)  # another step each time
            cluster.control_plane.kill()
            cluster.control_plane.start()
            wait_until(lambda: answers(cluster), "the control plane is back")
        wait_back(cluster, "node-2")
        load.run_for(500)
        judged(ended(load))
    all_equal(cluster)


def being_repaired(cluster: LocalCluster) -> bool:
    return any(
        "being repaired" in node.detail or node.node.incarnation > 1
        for node in cluster.status().nodes
    )


def answers(cluster: LocalCluster) -> bool:
    try:
        return bool(cluster.status().leader)
    except Exception:  # noqa: BLE001 - whatever gRPC says: not yet
        return False


@pytest.mark.fault(29)
def test_a_flipped_byte_is_found_and_healed_while_writes_go_on(
    cluster: LocalCluster, judged: Judged
) -> None:
    with load_on(cluster) as load:
        client = redis.Redis(port=cluster.redis_port)
        keys = [f"quiet-{number}".encode() for number in range(200)]
        for key in keys:
            client.set(key, b"of " + key)
        places = cluster.dabba("where", keys[7].decode(), "-o", "json").json
        bucket, owner = places["bucket"], min((o["node"] for o in places["owners"]), key=natural)
        host, _, port = cluster.parts[owner].address.rpartition(":")
        name, field = bucket_keys("default", bucket).data, user_field(keys[7])
        with redis.Redis(host, int(port)) as node:
            raw = node.hget(name, field)
            assert raw is not None
            node.hset(name, field, flip(raw, len(raw) - 2))
            job = repaired(cluster, "--bucket", str(bucket))
            assert (job["healed"], job["unhealed"]) == (1, 0)
            mended = node.hget(name, field)
            assert mended is not None
            record = decode_record(mended)
        assert record is not None
        assert record.value == b"of " + keys[7]
        assert client.get(keys[7]) == b"of " + keys[7]
        client.close()
        judged(ended(load))
