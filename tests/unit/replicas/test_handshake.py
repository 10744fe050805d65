import pytest
from hiredis import Reader, ReplyError

from replicas.errors import (
    AuthenticationFailed,
    Evicting,
    Loading,
    Misconfigured,
    NotAReplicaServer,
    NotMaster,
    ReplicaError,
    TooOld,
)
from replicas.handshake import ServerIdentity, first_questions, identify, parse_time_ms
from replicas.scripts import SCRIPTS

ADDRESS = "10.0.0.1:6379"
LOADED = [script.sha for script in SCRIPTS.values()]
GOOD = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "server_mode": "standalone",
    "run_id": "ab" * 20,
    "role": "master",
    "connected_slaves": "0",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "cluster_enabled": "0",
}


def info(**changes: str | None) -> bytes:
    fields = {name: value for name, value in (GOOD | changes).items() if value is not None}
    lines = ["# Server", *(f"{name}:{value}" for name, value in fields.items()), ""]
    return "\r\n".join(lines).encode()


def identified(info_reply: object, fsync: object = None) -> ServerIdentity:
    fsync = [b"appendfsync", b"always"] if fsync is None else fsync
    replies = [info_reply, fsync, *LOADED]
    return identify(ADDRESS, replies, clock_offset_ms=3, authenticated=False)


def test_a_good_server_is_known_by_its_life_and_settings() -> None:
    assert identified(info()) == ServerIdentity(
        run_id=b"\xab" * 20,
        server="valkey",
        version=(9, 1, 2),
        role="master",
        maxmemory_policy="noeviction",
        appendonly=True,
        appendfsync="always",
        clock_offset_ms=3,
    )


def test_a_valkey_is_judged_by_its_own_version() -> None:
    assert identified(info(redis_version="5.0.0")).version == (9, 1, 2)
    with pytest.raises(TooOld, match="valkey 7.1"):
        identified(info(valkey_version="7.1.9"))


def test_a_redis_is_recognized() -> None:
    server = identified(info(valkey_version=None, redis_version="6.2.0"))
    assert (server.server, server.version) == ("redis", (6, 2, 0))
    assert identified(info(valkey_version="8.0.0-rc1")).version == (8, 0, 0)


@pytest.mark.parametrize(
    ("appendonly", "fsync", "durable"),
    [("1", "always", True), ("1", "everysec", False), ("0", "always", False)],
)
def test_only_fsync_always_is_durable(appendonly: str, fsync: str, durable: bool) -> None:
    reply = [b"appendfsync", fsync.encode()]
    assert identified(info(aof_enabled=appendonly), reply).durable is durable


def test_a_server_that_hides_its_configuration_counts_as_not_durable() -> None:
    server = identified(info(), ReplyError("ERR unknown command 'CONFIG'"))
    assert not server.durable
    [warning] = server.warnings
    assert "CONFIG" in warning


def test_replicas_of_the_server_are_warned_of() -> None:
    [warning] = identified(info(connected_slaves="1")).warnings
    assert "replicate from it" in warning


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"valkey_version": None, "redis_version": "6.0.16"}, TooOld, "6.2"),
        ({"maxmemory_policy": "allkeys-lru"}, Evicting, "CONFIG SET maxmemory-policy noeviction"),
        ({"maxmemory_policy": None}, Evicting, "unknown"),
        ({"role": "slave"}, NotMaster, "REPLICAOF NO ONE"),
        ({"role": None}, NotMaster, "unknown"),
        ({"server_mode": "sentinel"}, NotMaster, "Sentinel"),
        ({"server_mode": None, "redis_mode": "sentinel"}, NotMaster, "Sentinel"),
        ({"server_mode": "cluster"}, NotMaster, "cluster-enabled no"),
        ({"cluster_enabled": "1"}, NotMaster, "cluster-enabled no"),
        ({"valkey_version": None, "redis_version": None}, NotAReplicaServer, "no version"),
        ({"valkey_version": "new"}, NotAReplicaServer, "new"),
        ({"run_id": None}, NotAReplicaServer, "run_id"),
        ({"run_id": "abc"}, NotAReplicaServer, "run_id"),
        ({"run_id": "xy" * 20}, NotAReplicaServer, "run_id"),
    ],
)
def test_what_can_not_be_a_replica_is_refused_with_what_to_change(
    changes: dict[str, str | None], error: type[ReplicaError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        identified(info(**changes))
    assert caught.value.address == ADDRESS
    assert caught.value.fix
    assert caught.value.code == error.__name__


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ReplyError("NOAUTH Authentication required."), AuthenticationFailed),
        (ReplyError("LOADING Valkey is loading the dataset in memory"), Loading),
        (ReplyError("NOPERM no permissions to run the 'info' command"), Misconfigured),
        (ReplyError("ERR unknown command 'INFO'"), NotAReplicaServer),
        (None, NotAReplicaServer),
        (7, NotAReplicaServer),
        (b"", NotAReplicaServer),
    ],
)
def test_a_refused_info_says_why(reply: object, error: type[ReplicaError]) -> None:
    with pytest.raises(error):
        identified(reply)


def test_a_refused_script_is_a_misconfiguration() -> None:
    replies = [info(), [], *LOADED[:-1], ReplyError("NOPERM no permissions to run 'script'")]
    with pytest.raises(Misconfigured, match="SCRIPT LOAD"):
        identify(ADDRESS, replies, clock_offset_ms=0, authenticated=False)


def test_the_password_is_sent_first_and_its_refusal_is_told() -> None:
    reader = Reader()
    reader.feed(first_questions("secret")[0])
    assert reader.gets() == [b"AUTH", b"secret"]
    replies = [ReplyError("WRONGPASS invalid username-password pair"), info(), [], *LOADED]
    with pytest.raises(AuthenticationFailed, match="WRONGPASS"):
        identify(ADDRESS, replies, clock_offset_ms=0, authenticated=True)
    accepted = identify(ADDRESS, [b"OK", *replies[1:]], clock_offset_ms=0, authenticated=True)
    assert accepted.server == "valkey"


def test_time_is_read_in_milliseconds() -> None:
    assert parse_time_ms(ADDRESS, [b"1763700000", b"123999"]) == 1_763_700_000_123


@pytest.mark.parametrize("reply", [None, [], [b"1"], [b"a", b"b"], [None, None], 7])
def test_what_is_no_time_is_refused(reply: object) -> None:
    with pytest.raises(NotAReplicaServer):
        parse_time_ms(ADDRESS, reply)
