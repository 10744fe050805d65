"""Nodes lose power: of what they wrote only what was fsynced is left."""

import time
from pathlib import Path

import grpc
import pytest
import redis

from protos.dabbawala.v1 import admin_pb2, data_pb2
from tests.support.fault_table import Judged
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, Part, local_cluster, wait_until
from tests.support.power_loss import PowerLoss, power_loss
from tests.support.register_load import judge, register_load

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.peers, pytest.mark.fault(4)]

LEDGER = "ledger"
LATE_KEYS = [f"late-{number}".encode() for number in range(200)]


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PowerLoss:
    return power_loss(tmp_path, monkeypatch)


def lose_power(power: PowerLoss, *nodes: Part) -> None:
    """All at the same moment; they are back afterwards."""
    for node in nodes:
        node.kill()
    for node in nodes:
        assert node.folder is not None
        power.lose(node.folder)
        node.start()


def test_durable_nodes_that_lose_power_lose_nothing_acknowledged(
    power: PowerLoss, judged: Judged
) -> None:
    with local_cluster("--data", "data", "--nodes", "3") as cluster:
        created = cluster.dabba(
            "keyspace", "create", LEDGER, "--mode", "linearizable", "--buckets", "8"
        )
        assert created.status == 0, created.err
        cluster.wait_served(LEDGER)
        targets = [(f"register-{number}", cluster.grpc_targets[0]) for number in range(3)]
        with load_on(cluster) as load, register_load(LEDGER, targets) as registers:
            for together in (cluster.nodes[:1], cluster.nodes[1:]):
                lose_power(power, *together)
                cluster.wait_trusted()
                load.run_for(300)
                registers.run_for(100)
            registers.stop()
            history = load.stop()
            load.read_all()
        assert {node.node.incarnation for node in cluster.status().nodes} == {1}
    judged(history)
    judge(registers, judged)


def set_everysec(node: Part) -> None:
    with redis.Redis(port=int(node.address.rpartition(":")[2])) as client:
        client.config_set("appendfsync", "everysec")
        client.config_set("appendonly", "yes")
    node.command += ["--appendonly", "yes", "--appendfsync", "everysec"]


def all_durable(power: PowerLoss, cluster: LocalCluster) -> bool:
    logs = [log for node in cluster.nodes for log in _folder(node).rglob("*.incr.aof")]
    return len(logs) == len(cluster.nodes) and all(
        power.durable_bytes(log) == log.stat().st_size > 0 for log in logs
    )


def _folder(node: Part) -> Path:
    assert node.folder is not None
    return node.folder


def test_with_fsync_every_second_two_of_three_wait_for_an_operator_who_is_told_the_window(
    power: PowerLoss, judged: Judged
) -> None:
    with local_cluster("--nodes", "3") as cluster:
        for node in cluster.nodes:
            set_everysec(node)
        with load_on(cluster) as load:
            lose_power(power, cluster.nodes[0])
            wait_until(lambda: _incarnation(cluster, "node-1") == 2, "the others repair it")
            cluster.wait_trusted()
            assert load.history.failures == []
            history = load.stop()
        wait_until(lambda: all_durable(power, cluster), "the last second is over")
        began_ms = time.time() * 1000
        data = cluster.data()
        for key in LATE_KEYS:
            data.Put(data_pb2.PutRequest(key=key, value=b"of " + key), timeout=5)
        lose_power(power, *cluster.nodes[:2])
        wait_until(lambda: "no majority left" in _detail(cluster, "node-1"), "nobody can repair it")
        with pytest.raises(grpc.RpcError):
            data.Get(data_pb2.GetRequest(key=LATE_KEYS[0]), timeout=5)
        assert "--accept-loss" in cluster.dabba("node", "recover", "node-1").err
        accepted = cluster.dabba("node", "recover", "node-1", "--accept-loss", "-o", "json")
        assert accepted.status == 0, accepted.err
        cluster.wait_trusted()
        [job] = cluster.admin().ListJobs(admin_pb2.ListJobsRequest(id=accepted.json["id"])).jobs
        assert job.loss_from_ms <= began_ms <= job.loss_to_ms
        with load_on(cluster, history) as load:
            load.stop()
            load.read_all()
        judged(history)
        found = [data.Get(data_pb2.GetRequest(key=key), timeout=5) for key in LATE_KEYS]
        judged.count(operations=2 * len(LATE_KEYS), acknowledged=2 * len(LATE_KEYS))
    assert {got.value for got in found if got.found} <= {b"of " + key for key in LATE_KEYS}


def _incarnation(cluster: LocalCluster, node_id: str) -> int:
    [known] = [n.node for n in cluster.status().nodes if n.node.id == node_id]
    return known.incarnation


def _detail(cluster: LocalCluster, node_id: str) -> str:
    [known] = [n for n in cluster.status().nodes if n.node.id == node_id]
    return known.detail
