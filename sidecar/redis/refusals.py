"""Commands that exist and are refused, each with the reason and the way out."""

from sidecar.redis.session import Session
from sidecar.wire.resp_reply import error

_NEEDS_LINEARIZABLE = (
    "ERR {what} reads before it writes, so in a tunable keyspace it could put an old value over a "
    "newer acknowledged one. It needs a linearizable keyspace, and '{keyspace}' is not one; create "
    "one with: dabba keyspace create NAME --mode linearizable"
)


def refuse_reading_write(session: Session, args: list[bytes]) -> None:
    """SETNX, INCR, APPEND, EXPIRE and the like."""
    _refuse_linearizable(session, args[0].decode("ascii").upper())


def refuse_option(session: Session, command: str, option: str) -> None:
    """SET with NX, XX, GET, KEEPTTL."""
    _refuse_linearizable(session, f"{command} with {option}")


def _refuse_linearizable(session: Session, what: str) -> None:
    session.fail(error(_NEEDS_LINEARIZABLE.format(what=what, keyspace=session.keyspace)))


def refuse_keys(session: Session, _args: list[bytes]) -> None:
    """KEYS would walk every bucket of every node in one reply."""
    session.fail(
        error(
            "ERR KEYS is refused: it would read all buckets of all nodes for one reply; "
            "keep the names you need in keys of your own"
        )
    )
