"""What a client may do: a table of commands, chosen anew when its name, keyspace or rights change.

A command that is not granted stands in the client's table with a handler that refuses it, so none
is judged twice, and a door without rights does nothing for them. What a client may do depends on
the command's family alone: a new command is denied until its family is granted.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from sidecar.redis import replies
from sidecar.redis.command import Command, Family, Handler, by_spelling
from sidecar.redis.counters import RespCounters
from sidecar.redis.limits import RespLimits
from sidecar.rights import BOTH, NOTHING, Denials, Holder, Rights, Verb, token_digest
from sidecar.wire.resp_parser import RequestParser

Table = dict[bytes, tuple[Handler, int, int]]  # handler, arity and family by spelling

GETS: Final = frozenset((b"GET", b"get"))  # the spellings that clients use
_NO_GETS: Final[frozenset[bytes]] = frozenset()
# How one gets in, and out: for everybody.
OPEN: Final = frozenset(("ping", "hello", "auth", "quit", "reset"))
OPEN_OF_CLIENT: Final = frozenset((b"SETNAME", b"SETINFO"))
# What Redis clients say when they were given a password alone.
_NO_USER: Final = b"default"
_ARGUMENT_SLACK_BYTES: Final = 64  # what the parser adds to an argument's size


class BoundedParser(RequestParser):
    """A parser whose bounds change when the door learns who is there."""

    __slots__ = ()

    def bound(self, max_args: int, max_bulk_bytes: int, max_query_bytes: int) -> None:
        """Bounds of whatever has not arrived yet."""
        self.max_args = max_args
        self.max_bulk_bytes = max_bulk_bytes
        self.max_query_bytes = max_query_bytes
        self._fast_bytes = min(max_bulk_bytes, max_query_bytes // 16)


class Permits:
    """Those of one door. `rights` None: everything is allowed.

    `settled` is told of every session whose rights were looked at: the door bounds its output.
    """

    def __init__(
        self, commands: Mapping[str, Command], limits: RespLimits, rights: Rights | None
    ) -> None:
        self.rights = rights
        self.settled: Callable[[Any], None] = _nothing_more
        self._limits = limits
        self._wrong_tokens: dict[int, int] = {}  # by number of the connection
        self._commands = commands
        self._all = self._table(True, BOTH)
        self._tables = {
            (known, verbs): self._table(known, verbs)
            for known in (False, True)
            for verbs in (NOTHING, Verb.READ, Verb.WRITE, BOTH)
        }

    def parser(self) -> RequestParser:
        """For a new connection."""
        limits = self._limits
        kind = RequestParser if self.rights is None else BoundedParser
        return kind(
            max_args=limits.args,
            max_bulk_bytes=limits.bulk_bytes,
            max_query_bytes=limits.query_bytes,
            inline=limits.inline_commands,
        )

    def recognize(self, session: Any) -> None:
        """Find out who the client is: by the token of its AUTH, or else by its connection."""
        rights = self.rights
        if rights is not None:
            found = rights.by_digest(session.proof) if session.proof else None
            session.holder = found or rights.by_peer(session.peer)

    def settle(self, session: Any) -> None:
        """Give the session the table of what it may do in its keyspace."""
        verbs = BOTH
        if self.rights is None:
            session.dispatch = self._all
        else:
            holder: Holder = session.holder
            verbs = holder.verbs(session.keyspace)
            session.dispatch = self._tables[bool(holder.grants), verbs]
            self._bound(session.parser, bool(holder.grants))
            self.settled(session)
        session.gets = GETS if session.bound and Verb.READ in verbs else _NO_GETS

    def authenticate(self, session: Any, user: bytes | None, token: bytes) -> bytes | None:
        """Let the session be whose token this is, or return the error: it is nobody's, or not that
        of `user`. After WRONG_TOKENS the conversation is over.
        """
        digest = token_digest(token)
        found = self.rights.by_digest(digest) if self.rights is not None else None
        if found is None or user not in (None, _NO_USER, found.name.encode()):
            return self._wrong_token(session)
        session.proof = digest
        session.holder = found
        self.settle(session)
        return None

    def _wrong_token(self, session: Any) -> bytes:
        counters: RespCounters = session.door.counters
        counters.denials.unknown_token += 1
        # Never counted down, or who has one right token could try others for ever.
        count = self._wrong_tokens.get(session.id, 0) + 1
        self._wrong_tokens[session.id] = count
        if count < self._limits.wrong_tokens:
            return replies.WRONG_TOKEN
        counters.closed_wrong_tokens += 1
        return replies.WRONG_TOKENS

    def forget(self, session: Any) -> None:
        """The client is gone."""
        self._wrong_tokens.pop(session.id, None)

    def _bound(self, parser: BoundedParser, known: bool) -> None:
        limits = self._limits
        if known:
            parser.bound(limits.args, limits.bulk_bytes, limits.query_bytes)
            return
        count, size = limits.stranger_args, limits.stranger_bulk_bytes
        parser.bound(count, size, count * (size + _ARGUMENT_SLACK_BYTES))

    def _table(self, known: bool, verbs: Verb) -> Table:
        return {
            spelling: (_handler(command, known, verbs), command.arity, int(command.family))
            for spelling, command in by_spelling(self._commands.values()).items()
        }


def is_stranger(session: Any) -> bool:
    """Whether there are rights, and the client has none."""
    return session.holder is not None and not session.holder.grants


def is_nobody(session: Any) -> bool:
    """Whether nothing is known of the client, and it may come in by AUTH alone."""
    return session.holder is not None and session.holder.is_nobody


def needs(command: Command) -> Verb:
    """What must be granted in the keyspace; nothing: that the application has some right."""
    if command.writes:
        return BOTH if command.tells else Verb.WRITE
    if command.family in (Family.READ, Family.READ_MANY) or command.keys[0]:
        return Verb.READ
    return NOTHING


def _handler(command: Command, known: bool, verbs: Verb) -> Handler:
    missing = needs(command) & ~verbs
    if command.name in OPEN or (known and not missing):
        blind = command.name == "set" and Verb.READ not in verbs
        return partial(_set_blindly, command) if blind else command.handler
    if command.name == "client":
        return partial(_client_of_a_stranger, command)
    return partial(_refuse, command, missing)


def _refuse(command: Command, missing: Verb, session: Any, _args: list[bytes]) -> None:
    holder: Holder = session.holder
    denials: Denials = session.door.counters.denials
    if holder.is_nobody:
        denials.no_token += 1
        session.fail(replies.NOAUTH)
    else:
        denials.no_right += 1
        session.fail(
            replies.no_permission(holder.name, command.name, missing.shown(), session.keyspace)
        )


def _client_of_a_stranger(command: Command, session: Any, args: list[bytes]) -> None:
    if args[1].upper() in OPEN_OF_CLIENT:
        command.handler(session, args)
    else:
        _refuse(command, NOTHING, session, args)


def _set_blindly(command: Command, session: Any, args: list[bytes]) -> None:
    """SET of who may not read: without GET."""
    if any(option.upper() == b"GET" for option in args[3:]):
        _refuse(command, Verb.READ, session, args)
    else:
        command.handler(session, args)


def _nothing_more(_session: Any) -> None:
    """A door without rights bounds nothing by them."""
