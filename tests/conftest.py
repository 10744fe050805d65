"""Fixtures that any test may ask for: real servers, each gone when the test is."""

from collections.abc import Generator, Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import settings

from tests.support.servers import (
    Server,
    Servers,
    start_redis,
    start_valkey,
    start_zookeeper,
    stopped_after,
)
from tests.support.tracebacks import number_frames

# A machine that is busy with something else is no failure, so examples have no deadline of their
# own; the test has one (pytest's timeout). A failing example is printed so that it can be repeated.
settings.register_profile("dabbawala", deadline=None, print_blob=True)
settings.load_profile("dabbawala")

# They need what `make compiled` makes; `make test-compiled` names the folder.
collect_ignore = ["compiled"]

# gRPC's poller stays, as in a sidecar: see Sidecar.run.
grpc.aio.init_grpc_aio()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.excinfo is not None:
        number_frames(call.excinfo.value)
        call.excinfo = pytest.ExceptionInfo.from_exception(call.excinfo.value)
    return (yield)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Starts as many servers as the test asks for: `servers.valkey()`, `servers.redis()`."""
    started = Servers(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    """One empty Valkey."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    with stopped_after(start_valkey(folder)) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Server]:
    """One empty redis-server, the distribution's."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with stopped_after(start_redis(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One ZooKeeper for the tests of a module, since it takes a second to start.

    A test keeps to a root path of its own. One that harms the server uses `servers.zookeeper()`.
    """
    with stopped_after(start_zookeeper(tmp_path_factory.mktemp("zookeeper"))) as server:
        yield server
