"""DABBA.CONSISTENCY: how many owners must agree, for the reads and the writes of a connection."""

from buckets.bucket_map import Consistency
from sidecar.redis import replies, tokens
from sidecar.redis.session import Session
from sidecar.wire import resp_reply as resp

_BOTH = (
    Consistency.ONE,
    Consistency.LOCAL_ONE,
    Consistency.QUORUM,
    Consistency.LOCAL_QUORUM,
    Consistency.EACH_QUORUM,
    Consistency.ALL,
)
LEVELS = {
    "DEFAULT": Consistency.UNSPECIFIED,
    **{level.name: level for level in (*_BOTH, Consistency.ANY, Consistency.SESSION)},
}


def consistency(session: Session, args: list[bytes]) -> None:
    """DABBA.CONSISTENCY [level]: DEFAULT: what the keyspace says.

    ANY is of writes alone, and SESSION of reads: the level of the others stays as it was.
    """
    if len(args) > 2:
        session.fail(replies.wrong_arity("dabba.consistency"))
    elif len(args) == 1:
        session.reply(resp.bulk(_shown(session)))
    else:
        _choose(session, args[1])


def _choose(session: Session, name: bytes) -> None:
    level = LEVELS.get(name.upper().decode("latin-1"))
    if level is None:
        known = " ".join(LEVELS)
        text = f"ERR unknown consistency level {replies.shown_key(name)}; use one of {known}"
        session.fail(resp.error(text))
        return
    if level == Consistency.SESSION and session.tokens is None and not tokens.enter(session, b""):
        return
    if level != Consistency.ANY:
        session.level = level
    if level != Consistency.SESSION:
        session.write_level = level
    session.reply(resp.OK)


def _shown(session: Session) -> bytes:
    """One name; or two, of reads and of writes, where they differ."""
    names = {level: name for name, level in LEVELS.items()}
    reads, writes = names[session.level], names[session.write_level]
    return (reads if reads == writes else f"{reads} {writes}").encode()
