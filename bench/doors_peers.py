"""The peers that the doors are measured beside, with one working thread each.

Envoy and twemproxy share six Valkeys, as many as the sidecar has; each finds its own copy of every
key there. HAProxy and "straight" share one Valkey. Two gRPC servers answer with what they are sent.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.doors_cluster import NODES
from bench.doors_programs import find, read_line, running, wait_until
from bench.doors_wire import answers
from control_plane.dev.ports import choose_ports
from control_plane.dev.valkey_binary import find_server


@dataclass(frozen=True, slots=True)
class Peer:
    """One server."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Peers:
    """All of them."""

    straight: Peer
    haproxy: Peer
    twemproxy: Peer
    envoy: Peer
    grpc_aio_echo: Peer
    door_echo: Peer


@contextmanager
def peers(folder: Path) -> Iterator[Peers]:
    """Starts all, waits until each answers, ends all."""
    ports = choose_ports(NODES + 5)
    servers, straight, (proxy, envoy, twemproxy, stats) = ports[:NODES], ports[NODES], ports[-4:]
    with ExitStack() as stack:

        def start(name: str, port: int, command: Sequence[str]) -> Peer:
            process = stack.enter_context(running(name, command, folder))
            wait_until(answers(port), f"{name} answers", process)
            return Peer(port, process.pid)

        for number, port in enumerate(servers):
            start(f"valkey-{number}", port, _valkey(port, folder))
        yield Peers(
            straight=start("valkey", straight, _valkey(straight, folder)),
            haproxy=start("haproxy", proxy, _haproxy(folder, proxy, straight)),
            twemproxy=start("twemproxy", twemproxy, _twemproxy(folder, twemproxy, stats, servers)),
            envoy=start("envoy", envoy, _envoy(folder, envoy, servers)),
            grpc_aio_echo=_echo(stack, folder, "grpc.aio"),
            door_echo=_echo(stack, folder, "door"),
        )


def _valkey(port: int, folder: Path) -> list[str]:
    settings = {"port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": ""}
    settings |= {"appendonly": "no", "daemonize": "no", "logfile": f"valkey-{port}.log"}
    return [str(find_server()), *(part for k, v in settings.items() for part in (f"--{k}", v))]


def _haproxy(folder: Path, port: int, server: int) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 1000\n"
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
        f"backend b\n  server s 127.0.0.1:{server}\n"
    )
    return [find("haproxy"), "-db", "-q", "-f", str(config)]


def _twemproxy(folder: Path, port: int, stats: int, servers: Sequence[int]) -> list[str]:
    config = folder / "nutcracker.yml"
    config.write_text(  # it knows block style only
        f"pool:\n  listen: 127.0.0.1:{port}\n  redis: true\n  preconnect: true\n"
        "  hash: fnv1a_64\n  distribution: ketama\n  servers:\n"
        + "".join(f"   - 127.0.0.1:{server}:1\n" for server in servers)
    )
    log = str(folder / "nutcracker.log")
    return [find("nutcracker"), "-c", str(config), "-a", "127.0.0.1", "-s", str(stats), "-o", log]


def _envoy(folder: Path, port: int, servers: Sequence[int]) -> list[str]:
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
        "stat_prefix": "redis",
        "settings": {"op_timeout": "5s"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
    }
    endpoints = [{"endpoint": {"address": _address(server)}} for server in servers]
    cluster = {
        "name": "redis",
        "type": "STATIC",
        "lb_policy": "MAGLEV",
        "load_assignment": {"cluster_name": "redis", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    filters = [{"name": "envoy.filters.network.redis_proxy", "typed_config": proxy}]
    listener = {"address": _address(port), "filter_chains": [{"filters": filters}]}
    config = folder / "envoy.json"
    resources = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    config.write_bytes(msgspec.json.encode(resources))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [find("envoy"), "-c", str(config), *options]


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _echo(stack: ExitStack, folder: Path, engine: str) -> Peer:
    command = [sys.executable, "-P", "-m", "bench.grpc_echo", "--serve", engine]
    name = f"echo-{engine}"
    process = stack.enter_context(running(name, command, folder))
    return Peer(int(read_line(process, name, folder / f"{name}.log")), process.pid)
