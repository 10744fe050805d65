"""docs/redis-commands.md says what the Redis door does: its tables, held to the code and to a real
Valkey."""

import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.redis.table import command_table
from tests.support.conversation import Conversation
from tests.support.servers import ROOT, Server
from tests.support.valkey_peer import Peer

PAGE = Path(ROOT, "docs", "redis-commands.md").read_text()
# What makes a command depend on what stands, where its fewest arguments do not.
CALLS = {
    "getex": ("k", "PERSIST"),
    "incrby": ("n", "1"),
    "decrby": ("n", "1"),
    "incrbyfloat": ("n", "1"),
    "setrange": ("k", "0", "v"),
    "getrange": ("k", "0", "1"),
    "expire": ("k", "1000"),
    "pexpire": ("k", "1000000"),
    "expireat": ("k", "4000000000"),
    "pexpireat": ("k", "4000000000000"),
    "setex": ("k", "1000", "v"),
    "psetex": ("k", "1000000", "v"),
    "incr": ("n",),
    "decr": ("n",),
    "scan": ("0",),
    "auth": ("default", "x"),
    "select": ("0",),
    "client": ("ID",),
    "config": ("GET", "save"),
    "dabba.session": ("START",),
}


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of each line of the table under `heading`."""
    table = PAGE[PAGE.index(f"| {heading} |") :].split("\n\n")[0]
    for line in table.splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


COMMANDS = {row[0].strip("`").lower(): row for row in rows("command")}
EXAMPLES = [shlex.split(row[0].strip("`")) for row in rows("example")]


def answer(name: str, *, linearizable: bool) -> bytes:
    talk = Conversation()
    talk.coordinator.linearizable = linearizable
    talk.send("SET", "k", "v")
    fewest = abs(command_table()[name].arity) - 1
    return talk.send(name, *CALLS.get(name, ("k", "v")[:fewest]))


def test_the_page_lists_every_command_and_no_other() -> None:
    assert sorted(COMMANDS) == sorted(command_table())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_served_where_the_page_says_so(name: str) -> None:
    _, tunable, linearizable, _ = COMMANDS[name]
    refused = re.compile(rb"-ERR .*(needs a linearizable keyspace|is refused)")
    for said, mode in ((tunable, False), (linearizable, True)):
        given = answer(name, linearizable=mode)
        assert bool(refused.match(given)) == (said == "no"), given
        assert (given[:1] == b"-") == (said == "no"), given


@pytest.mark.parametrize("name", ["client", "command"])
def test_subcommands_are_those_of_the_page(name: str) -> None:
    listed = re.findall(r"`([^`]+)`", COMMANDS[name][3])[0].split()
    told = Conversation().send(name, "HELP")
    assert re.findall(rb"\+([A-Z_-]+)\r\n", told) == [word.encode() for word in sorted_help(listed)]


def sorted_help(words: list[str]) -> list[str]:
    return [*sorted(word for word in words if word != "HELP"), "HELP"]


def test_options_of_set_are_those_of_the_page() -> None:
    plain, reading = (set(words.split()) for words in re.findall(r"`([^`]+)`", COMMANDS["set"][3]))
    amounts = dict.fromkeys(plain, ("1000000",)) | {"IFEQ": ("v",)}
    for option in plain | reading:
        talk = Conversation()
        given = talk.send("SET", "k", "v", option, *amounts.get(option, ()))
        assert (b"needs a linearizable" in given) == (option in reading), given


def test_what_the_page_says_differs_does(valkey: Server) -> None:
    with closing(Peer(valkey)) as peer:
        for example in EXAMPLES:
            talk = Conversation()
            talk.coordinator.linearizable = True
            setting: list[tuple[bytes | str, ...]] = [("FLUSHALL",), ("SET", "k", "v")]
            theirs = peer.send_all([*setting, tuple(example)])[-1]
            peer.send("SELECT", "0")
            talk.send(*setting[1])
            assert talk.send(*example) != theirs, example
