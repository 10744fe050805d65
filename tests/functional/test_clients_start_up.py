"""What is wrong before anything is served: in the CLI, in configurations, on this machine."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import redis

from control_plane.dev.die_with_parent import tied
from tests.support.local_cluster import LocalCluster, local_cluster, wait_until
from tests.support.servers import Server, Servers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with local_cluster("--nodes", "3") as running:
        yield running


def program(module: str, *flags: str) -> tuple[int, str]:
    """(exit status, what it said), run to its end."""
    done = subprocess.run(
        tied([sys.executable, "-P", "-m", module, *flags]),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stderr


SIDECAR = ["--cluster", "c", "--zone", "a", "--grpc", "127.0.0.1:0", "--redis", "127.0.0.1:0"]
CONTROL_PLANE = ["--cluster", "c", "--id", "one"]


@pytest.mark.parametrize("door", ["grpc", "redis", "admin"])
def test_a_port_of_the_sidecar_in_use(cluster: LocalCluster, door: str) -> None:
    taken = str(cluster.facts["sidecar"][door])
    status, said = program("sidecar", *SIDECAR, "--admin", "127.0.0.1:0", f"--{door}", taken)
    assert (status, said.count("\n")) == (2, 1)
    assert f"{door}: port {taken.rpartition(':')[2]}" in said
    assert "is in use" in said
    assert "ss -ltnp" in said


def test_a_socket_of_the_sidecar_in_use(cluster: LocalCluster) -> None:
    path = cluster.redis_socket
    status, said = program("sidecar", *SIDECAR, "--redis-socket", path, "--admin", "127.0.0.1:0")
    assert (status, said.count("\n")) == (2, 1)
    assert path in said
    assert redis.Redis(unix_socket_path=path).ping()


def test_a_port_of_the_control_plane_in_use(cluster: LocalCluster, tmp_path: Path) -> None:
    taken = cluster.control_plane_address
    store = f"sqlite://{tmp_path}/store"
    status, said = program("control_plane", *CONTROL_PLANE, "--store", store, "--listen", taken)
    assert (status, said.count("\n")) == (2, 1)
    assert taken.rpartition(":")[2] in said


@pytest.mark.parametrize(
    ("module", "config", "words"),
    [
        ("sidecar", {"cluster": "c", "zone": "a", "rediss": "x"}, "did you mean 'redis'"),
        ("sidecar", {"cluster": "c", "zone": "a", "workers": 0}, "1 to 64"),
        ("sidecar", {"cluster": "c", "zone": "a", "grpc": "here"}, "host:port"),
        ("sidecar", {"cluster": "c"}, "zone"),
        ("sidecar", {"cluster": "c", "zone": "a", "redis": "0.0.0.0:0"}, "allow_remote"),
        ("control_plane", {"cluster": "c", "id": "i", "stores": "x"}, "store"),
        ("control_plane", {"cluster": "C!", "id": "i", "store": "sqlite:///x"}, "cluster"),
        ("control_plane", {"cluster": "c", "id": "i", "store": "redis://x"}, "zookeeper://"),
    ],
)
def test_a_bad_configuration_is_one_line_that_names_the_key(
    tmp_path: Path, module: str, config: dict[str, object], words: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(orjson.dumps(config))
    status, said = program(module, "--config", str(path))
    assert (status, said.count("\n")) == (2, 1), said
    assert words in said


def test_a_sidecar_with_the_state_of_another_cluster_does_not_serve_it(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    saved = cluster.folder / "sidecar" / "map"
    wait_until(saved.exists, "the sidecar has saved its map")
    (state / "map").write_bytes(saved.read_bytes())
    log, ports = tmp_path / "log", tmp_path / "ports.json"
    command = [sys.executable, "-P", "-m", "sidecar", *SIDECAR, "--admin", "127.0.0.1:0"]
    command += ["--state-dir", str(state), "--ports-file", str(ports)]
    with log.open("wb") as out:
        process = subprocess.Popen(tied(command), stdout=out, stderr=out)
    try:
        wait_until(lambda: ports.exists() or process.poll() is not None, "it listens or ends")
        wait_until(lambda: "use another state_dir" in log.read_text(), "it says so")
        assert cluster.facts["cluster"] in log.read_text()
        if process.poll() is None:
            port = int(orjson.loads(ports.read_bytes())["redis"].rpartition(":")[2])
            client = redis.Redis(port=port, socket_timeout=5)
            with client, pytest.raises(redis.RedisError):
                client.get("k")
    finally:
        process.kill()
        process.wait()


def refused(cluster: LocalCluster, *arguments: str) -> str:
    """The one line that a refused command says."""
    before = cluster.status()
    answer = cluster.dabba(*arguments)
    assert (answer.status, answer.out) == (1, ""), answer
    assert answer.err.count("\n") == 1
    assert cluster.status().map_revision == before.map_revision
    return answer.err


def add_node(cluster: LocalCluster, node_id: str, address: str, zone: str = "a") -> str:
    return refused(cluster, "node", "add", node_id, address, "--zone", zone)


def test_nodes_that_can_not_be(cluster: LocalCluster, servers: Servers, valkey: Server) -> None:
    evicting = servers.valkey("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    copying = servers.valkey("--replicaof", valkey.host, str(valkey.port))
    assert "noeviction" in add_node(cluster, "n9", evicting.address)
    assert "REPLICAOF NO ONE" in add_node(cluster, "n9", copying.address)
    assert "refused" in add_node(cluster, "n9", "127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert address in add_node(cluster, "n9", address)
    assert "node-1" in add_node(cluster, "n9", cluster.nodes[0].address)
    assert "node-1" in add_node(cluster, "node-1", valkey.address)
    assert "a-z" in add_node(cluster, "Node", valkey.address)
    assert "zone" in add_node(cluster, "n9", valkey.address, zone="")


def test_a_node_of_another_cluster(cluster: LocalCluster) -> None:
    with local_cluster("--nodes", "1") as other:
        line = add_node(cluster, "n9", other.nodes[0].address)
        assert other.facts["cluster"] in line
        assert "empty server" in line


def test_keyspaces_that_can_not_be(cluster: LocalCluster) -> None:
    for arguments, words in (
        (["default"], "exists"),
        (["Bad"], "a-z"),
        (["new", "--buckets", "3"], "power of two"),
        (["new", "--copies", "4"], "3"),
        (["new", "--redis-db", "0"], "default"),
        (["new", "--durability", "fsync"], "durable"),
    ):
        assert words in refused(cluster, "keyspace", "create", *arguments)


def test_one_owner_per_zone_makes_each_quorum_the_same_as_all_and_it_is_said(
    cluster: LocalCluster,
) -> None:
    answer = cluster.dabba("keyspace", "create", "each", "--write-consistency", "EACH_QUORUM")
    assert answer.status == 0, answer.err
    assert "the same as ALL" in answer.out
