"""COMMAND, COUNT, DOCS, INFO, GETKEYS, LIST: what clients and shells learn the commands from."""

from sidecar.redis import replies
from sidecar.redis.command import Command, Family
from sidecar.redis.session import Session
from sidecar.redis.subcommands import Subcommand, dispatch
from sidecar.wire import resp_reply as resp

_INVALID_COMMAND = resp.error("ERR Invalid command specified")
_NO_KEYS = resp.error("ERR The command has no key arguments")
_INVALID_ARITY = resp.error("ERR Invalid number of arguments specified for command")


def command(session: Session, args: list[bytes]) -> None:
    """COMMAND [subcommand]."""
    if len(args) == 1:
        _reply_info(session, list(session.door.commands.values()))
    else:
        dispatch(session, args, "COMMAND", _SUBCOMMANDS)


def _count(session: Session, _args: list[bytes]) -> None:
    session.reply(resp.integer(len(session.door.commands)))


def _list(session: Session, args: list[bytes]) -> None:
    if len(args) > 2:  # FILTERBY: by modules and categories that are not here
        session.fail(replies.SYNTAX)
        return
    names = [name.encode() for name in session.door.commands]
    session.reply(resp.encode(session.version, names))


def _info(session: Session, args: list[bytes]) -> None:
    if len(args) == 2:
        _reply_info(session, list(session.door.commands.values()))
    else:
        _reply_info(session, [_find(session, name) for name in args[2:]])


def _docs(session: Session, args: list[bytes]) -> None:
    asked = [_find(session, name) for name in args[2:]]
    shown = asked or list(session.door.commands.values())
    docs = {known.name.encode(): _doc(known) for known in shown if known is not None}
    session.reply(resp.encode(session.version, docs))


def _getkeys(session: Session, args: list[bytes]) -> None:
    known = _find(session, args[2])
    words = args[2:]
    if known is None:
        session.fail(_INVALID_COMMAND)
    elif not known.keys[0]:
        session.fail(_NO_KEYS)
    elif len(words) != known.arity and (known.arity > 0 or len(words) < -known.arity):
        session.fail(_INVALID_ARITY)
    else:
        session.reply(resp.encode(session.version, known.keys_of(words)))


def _find(session: Session, name: bytes) -> Command | None:
    return session.door.commands.get(name.decode("latin-1").lower())


def _doc(known: Command) -> dict[bytes, object]:
    return {
        b"summary": known.summary.encode(),
        b"since": known.since.encode(),
        b"group": known.group.encode(),
        b"complexity": known.complexity.encode(),
    }


def _reply_info(session: Session, shown: list[Command | None]) -> None:
    entries = [_entry(session, known) for known in shown]
    session.reply(resp.array_of(entries))


def _entry(session: Session, known: Command | None) -> bytes:
    version = session.version
    if known is None:
        return session.nil
    flags = [resp.simple(flag) for flag in known.flags]
    categories = [resp.simple(f"@{name}") for name in _categories(known)]
    return resp.array_of(
        [
            resp.bulk(known.name.encode()),
            resp.integer(known.arity),
            resp.set_of(version, flags),
            *(resp.integer(place) for place in known.keys),
            resp.set_of(version, categories),
            resp.set_of(version, []),  # tips
            resp.set_of(version, []),  # key specifications
            resp.EMPTY_ARRAY,  # subcommands
        ]
    )


def _categories(known: Command) -> list[str]:
    kind = {
        Family.READ: "read",
        Family.READ_MANY: "read",
        Family.WRITE: "write",
        Family.WRITE_MANY: "write",
        Family.CONNECTION: "connection",
    }.get(known.family, "slow")
    return [kind, "string"] if known.group == "string" else [kind]


_SUBCOMMANDS = {
    "COUNT": Subcommand(_count, 2),
    "DOCS": Subcommand(_docs, -2),
    "INFO": Subcommand(_info, -2),
    "LIST": Subcommand(_list, -2),
    "GETKEYS": Subcommand(_getkeys, -3),
}
