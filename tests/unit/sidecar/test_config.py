"""The sidecar's configuration: where it comes from, and what is refused with which words."""

from pathlib import Path

import pytest

from sidecar.config import ConfigError, SidecarConfig, load_config

GIVEN = {"cluster": "test", "zone": "a"}


def refusal(**values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {**GIVEN, **values})
    return str(caught.value)


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('cluster = "file"\nzone = "file"\nid = "file"\ndefault_timeout_ms = 5\n')
    monkeypatch.setenv("DABBA_SIDECAR_ZONE", "environment")
    monkeypatch.setenv("DABBA_SIDECAR_ID", "environment")
    monkeypatch.setenv("DABBA_SIDECAR_CONTROL_PLANES", "127.0.0.1:1,127.0.0.1:2")
    config = load_config(str(file), {"id": "flag", "workers": None})
    assert config == SidecarConfig(
        cluster="file",
        zone="environment",
        id="flag",
        default_timeout_ms=5,
        control_planes=("127.0.0.1:1", "127.0.0.1:2"),
    )


def test_a_json_file_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.json"
    file.write_text('{"cluster": "c", "zone": "z", "allow_remote": true, "grpc": "0.0.0.0:1"}')
    assert load_config(str(file), {}).grpc == "0.0.0.0:1"


def test_an_unknown_key_names_the_nearest_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unknown key 'zoen'; did you mean 'zone'?" in refusal(zoen="a")
    assert "known keys: cluster, zone" in refusal(qqq=1)
    monkeypatch.setenv("DABBA_SIDECAR_WORKES", "2")
    assert "did you mean 'workers'?" in refusal()


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("workers", 1, 64),
        ("default_timeout_ms", 1, 600_000),
        ("drain_timeout_ms", 0, 600_000),
        ("max_connections", 1, 1_000_000),
    ],
)
def test_a_number_out_of_its_bounds_names_them(key: str, low: int, high: int) -> None:
    for value in (low - 1, high + 1):
        assert f"{key} is {value}; it may be {low} to {high}" in refusal(**{key: value})
    for value in (low, high):
        assert getattr(load_config(None, {**GIVEN, key: str(value)}), key) == value
    assert key in refusal(**{key: "many"})


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:65536", "h:-1", "h:²", "h:1x"]
)
@pytest.mark.parametrize("key", ["grpc", "redis", "admin", "control_planes"])
def test_an_address_that_is_none_is_refused(key: str, address: str) -> None:
    value = [address] if key == "control_planes" else address
    assert f"{key} is {address!r}; it must be host:port" in refusal(**{key: value})


def test_a_door_that_others_can_reach_must_be_meant() -> None:
    assert "other hosts can reach; use 127.0.0.1" in refusal(redis="0.0.0.0:1")
    assert load_config(None, {**GIVEN, "redis": "0.0.0.0:1", "allow_remote": "true"}).allow_remote
    assert load_config(None, {**GIVEN, "redis": "[::1]:1"}).redis == "[::1]:1"


@pytest.mark.parametrize("key", ["cluster", "zone"])
def test_what_is_missing_or_empty_is_named(key: str) -> None:
    assert f"{key} is empty" in refusal(**{key: ""})
    with pytest.raises(ConfigError, match=key):
        load_config(None, {other: "x" for other in GIVEN if other != key})


def test_a_file_that_can_not_be_used_is_said_why(tmp_path: Path) -> None:
    for name, text in (("a.toml", "= 1"), ("a.json", "{"), ("b.json", "[1]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=rf"{name} is not"):
            load_config(str(tmp_path / name), {})
    (tmp_path / "c.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(str(tmp_path / "c.toml"), {})
    with pytest.raises(ConfigError, match="No such file"):
        load_config(str(tmp_path / "none.toml"), {})


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"tls_cert": "a.pem"}, "tls_key"),
        ({"tls_key": "a.pem"}, "tls_cert"),
        ({"tls_client_ca": "a.pem"}, "tls_cert"),
        ({"tls_cert": "a", "tls_key": "a", "tls_identities": "app"}, "tls_client_ca"),
    ],
)
def test_half_of_tls_is_refused(given: dict[str, str], missing: str) -> None:
    values: dict[str, object] = dict(given)
    if "tls_identities" in values:
        values["tls_identities"] = [values["tls_identities"]]
    assert f"is given without {missing}; give both, or none" in refusal(**values)


def test_only_engines_that_there_are_are_taken() -> None:
    assert "grpc_engine is 'grpc'; use own or grpcio" in refusal(grpc_engine="grpc")
    assert load_config(None, {**GIVEN, "grpc_engine": "grpcio"}).grpc_engine == "grpcio"
