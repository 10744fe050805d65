"""The command line against servers with fixed answers, and nothing of the developer's own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from control_plane.cli.main import run
from tests.support.stand_ins import (
    AdminStandIn,
    DataStandIn,
    control_plane_stand_in,
    sidecar_stand_in,
)


@dataclass
class Answer:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        value = orjson.loads(self.out)
        assert isinstance(value, dict)
        return value


Dabba = Callable[..., Answer]


@pytest.fixture(autouse=True)
def no_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No address comes from the environment or from a cluster that happens to run."""
    addresses = ("DABBA_CONTROL_PLANE", "DABBA_SIDECAR", "DABBA_ADMIN")
    who = ("DABBA_TOKEN", "DABBA_TLS_CA", "DABBA_TLS_CERT", "DABBA_TLS_KEY")
    for name in (*addresses, *who, "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def dabba(capfd: pytest.CaptureFixture[str]) -> Dabba:
    """Runs one command: `dabba("get", "k")`."""

    def call(*arguments: str) -> Answer:
        status = run(arguments)
        out, err = capfd.readouterr()
        return Answer(status, out, err)

    return call


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminStandIn]:
    """A control plane, named by the environment."""
    stand_in = AdminStandIn()
    with control_plane_stand_in(stand_in) as address:
        monkeypatch.setenv("DABBA_CONTROL_PLANE", address)
        yield stand_in


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataStandIn]:
    """A sidecar, named by the environment."""
    stand_in = DataStandIn()
    with sidecar_stand_in(stand_in) as address:
        monkeypatch.setenv("DABBA_SIDECAR", address)
        yield stand_in
