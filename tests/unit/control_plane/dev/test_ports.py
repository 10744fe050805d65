import socket

import pytest

from control_plane.dev import ports
from control_plane.dev.errors import StartFailed
from control_plane.dev.ports import choose_ports, is_free


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_chosen_ports_are_different_and_none_is_taken() -> None:
    first = choose_ports(8)
    assert len(set(first)) == 8
    assert not set(choose_ports(8, first)) & set(first)
    assert all(20_000 <= port < 32_000 for port in first)


def test_too_few_free_ports_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port % 4_000 == 0)
    assert sorted(choose_ports(3)) == [20_000, 24_000, 28_000]
    with pytest.raises(StartFailed, match="no 4 free ports"):
        choose_ports(4)
