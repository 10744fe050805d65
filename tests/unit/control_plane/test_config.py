import json
from pathlib import Path

import pytest

from control_plane.config import Config, load_config, split_address
from control_plane.errors import BadConfig

NEEDED = ["--cluster", "dev", "--id", "cp-1", "--store", "sqlite:///tmp/store.db"]


def refusal(arguments: list[str], environment: dict[str, str] | None = None) -> str:
    with pytest.raises(BadConfig) as caught:
        load_config(arguments, environment or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_are_enough() -> None:
    config = load_config([*NEEDED, "--probe-interval-ms", "250"], {})
    assert config == Config(
        cluster="dev", id="cp-1", store="sqlite:///tmp/store.db", probe_interval_ms=250
    )


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"cluster": "file", "id": "file", "store": "file", "probe_interval_ms": 100})
    )
    environment = {"DABBA_CONTROL_PLANE_ID": "env", "DABBA_CONTROL_PLANE_STORE": "env", "HOME": "/"}
    config = load_config(["--config", str(path), "--store", "flag"], environment)
    assert (config.cluster, config.id, config.store) == ("file", "env", "flag")
    assert config.probe_interval_ms == 100


def test_the_file_may_be_toml_and_named_by_a_variable(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('cluster = "dev"\nid = "cp-1"\nstore = "x"\n')
    config = load_config([], {"DABBA_CONTROL_PLANE_CONFIG": str(path)})
    assert config.cluster == "dev"


def test_an_unknown_key_suggests_the_nearest_right_one(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"cluster": "dev", "id": "a", "store": "b", "probe_intervall": 5}')
    assert "did you mean 'probe_interval_ms'?" in refusal(["--config", str(path)])
    assert "did you mean 'cluster'?" in refusal(NEEDED, {"DABBA_CONTROL_PLANE_CLUSTR": "x"})
    assert "the keys are cluster, " in refusal(NEEDED, {"DABBA_CONTROL_PLANE_QQQQ": "x"})


def test_what_must_be_set_is_asked_for() -> None:
    assert refusal(["--id", "a", "--store", "b"]).startswith("cluster is not set; give --cluster")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--probe-interval-ms", "49"], "probe_interval_ms: expected `int` >= 50"),
        (["--probe-interval-ms", "soon"], "probe_interval_ms: expected `int`"),
        (["--session-timeout-ms", "60001"], "session_timeout_ms"),
        (["--cluster", "Dev"], "cluster"),
        (["--id", "a/b"], "id"),
        (["--listen", "localhost"], "listen is 'localhost'; write host:port"),
        (["--listen", "localhost:99999"], "listen"),
        (["--advertise", "nowhere"], "advertise"),
        (["--metrics", "9100"], "metrics"),
        (["--log-level", "loud"], "log_level"),
    ],
)
def test_a_bad_value_names_its_key(flags: list[str], words: str) -> None:
    assert words in refusal([*NEEDED, *flags])


def test_a_number_in_a_file_must_be_a_number(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"cluster": "dev", "id": "a", "store": "b", "probe_interval_ms": "100"}')
    assert "probe_interval_ms" in refusal(["--config", str(path)])


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "{"), ("a.json", "[]"), ("a.toml", "="), ("a.ini", "")]
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert str(path) in refusal(["--config", str(path)])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(["--config", str(tmp_path / "none.json")])


def test_addresses_of_the_sixth_version_stand_in_brackets() -> None:
    assert split_address("listen", "[::1]:80") == ("[::1]", 80)
    with pytest.raises(ValueError, match="listen"):
        split_address("listen", "::1:80")
