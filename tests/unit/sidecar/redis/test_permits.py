"""What the clients of a Redis door with rights may do, on a conversation."""

import hashlib
from collections.abc import Callable

import pytest

from sidecar.redis.command import Command, Family
from sidecar.redis.limits import RespLimits
from sidecar.redis.permits import OPEN, OPEN_OF_CLIENT, is_nobody, needs
from sidecar.redis.table import command_table
from sidecar.rights import BOTH, Peer, Rights, Verb, parse_rights
from tests.support.conversation import Conversation, packed

NOAUTH = b"-NOAUTH Authentication required.\r\n"
OK = b"+OK\r\n"
COMMANDS = command_table()
RIGHTS: dict[str, dict[str, list[str]]] = {
    "reader": {"default": ["read"]},
    "writer": {"default": ["write"]},
    "both": {"*": ["read", "write"]},
    "elsewhere": {"other": ["read", "write"]},
    "nothing": {},
}


def rights(**more: object) -> Rights:
    applications = [
        {
            "name": name,
            "rights": granted,
            "tokens_sha256": [hashlib.sha256(f"{name} token".encode()).hexdigest()],
            "unix_users": [number],
        }
        for number, (name, granted) in enumerate(RIGHTS.items())
    ]
    return parse_rights({"applications": applications} | more, dict[str, int]().__getitem__)


def talk_of(name: str = "", **more: object) -> Conversation:
    talk = Conversation(rights=rights(**more))
    talk.coordinator.linearizable = True
    talk.coordinator.in_batches = True
    if name:
        assert talk.send("AUTH", name, f"{name} token") == OK
    return talk


def words(command: Command) -> list[str]:
    """The fewest that it takes."""
    return [command.name, *("k", "1", "1")[: abs(command.arity) - 1]]


def denied(reply: bytes) -> bool:
    return reply.startswith((b"-NOPERM ", b"-NOAUTH "))


CLOSED = [command for command in COMMANDS.values() if command.name not in OPEN]


@pytest.mark.parametrize("command", CLOSED, ids=lambda command: command.name)
def test_a_command_is_denied_to_who_is_granted_nothing(command: Command) -> None:
    assert talk_of().send(*words(command)) == NOAUTH
    user = f"-NOPERM User nothing has no permissions to run the '{command.name}' command".encode()
    said = talk_of("nothing").send(*words(command))
    assert said.startswith(user)
    assert b"rights_file (reason=RIGHT_MISSING keyspace=default)" in said


@pytest.mark.parametrize("command", CLOSED, ids=lambda command: command.name)
def test_a_command_on_keys_takes_its_rights_and_no_others(command: Command) -> None:
    for name, verbs in (("reader", Verb.READ), ("writer", Verb.WRITE), ("both", BOTH)):
        said = talk_of(name).send(*words(command))
        assert denied(said) == bool(needs(command) & ~verbs), (name, said)
    if needs(command):
        assert denied(talk_of("elsewhere").send(*words(command)))


def test_a_new_command_on_keys_takes_rights_without_being_listed() -> None:
    def made(
        family: Family, keys: tuple[int, int, int] = (1, 1, 1), *, tells: bool = False
    ) -> Command:
        return Command("new", lambda *_: None, 2, family, "", keys, tells=tells)

    assert needs(made(Family.WRITE)) == needs(made(Family.WRITE_MANY)) == Verb.WRITE
    assert needs(made(Family.WRITE, tells=True)) == BOTH
    assert needs(made(Family.READ_MANY, (0, 0, 0))) == Verb.READ
    assert needs(made(Family.SERVER)) == Verb.READ


def test_writes_that_tell_what_stands_take_both_rights() -> None:
    telling = {name for name, command in COMMANDS.items() if command.tells}
    assert telling == {
        "getset", "getdel", "getex", "incr", "incrby", "incrbyfloat", "decr", "decrby",
    }  # fmt: skip


def test_set_with_get_takes_the_right_to_read() -> None:
    talk = talk_of("writer")
    for get in ("GET", "get", "gEt"):
        assert talk.send("SET", "k", "v", get).startswith(b"-NOPERM ")
        assert talk.send("SET", "k", "v", "PX", "1000", get).startswith(b"-NOPERM ")
    assert talk.send("SET", "k", "GET") == OK
    assert talk.send("SET", "k", "v", "NX") == b"$-1\r\n"


def test_everybody_may_come_in_say_what_it_is_and_go() -> None:
    talk = talk_of()
    assert talk.send("PING") == b"+PONG\r\n"
    assert talk.send("HELLO", "3").startswith(b"%7\r\n")
    assert talk.send("CLIENT", "SETNAME", "me") == OK
    assert talk.send("CLIENT", "SETINFO", "LIB-NAME", "x") == OK
    assert talk.send("RESET") == b"+RESET\r\n"
    for closed in ("ID", "GETNAME", "INFO", "LIST", "REPLY", "NO-EVICT", "HELP"):
        assert closed.encode() not in OPEN_OF_CLIENT
        assert talk.send("CLIENT", closed) == NOAUTH
    assert talk.send("QUIT") == OK


@pytest.mark.parametrize("said", [("GET", "k"), ("get", "k"), ("GeT", "k")], ids=str)
def test_gets_alone_and_together_are_denied_alike(said: tuple[str, str]) -> None:
    for name, word in (("", b"-NOAUTH "), ("writer", b"-NOPERM "), ("nothing", b"-NOPERM ")):
        talk = talk_of(name)
        assert talk.send(*said).startswith(word)
        many = talk.send_bytes(packed(*said) * 30)
        assert many.count(word) == 30
        assert talk.coordinator.batches == []


def test_rights_follow_the_keyspace_within_one_pipeline() -> None:
    get = packed("GET", "k")
    talk = talk_of("elsewhere")
    said = talk.send_bytes(
        get + packed("SELECT", "1") + get + packed("SELECT", "0") + get + packed("SELECT", "1")
    )
    first, *rest = said.split(b"\r\n")
    assert first.startswith(b"-NOPERM ")
    assert rest[:3] == [b"+OK", b"$-1", b"+OK"]
    assert rest[3].startswith(b"-NOPERM ")
    assert talk.send("GET", "k") == b"$-1\r\n"


def test_rights_begin_with_auth_and_end_with_reset_within_one_pipeline() -> None:
    get = packed("GET", "k")
    auth = packed("AUTH", "reader", "reader token")
    said = talk_of().send_bytes(get + auth + get + packed("RESET") + get)
    assert said == NOAUTH + OK + b"$-1\r\n" + b"+RESET\r\n" + NOAUTH


Sent = Callable[[Conversation, str, str], bytes]


def _auth(talk: Conversation, user: str, token: str) -> bytes:
    return talk.send("AUTH", user, token)


def _hello(talk: Conversation, user: str, token: str) -> bytes:
    return talk.send("HELLO", "2", "AUTH", user, token)


@pytest.mark.parametrize("sent", [_auth, _hello])
def test_a_token_is_of_its_application_alone(sent: Sent) -> None:
    wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    for user, token in (
        ("reader", "writer token"),
        ("reader", ""),
        ("reader", "reader"),
        ("anonymous", "reader token"),
        ("nosuch", "reader token"),
        ("default", "x"),
        ("default", hashlib.sha256(b"reader token").hexdigest()),
    ):
        talk = talk_of()
        assert sent(talk, user, token) == wrong
        assert talk.send("GET", "k") == NOAUTH
    talk = talk_of()
    assert not denied(sent(talk, "reader", "reader token"))
    assert talk.send("GET", "k") == b"$-1\r\n"
    assert sent(talk, "writer", "reader token") == wrong
    assert talk.send("GET", "k") == b"$-1\r\n"  # who it was stays


@pytest.mark.parametrize("sent", [_auth, _hello])
def test_the_fifth_wrong_token_ends_the_conversation(sent: Sent) -> None:
    talk = talk_of("both")  # a right one between them changes nothing
    for _ in range(4):
        said = sent(talk, "both", "x")
        assert said == b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
        assert not denied(talk.send("AUTH", "both token") + talk.send("GET", "k"))
    hello = ("HELLO", "3") if sent is _hello else ()
    wrong = packed(*hello, "AUTH", "both", "x")
    said = talk.send_bytes(packed("PING") + wrong + packed("PING"))
    assert said.startswith(b"+PONG\r\n-WRONGPASS invalid username-password pair")
    assert said.endswith(b"So were those before: the connection is closed\r\n")
    assert talk.session.closing
    assert talk.door.counters.closed_wrong_tokens == 1


def test_wrong_tokens_are_counted_by_connection_and_forgotten_with_it() -> None:
    talk = talk_of()
    for _ in range(4):
        talk.send("AUTH", "x")
    talk.session = talk.another()
    assert talk.send("AUTH", "x").endswith(b"disabled.\r\n")
    talk.door.permits.forget(talk.session)
    for _ in range(4):
        assert talk.send("AUTH", "x").endswith(b"disabled.\r\n")
    assert talk.send("AUTH", "x").endswith(b"closed\r\n")


def test_what_is_denied_is_counted_by_kind() -> None:
    talk = talk_of()
    numbers = talk.door.counters.numbers
    talk.send_bytes(packed("GET", "k") * 3 + packed("CLIENT", "ID") + packed("PING"))
    talk.send("AUTH", "both", "x")
    assert talk.send("AUTH", "writer token") == OK
    talk.send_bytes(packed("GET", "k") + packed("SET", "k", "v", "GET") + packed("SET", "k", "v"))
    told = {name: count for name, count in numbers().items() if name.startswith("denied_")}
    assert told == {"denied_no_token": 4, "denied_unknown_token": 1, "denied_no_right": 2}


def test_a_token_without_a_user_is_enough() -> None:
    assert talk_of().send("AUTH", "reader token") == OK
    assert talk_of().send("AUTH", "default", "reader token") == OK
    assert talk_of().send("AUTH", "wrong").startswith(b"-WRONGPASS ")


def test_a_client_is_known_by_its_unix_user() -> None:
    talk = Conversation(rights=rights(), peer=Peer(uid=0))
    assert talk.send("GET", "k") == b"$-1\r\n"
    assert talk.send("SET", "k", "v").startswith(b"-NOPERM User reader ")
    assert talk.send("RESET") == b"+RESET\r\n"
    assert talk.send("GET", "k") == b"$-1\r\n"


def test_what_is_granted_to_anonymous_needs_no_token() -> None:
    talk = talk_of(anonymous={"default": ["read"]})
    assert talk.send("GET", "k") == b"$-1\r\n"
    assert talk.send("SET", "k", "v").startswith(b"-NOPERM User anonymous ")


def test_auth_is_waited_for_from_who_is_nobody_without_it() -> None:
    assert is_nobody(talk_of().session)
    for known in (
        talk_of("reader"),
        talk_of("nothing"),
        talk_of(anonymous={"default": ["read"]}),
        Conversation(rights=rights(), peer=Peer(uid=0)),
        Conversation(),
    ):
        assert not is_nobody(known.session)


def test_before_auth_a_command_has_ten_arguments_of_16_kib() -> None:
    talk = talk_of()
    assert talk.send("PING", "x" * (16 << 10)).startswith(b"$16384\r\n")
    assert (
        talk.send("PING", "x" * ((16 << 10) + 1)) == b"-ERR Protocol error: invalid bulk length\r\n"
    )
    assert talk.session.closing
    talk = talk_of()
    assert talk.send("PING", *("x" * 9)) == b"-ERR wrong number of arguments for 'ping' command\r\n"
    assert talk.send("PING", *("x" * 10)) == b"-ERR Protocol error: invalid multibulk length\r\n"


@pytest.mark.parametrize("name", ["reader", "both"])
def test_after_auth_the_usual_bounds_hold(name: str) -> None:
    talk = talk_of(name)
    assert talk.send("MGET", *("k" * 100)).startswith(b"*100\r\n")
    assert talk.send("ECHO", "x" * (1 << 20)).startswith(b"$1048576\r\n")


def test_a_change_of_rights_is_obeyed_by_connections_that_stand() -> None:
    talk = talk_of("reader")
    permits = talk.door.permits
    assert talk.send("GET", "k") == b"$-1\r\n"
    permits.rights = parse_rights({}, dict[str, int]().__getitem__)
    permits.recognize(talk.session)
    permits.settle(talk.session)
    assert talk.send("GET", "k") == NOAUTH
    assert talk.send("PING", *("x" * 10)).startswith(b"-ERR Protocol error")


def test_without_rights_auth_picks_the_keyspace_as_ever() -> None:
    talk = Conversation(limits=RespLimits())
    assert talk.send("AUTH", "other", "anything") == OK
    assert talk.session.keyspace == "other"
    assert talk.send("AUTH", "x").startswith(b"-ERR AUTH <password> called without any password")
    assert talk.send("SET", "k", "v") == OK


def test_a_token_sent_as_a_command_is_not_shown_to_others() -> None:
    talk = talk_of("both")
    other = talk.another()
    other.feed(packed("c0ffee" * 10), talk.now)
    assert b"id=2 " in talk.send("CLIENT", "LIST")
    assert b"c0ffee" not in talk.send("CLIENT", "LIST")
    other.feed(packed("hello", "3"), talk.now)
    assert b" cmd=hello user=anonymous " in talk.send("CLIENT", "LIST")
