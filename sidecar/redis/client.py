"""CLIENT ID SETNAME GETNAME SETINFO INFO LIST NO-EVICT NO-TOUCH REPLY MAINT_NOTIFICATIONS."""

from sidecar.redis import replies
from sidecar.redis.connection import is_printable
from sidecar.redis.numbers import parse_integer
from sidecar.redis.session import Session
from sidecar.redis.subcommands import Subcommand, dispatch
from sidecar.wire import resp_reply as resp

_CLIENT_TYPES = frozenset((b"normal", b"replica", b"slave", b"master", b"primary", b"pubsub"))


def client(session: Session, args: list[bytes]) -> None:
    """CLIENT subcommand."""
    dispatch(session, args, "CLIENT", _SUBCOMMANDS)


def _id(session: Session, _args: list[bytes]) -> None:
    session.reply(resp.integer(session.id))


def _setname(session: Session, args: list[bytes]) -> None:
    if not is_printable(args[2]):
        session.fail(replies.BAD_CLIENT_NAME)
        return
    session.name = args[2]
    session.reply(resp.OK)


def _getname(session: Session, _args: list[bytes]) -> None:
    session.reply(resp.bulk(session.name) if session.name else session.nil)


def _setinfo(session: Session, args: list[bytes]) -> None:
    option = args[2].lower()
    if option not in (b"lib-name", b"lib-ver"):
        session.fail(replies.unknown_client_info(args[2]))
        return
    if not is_printable(args[3]):
        session.fail(replies.bad_client_info(args[2].decode()))
        return
    if option == b"lib-name":
        session.library = args[3]
    else:
        session.library_version = args[3]
    session.reply(resp.OK)


def _info(session: Session, _args: list[bytes]) -> None:
    session.reply(resp.text(session.version, describe(session, session.last_at)))


def _list(session: Session, args: list[bytes]) -> None:
    """CLIENT LIST [TYPE type | ID id [id ...]]."""
    sessions = list(session.door.sessions.values())
    option = args[2].upper() if len(args) > 2 else b""
    if option == b"TYPE" and len(args) == 4:
        if args[3].lower() not in _CLIENT_TYPES:
            session.fail(replies.unknown_client_type(args[3]))
            return
        sessions = sessions if args[3].lower() == b"normal" else []
    elif option == b"ID" and len(args) > 3 and all(map(parse_integer, args[3:])):
        asked = {parse_integer(number) for number in args[3:]}
        sessions = [one for one in sessions if one.id in asked]
    elif len(args) > 2:
        session.fail(replies.SYNTAX)
        return
    lines = "".join(describe(one, session.last_at) for one in sessions)
    session.reply(resp.text(session.version, lines))


def _switch(session: Session, args: list[bytes]) -> None:
    """NO-EVICT and NO-TOUCH: nothing is evicted here and nothing is touched by a read."""
    if args[2].upper() in (b"ON", b"OFF"):
        session.reply(resp.OK)
    else:
        session.fail(replies.SYNTAX)


def _reply(session: Session, args: list[bytes]) -> None:
    mode = args[2].upper()
    if mode == b"ON":
        session.muted = 0
        session.reply(resp.OK)
    elif mode == b"OFF":
        session.muted = -1
    elif mode == b"SKIP":
        if session.muted == 0:
            session.muted = 1
    else:
        session.fail(replies.SYNTAX)


def _maintenance(session: Session, args: list[bytes]) -> None:
    """Clients ask to be told before a node goes away. A sidecar takes that on itself, so the
    promise to tell is kept by having nothing to tell."""
    if args[2].upper() in (b"ON", b"OFF"):
        session.reply(resp.OK)
    else:
        session.fail(replies.SYNTAX)


def describe(session: Session, now: float) -> str:
    """A connection's line in CLIENT LIST."""
    facts = {
        "id": session.id,
        "addr": session.address,
        "laddr": session.local_address,
        "name": session.name.decode("ascii"),
        "age": int(now - session.created_at),
        "idle": int(now - session.last_at),
        "flags": "N",
        "db": session.db,
        "sub": 0,
        "psub": 0,
        "multi": -1,
        "qbuf": session.parser.held_bytes,
        "oll": len(session.pending),
        "cmd": _shown_command(session),
        "user": session.holder.name if session.holder is not None else session.keyspace,
        "resp": session.version,
        "lib-name": session.library.decode("ascii"),
        "lib-ver": session.library_version.decode("ascii"),
    }
    return " ".join(f"{name}={value}" for name, value in facts.items()) + "\n"


def _shown_command(session: Session) -> str:
    # Others read it: what is no command may be a token that was sent in the wrong place.
    name = session.last_command.upper()
    return name.decode("ascii").lower() if name in session.dispatch else "NULL"


_SUBCOMMANDS = {
    "ID": Subcommand(_id, 2),
    "SETNAME": Subcommand(_setname, 3),
    "GETNAME": Subcommand(_getname, 2),
    "SETINFO": Subcommand(_setinfo, 4),
    "INFO": Subcommand(_info, 2),
    "LIST": Subcommand(_list, -2),
    "NO-EVICT": Subcommand(_switch, 3),
    "NO-TOUCH": Subcommand(_switch, 3),
    "REPLY": Subcommand(_reply, 3),
    "MAINT_NOTIFICATIONS": Subcommand(_maintenance, -3),
}
