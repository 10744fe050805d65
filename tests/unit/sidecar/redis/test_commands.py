"""The commands of a tunable keyspace, where Redis has no say: ours, refusals, outcomes."""

import pytest

from sidecar.core.turns import MOST_HELD_BYTES
from sidecar.errors import DataError, Fault, Outcome, Reason
from tests.support.conversation import START_MS, Conversation, packed


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


@pytest.mark.parametrize(
    "command",
    [
        "SET k v NX",
        "SET k v XX",
        "SET k v GET",
        "SET k v KEEPTTL",
        "SET k v EX 10 NX",
        "SETNX k v",
        "GETSET k v",
        "GETDEL k",
        "GETEX k EX 10",
        "APPEND k v",
        "SETRANGE k 0 v",
        "INCR k",
        "DECR k",
        "INCRBY k 1",
        "DECRBY k 1",
        "INCRBYFLOAT k 1.5",
        "EXPIRE k 1",
        "PEXPIRE k 1",
        "EXPIREAT k 1",
        "PERSIST k",
    ],
)
def test_what_reads_before_it_writes_is_refused_and_told_why(
    talk: Conversation, command: str
) -> None:
    talk.send("SET", "k", "1")
    reply = talk.send(*command.split())
    assert reply.startswith(b"-ERR " + command.split(maxsplit=1)[0].encode())
    assert b"needs a linearizable keyspace, and 'default' is not one" in reply
    assert b"dabba keyspace create NAME --mode linearizable" in reply
    assert talk.send("GET", "k") == b"$1\r\n1\r\n"
    assert talk.send("TTL", "k") == b":-1\r\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("KEYS", "*"), b"-ERR KEYS is refused"),
        (("CONFIG", "SET", "save", ""), b"-ERR CONFIG SET is refused"),
        (("MULTI",), b"-ERR unknown command 'MULTI', with args beginning with: \r\n"),
        (("SUBSCRIBE", "a"), b"-ERR unknown command 'SUBSCRIBE', with args beginning with: 'a' "),
    ],
)
def test_other_refusals(talk: Conversation, command: tuple[str, ...], said: bytes) -> None:
    assert talk.send(*command).startswith(said)


def test_expiry_is_kept_and_obeyed(talk: Conversation) -> None:
    talk.send("SET", "k", "v", "EX", "10")
    assert talk.send("TTL", "k") == b":10\r\n"
    talk.clock.now_ms += 9_600
    assert talk.send("PTTL", "k") == b":400\r\n"
    assert talk.send("TTL", "k") == b":0\r\n"
    talk.clock.now_ms += 400
    assert talk.send("GET", "k") == b"$-1\r\n"
    assert talk.send("TTL", "k") == b":-2\r\n"
    assert talk.send("EXISTS", "k") == b":0\r\n"


@pytest.mark.parametrize(
    ("command", "left_ms"),
    [
        (("SET", "k", "v", "PX", "1500"), 1500),
        (("SET", "k", "v", "EXAT", str(START_MS // 1000 + 3)), 3000),
        (("SET", "k", "v", "pxat", str(START_MS + 7)), 7),
        (("SETEX", "k", "2", "v"), 2000),
        (("PSETEX", "k", "25", "v"), 25),
    ],
)
def test_every_way_to_say_an_expiry(
    talk: Conversation, command: tuple[str, ...], left_ms: int
) -> None:
    assert talk.send(*command) == b"+OK\r\n"
    assert talk.send("PTTL", "k") == b":%d\r\n" % left_ms


def test_a_delete_counts_what_replicas_report(talk: Conversation) -> None:
    talk.send("MSET", "a", "1", "b", "2")
    assert talk.send("DEL", "a", "b", "c", "a") == b":2\r\n"
    assert talk.send("UNLINK", "a") == b":0\r\n"


def test_a_key_out_of_bounds_names_the_bound(talk: Conversation) -> None:
    assert talk.send("GET", "") == (
        b"-ERR a key has 1 to 1024 bytes, not 0; use a shorter one (reason=KEY_INVALID)\r\n"
    )
    assert b"not 1025" in talk.send("SET", b"k" * 1025, "v")
    assert b"over 1048576" in talk.send("SET", "k", b"v" * 1_048_577)
    assert talk.send("PING") == b"+PONG\r\n"


def test_a_read_of_many_keys_that_fails_says_which(talk: Conversation) -> None:
    talk.coordinator.failures[b"b"] = DataError(Reason.TIMEOUT, Fault.TIMEOUT, "too late")
    assert talk.send("MGET", "a", "b", "c") == (
        b"-TIMEOUT too late; 1 of 3 keys could not be read, first 'b' (reason=TIMEOUT)\r\n"
    )
    assert talk.send("EXISTS", "b") == b"-TIMEOUT too late (reason=TIMEOUT)\r\n"


def test_a_write_of_many_keys_that_fails_says_what_became_of_each(talk: Conversation) -> None:
    talk.coordinator.failures = {
        b"b": DataError(
            Reason.NOT_ENOUGH_REPLICAS, Fault.UNAVAILABLE, "none left", Outcome.NOT_APPLIED
        ),
        b"c": DataError(
            Reason.TIMEOUT, Fault.TIMEOUT, "too late", Outcome.UNKNOWN, version=b"\xab" * 16
        ),
    }
    version = "ab" * 16
    assert talk.send("MSET", "a", "1", "b", "2", "c", "3").decode() == (
        "-NOTAPPLIED none left; of 3 keys OK: 1 ['a']; UNKNOWN: 1 ['c' version="
        f"{version}]; NOT_APPLIED: 1 ['b'] (reason=NOT_ENOUGH_REPLICAS)\r\n"
    )
    assert talk.send("GET", "a") == b"$1\r\n1\r\n"
    assert talk.send("DEL", "c") == (
        f"-UNKNOWN too late (reason=TIMEOUT version={version})\r\n".encode()
    )


@pytest.mark.parametrize(
    "command",
    [
        ("MSET", "new", "v", "", "v"),
        ("MSET", "new", "v", "large", b"v" * (1 << 20) + b"v"),
        ("DEL", "old", ""),
        ("UNLINK", "old", b"k" * 1025),
    ],
)
def test_a_write_of_many_keys_with_one_that_is_wrong_writes_none(
    talk: Conversation, command: tuple[str | bytes, ...]
) -> None:
    talk.send("SET", "old", "v")
    reply = talk.send(*command)
    assert reply.startswith(b"-ERR ")
    assert b"; none of the 2 keys was written" in reply
    assert talk.send("MGET", "new", "old") == b"*2\r\n$-1\r\n$1\r\nv\r\n"


def test_a_read_of_many_keys_with_one_that_is_wrong_reads_none(talk: Conversation) -> None:
    assert b"; none of the 2 keys was read" in talk.send("MGET", "a", "")
    assert talk.send("EXISTS", "").startswith(b"-ERR ")


def test_the_list_of_outcomes_is_bounded(talk: Conversation) -> None:
    keys = [b"k%d" % at * 100 for at in range(2000)]
    failure = DataError(Reason.TIMEOUT, Fault.TIMEOUT, "too late", Outcome.UNKNOWN)
    talk.coordinator.failures = dict.fromkeys(keys, failure)
    reply = talk.send("DEL", *keys)
    assert b"UNKNOWN: 2000 [" in reply
    assert len(reply) < 2000


def test_values_too_many_for_one_reply_are_refused() -> None:
    talk = Conversation()
    talk.send("SET", "big", b"v" * 1_000_000)
    reply = talk.send("MGET", *["big"] * 100)
    assert reply == b"-ERR the values take more than 67108864 bytes; ask for fewer keys\r\n"
    assert talk.send("EXISTS", *["big"] * 100) == b":100\r\n"


def test_values_that_others_hold_leave_less_room_and_a_write_is_never_refused_for_them() -> None:
    talk = Conversation()
    talk.send("MSET", "a", "1", "b", "2")
    talk.coordinator.together.held_bytes = MOST_HELD_BYTES - 1
    assert talk.send("MGET", "a") == b"*1\r\n$1\r\n1\r\n"
    assert talk.send("MGET", "a", "b", "a").startswith(b"-OVERLOADED the values that commands")
    assert talk.send("EXISTS", "a", "b", "a") == b":3\r\n"
    talk.coordinator.together.held_bytes += 1
    assert talk.send("DEL", "a", "b") == b":2\r\n"
    assert talk.coordinator.together.held_bytes == MOST_HELD_BYTES


def test_a_number_picks_the_keyspace(talk: Conversation) -> None:
    talk.send("SET", "k", "zero")
    assert talk.send("SELECT", "1") == b"+OK\r\n"
    assert talk.send("GET", "k") == b"$-1\r\n"
    assert talk.send("SELECT", "2") == b"-ERR DB index is out of range\r\n"
    assert talk.session.keyspace == "other"


def test_a_user_name_picks_the_keyspace(talk: Conversation) -> None:
    assert talk.send("AUTH", "other", "anything") == b"+OK\r\n"
    assert talk.session.keyspace == "other"
    refused = talk.send("AUTH", "nosuch", "x")
    assert refused.startswith(b"-WRONGPASS invalid username-password pair or user is disabled. ")
    assert b"there is no keyspace 'nosuch'" in refused
    assert talk.session.keyspace == "other"
    talk.send("RESET")
    assert talk.session.keyspace == "default"
    assert talk.send("HELLO", "3", "AUTH", "other", "x", "SETNAME", "me").startswith(b"%7\r\n")
    assert (talk.session.keyspace, talk.session.name) == ("other", b"me")


def test_a_refused_hello_changes_nothing(talk: Conversation) -> None:
    assert talk.send("HELLO", "3", "SETNAME", "me", "AUTH", "nosuch", "x").startswith(b"-WRONGPASS")
    assert talk.send("CLIENT", "GETNAME") == b"$-1\r\n"
    assert talk.session.version == 2


def test_without_a_map_clients_are_asked_to_come_back() -> None:
    talk = Conversation()
    talk.coordinator.has_map = False
    assert talk.send("SELECT", "1").startswith(b"-LOADING ")
    assert talk.send("AUTH", "other", "x").startswith(b"-LOADING ")
    assert talk.send("PING") == b"+PONG\r\n"


def test_consistency_is_of_the_connection(talk: Conversation) -> None:
    assert talk.send("DABBA.CONSISTENCY") == b"$7\r\nDEFAULT\r\n"
    assert talk.send("DABBA.CONSISTENCY", "local_quorum") == b"+OK\r\n"
    assert talk.send("DABBA.CONSISTENCY") == b"$12\r\nLOCAL_QUORUM\r\n"
    assert talk.send("DABBA.CONSISTENCY", "TWO") == (
        b"-ERR unknown consistency level 'TWO'; use one of DEFAULT ONE LOCAL_ONE QUORUM "
        b"LOCAL_QUORUM EACH_QUORUM ALL ANY SESSION\r\n"
    )
    talk.coordinator.hold()
    talk.send("GET", "a")
    assert getattr(talk.session.pending[0], "level", None) == 5
    assert talk.another().level == 0


def test_locate_tells_all_the_coordinator_does(talk: Conversation) -> None:
    talk.send("HELLO", "3")
    reply = talk.send("DABBA.LOCATE", "k")
    assert reply.startswith(b"%7\r\n$8\r\nkeyspace\r\n$7\r\ndefault\r\n$6\r\nbucket\r\n:")
    assert b"$6\r\nowners\r\n*1\r\n$6\r\nmemory\r\n" in reply
    assert talk.send("DABBA.LOCATE", "").startswith(b"-ERR a key has 1 to 1024 bytes")


def test_what_clients_send_first_is_answered(talk: Conversation) -> None:
    assert talk.send("CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "none") == (
        b"+OK\r\n"
    )
    assert talk.send("CLIENT", "SETINFO", "LIB-NAME", "redis-py") == b"+OK\r\n"
    assert talk.send("CLIENT", "SETINFO", "LIB-VER", "8.1") == b"+OK\r\n"
    assert b"role:master" in talk.send("INFO", "REPLICATION")
    assert talk.send("CONFIG", "GET", "save") == b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"
    line = talk.send("CLIENT", "INFO").decode()
    assert "lib-name=redis-py lib-ver=8.1" in line
    assert "user=default" in line


def test_a_hostile_command_name_can_not_forge_a_line_of_the_client_list(
    talk: Conversation,
) -> None:
    talk.send("PING x\nid=7")
    other = talk.another()
    other.feed(packed("CLIENT", "LIST"), talk.now)
    lines = other.take_output().decode().splitlines()
    assert not [line for line in lines if line.startswith("id=7")]


def test_client_list_shows_every_connection(talk: Conversation) -> None:
    talk.another()
    assert talk.send("CLIENT", "LIST").count(b"\nid=") == 2
    assert talk.send("CLIENT", "LIST", "TYPE", "pubsub") == b"$0\r\n\r\n"


def test_every_command_is_described(talk: Conversation) -> None:
    count = int(talk.send("COMMAND", "COUNT")[1:-2])
    assert count == len(talk.door.commands)
    assert talk.send("COMMAND").startswith(b"*%d\r\n" % count)
    assert talk.send("COMMAND", "DOCS").startswith(b"*%d\r\n" % (2 * count))
    assert talk.send("COMMAND", "INFO", "nosuch") == b"*1\r\n$-1\r\n"
