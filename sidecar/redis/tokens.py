"""DABBA.SESSION: what a connection has written and read goes with its client to other sidecars."""

from sidecar.core.session_ops import NEW
from sidecar.errors import DataError
from sidecar.redis.session import Session
from sidecar.redis.subcommands import Subcommand, dispatch
from sidecar.wire import resp_reply as resp

_NONE = resp.error("ERR this connection is in no session; begin one with: DABBA.SESSION START")


def session(session: Session, args: list[bytes]) -> None:
    """DABBA.SESSION START | GET | SET token | STOP; a token alone is set."""
    if len(args) == 2 and args[1].upper().decode("latin-1") not in _NAMES:
        _set(session, [*args[:1], b"SET", args[1]])
    else:
        dispatch(session, args, "DABBA.SESSION", _SUBCOMMANDS)


def enter(session: Session, token: bytes) -> bool:
    """Bind the connection to the session of `token`; False: refused, and answered."""
    opened = session.door.backend.sessions.open(token)
    if isinstance(opened, DataError):
        session.reply(session.failure(opened))
        return False
    session.enter_session(opened)
    return True


def _start(session: Session, _args: list[bytes]) -> None:
    if enter(session, NEW):
        session.reply(resp.OK)


def _set(session: Session, args: list[bytes]) -> None:
    if enter(session, args[2]):
        session.reply(resp.OK)


def _get(session: Session, _args: list[bytes]) -> None:
    tokens = session.tokens
    if tokens is None:
        session.fail(_NONE)
    else:
        session.reply_when_due(lambda: resp.bulk(tokens.token()))


def _stop(session: Session, _args: list[bytes]) -> None:
    session.leave_session()
    session.reply(resp.OK)


_SUBCOMMANDS = {
    "START": Subcommand(_start, 2),
    "GET": Subcommand(_get, 2),
    "SET": Subcommand(_set, 3),
    "STOP": Subcommand(_stop, 2),
}
_NAMES = (*_SUBCOMMANDS, "HELP")
