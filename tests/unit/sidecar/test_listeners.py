"""Ports and sockets: which are taken, which are only left over."""

import socket
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.config import ConfigError
from sidecar.listeners import address_of, adopt_unix, bind_tcp, bind_unix, join_tcp


@pytest.mark.parametrize("ours", [False, True], ids=["alone", "sharing"])
@pytest.mark.parametrize("theirs", [False, True], ids=["held", "shared"])
def test_a_port_in_use_is_refused_even_if_both_would_share(ours: bool, theirs: bool) -> None:
    refused = pytest.raises(ConfigError, match=r"grpc: port \d+ on 127.0.0.1 is in use")
    with closing(bind_tcp("grpc", "127.0.0.1:0", share=theirs)) as held, refused:
        bind_tcp("grpc", address_of(held), share=ours).close()


def test_workers_join_a_port_that_the_first_process_shares() -> None:
    first = bind_tcp("grpc", "127.0.0.1:0", share=True)
    with closing(first), closing(join_tcp(address_of(first))) as second:
        assert address_of(second) == address_of(first)
    alone = bind_tcp("grpc", "127.0.0.1:0", share=False)
    with closing(alone), pytest.raises(ConfigError, match="in use"):
        join_tcp(address_of(alone)).close()


def test_ipv6_addresses_are_written_in_brackets() -> None:
    with closing(bind_tcp("grpc", "[::1]:0", share=False)) as bound:
        assert address_of(bound).startswith("[::1]:")


def test_an_address_that_is_not_of_this_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="grpc is 203.0.113.1:0"):
        bind_tcp("grpc", "203.0.113.1:0", share=False)


def test_a_unix_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    bound = bind_unix("grpc_socket", str(path))
    assert bound is not None
    with closing(bound):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(path))


def test_no_path_is_no_socket() -> None:
    assert bind_unix("grpc_socket", "") is None
    assert adopt_unix(-1) is None


def test_the_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    bound = bind_unix("grpc_socket", str(path))
    assert bound is not None
    bound.close()


def not_accepting(path: Path) -> socket.socket:
    living = socket.socket(socket.AF_UNIX)
    living.bind(str(path))
    living.listen(0)
    return living


def accepting(path: Path) -> socket.socket:
    living = socket.socket(socket.AF_UNIX)
    living.bind(str(path))
    living.listen(5)
    return living


@pytest.mark.parametrize("lives", [accepting, not_accepting])
def test_the_socket_of_a_living_process_is_left_alone(
    tmp_path: Path, lives: Callable[[Path], socket.socket]
) -> None:
    path = tmp_path / "grpc.sock"
    with closing(lives(path)):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:  # fill the backlog of the one that does not accept
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(ConfigError, match="a living process listens"):
            bind_unix("grpc_socket", str(path))
        assert path.exists()
        for client in clients:
            client.close()


def test_a_path_that_is_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        bind_unix("grpc_socket", str(file))
    assert file.read_text() == "precious"
    with pytest.raises(ConfigError, match="grpc_socket is .*none/x"):
        bind_unix("grpc_socket", str(tmp_path / "none" / "x"))
    with pytest.raises(ConfigError, match="too long"):
        bind_unix("grpc_socket", "/tmp/" + "x" * 200)
