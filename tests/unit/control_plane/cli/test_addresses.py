import os
from pathlib import Path

import pytest

from control_plane.cli.addresses import CONTROL_PLANE, SIDECAR, find_address
from control_plane.cli.errors import CommandError
from control_plane.dev.context_file import DevContext, context_path, started_ticks, write_context
from tests.unit.control_plane.cli.conftest import Dabba


def written(environ: dict[str, str], **changes: int) -> DevContext:
    facts = {"pid": os.getpid(), "started_ticks": started_ticks(os.getpid())} | changes
    context = DevContext(
        **facts,
        cluster="dev",
        control_plane="127.0.0.1:1001",
        sidecar="127.0.0.1:1002",
        redis="127.0.0.1:1003",
        admin="127.0.0.1:1004",
    )
    write_context(context_path(environ), context)
    return context


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}


def test_the_flag_goes_before_the_variable_and_that_before_a_running_cluster(
    environ: dict[str, str],
) -> None:
    written(environ)
    assert find_address(SIDECAR, None, environ) == "127.0.0.1:1002"
    assert find_address(CONTROL_PLANE, None, environ) == "127.0.0.1:1001"
    environ["DABBA_SIDECAR"] = "host:2"
    assert find_address(SIDECAR, None, environ) == "host:2"
    assert find_address(SIDECAR, "host:3", environ) == "host:3"


def test_a_unix_socket_is_an_address(environ: dict[str, str]) -> None:
    assert find_address(SIDECAR, "unix:/run/x.sock", environ) == "unix:/run/x.sock"


@pytest.mark.parametrize("address", ["host", "host:", "host:0", "host:65536", ":1", "unix:", "h:x"])
def test_what_is_no_address_names_where_it_came_from(environ: dict[str, str], address: str) -> None:
    environ["DABBA_SIDECAR"] = address
    with pytest.raises(CommandError, match="DABBA_SIDECAR") as caught:
        find_address(SIDECAR, None, environ)
    assert caught.value.exit_code == 2


def test_without_any_the_error_names_all_three_ways(environ: dict[str, str]) -> None:
    with pytest.raises(CommandError) as caught:
        find_address(CONTROL_PLANE, None, environ)
    for words in ("dabba dev", "--control-plane", "DABBA_CONTROL_PLANE"):
        assert words in caught.value.line()


@pytest.mark.parametrize("changes", [{"pid": 1 << 22 | 1}, {"started_ticks": 1}])
def test_what_a_cluster_that_is_gone_left_is_not_used(
    environ: dict[str, str], changes: dict[str, int]
) -> None:
    context = written(environ, **changes)
    with pytest.raises(CommandError, match=f"is gone.*{context.pid}"):
        find_address(SIDECAR, None, environ)


def test_an_unreachable_server_is_one_line_with_what_to_do(dabba: Dabba) -> None:
    answer = dabba("get", "k", "--sidecar", "127.0.0.1:1")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.count("\n") == 1
    for words in ("cannot reach the sidecar at 127.0.0.1:1", "--sidecar HOST:PORT", "dabba dev"):
        assert words in answer.err


def test_a_proxy_of_the_environment_is_not_asked(
    dabba: Dabba, data: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert dabba("get", "k").out == "v\n"
