"""The wheel with compiled modules, alone in an environment: what it brings is all there is.

Only `make test-compiled` runs this: it has made the wheel that is looked for here.
"""

import os
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path

import orjson
import pytest
import redis

from tests.support.dev import dev_cluster, home

pytestmark = [pytest.mark.slow, pytest.mark.probe]

COMPILED = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it. The packages that it needs are those of this one."""
    at = tmp_path_factory.mktemp("wheel") / "venv"
    (wheel,) = COMPILED.glob("dist/*.whl")
    _run("-m", "venv", "--without-pip", at)
    _run("-m", "pip", "--python", at, "install", "--quiet", "--no-index", "--no-deps", wheel)
    (packages,) = at.glob("lib/python*/site-packages")
    # A line in a .pth file is a folder to look in; .pth files there, like ours, are not read.
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return at


def _run(*arguments: str | Path) -> None:
    command = [sys.executable, *arguments]
    # pip would find the project there, and have nothing to install.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_cluster_starts_from_the_wheel_and_its_sidecar_says_that_it_is_compiled(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with (
        home(str(environment / "bin" / "dabba")) as at,
        dev_cluster(at, "--nodes", "3") as dev,
    ):
        client = redis.Redis(port=dev.redis_port)
        client.set("one", "1")
        assert client.get("one") == b"1"
        with urllib.request.urlopen(f"http://{dev.facts['sidecar']['admin']}/stats") as answer:
            assert orjson.loads(answer.read())["compiled"] is True
        maps = Path(f"/proc/{dev.pids['sidecar']}/maps").read_text()
        assert f"{environment}/lib" in maps
        assert f"{COMPILED}/" not in maps


def test_every_module_of_the_list_is_compiled_and_its_source_stands_beside_it(
    environment: Path,
) -> None:
    (packages,) = environment.glob("lib/python*/site-packages")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    settings = tomllib.loads((COMPILED / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    modules = settings["targets"]["wheel"]["hooks"]["custom"]["modules"]
    built = {
        str(path.relative_to(packages)).removesuffix(suffix) + ".py"
        for path in packages.rglob(f"*{suffix}")
        if path.with_name(path.name.removesuffix(suffix) + ".py").exists()
    }
    assert built == set(modules)
