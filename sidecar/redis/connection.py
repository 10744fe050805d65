"""Commands about the connection itself: PING ECHO QUIT RESET AUTH SELECT HELLO."""

from sidecar.errors import DataError, Reason
from sidecar.redis import replies
from sidecar.redis.numbers import parse_integer
from sidecar.redis.session import ConversationOverError, Session
from sidecar.wire import resp_reply as resp

# What clients compare to find out what they may use; the commands are those of this Redis.
REDIS_VERSION = "7.2.4"
MAX_DB = (1 << 31) - 1


def ping(session: Session, args: list[bytes]) -> None:
    """PING [message]."""
    if len(args) > 2:
        session.fail(replies.wrong_arity("ping"))
        return
    session.reply(resp.PONG if len(args) == 1 else resp.bulk(args[1]))


def echo(session: Session, args: list[bytes]) -> None:
    """ECHO message."""
    session.reply(resp.bulk(args[1]))


def quit_now(session: Session, _args: list[bytes]) -> None:
    """QUIT: answered, then closed."""
    session.reply(resp.OK)
    raise ConversationOverError


def reset(session: Session, _args: list[bytes]) -> None:
    """RESET: the settings of a new connection."""
    skipped = session.muted == 1
    session.reset()
    session.muted = int(skipped)  # RESET ends OFF for its own reply, and not SKIP
    session.reply(b"+RESET\r\n")


def auth(session: Session, args: list[bytes]) -> None:
    """AUTH [application] token. Without rights: AUTH keyspace anything picks the keyspace."""
    if len(args) > 3:
        session.fail(replies.SYNTAX)
        return
    problem = _enter(session, args[1] if len(args) == 3 else None, args[-1])
    if problem is not None:
        _fail(session, problem)
        return
    session.reply(resp.OK)


def select(session: Session, args: list[bytes]) -> None:
    """SELECT n: the keyspace that was created with this number."""
    db = parse_integer(args[1])
    if db is None:
        session.fail(replies.NOT_AN_INTEGER)
    elif not -MAX_DB - 1 <= db <= MAX_DB:
        session.fail(replies.NOT_32_BITS)
    elif db < 0:
        session.fail(replies.DB_OUT_OF_RANGE)
    elif session.select(db):
        session.reply(resp.OK)
    else:
        session.fail(replies.LOADING if _no_map(session) else replies.DB_OUT_OF_RANGE)


def hello(session: Session, args: list[bytes]) -> None:
    """HELLO [2|3 [AUTH user password] [SETNAME name]]; AUTH as above."""
    version = session.version
    if len(args) > 1:
        asked = parse_integer(args[1])
        if asked is None:
            session.fail(replies.NOT_A_PROTOCOL)
            return
        if asked not in (2, 3):
            session.fail(replies.NO_PROTOCOL)
            return
        version = asked
    problem = _hello_options(session, args[2:])
    if problem is not None:
        _fail(session, problem)
        return
    if session.pending and version != session.version:
        # What stands before it is answered as it was asked, and what follows as is agreed now.
        session.reply_when_due(lambda: _greet(session, version))
        session.awaited = session.pending[-1]
    else:
        session.reply(_greet(session, version))


def _greet(session: Session, version: int) -> bytes:
    """Speak this version from now on."""
    session.use_version(version)
    return resp.encode(
        version,
        {
            b"server": b"dabbawala",
            b"version": REDIS_VERSION.encode(),
            b"proto": version,
            b"id": session.id,
            b"mode": b"standalone",
            b"role": b"master",
            b"modules": [],
        },
    )


def is_printable(text: bytes) -> bool:
    """Whether `text` may be a name: no spaces, no control characters."""
    return all(0x21 <= byte <= 0x7E for byte in text)


def _hello_options(session: Session, options: list[bytes]) -> bytes | None:
    """Apply what follows the version, all of it or nothing; returns an error."""
    given: list[bytes] = []
    name: bytes | None = None
    at = 0
    while at < len(options):
        option = options[at].upper()
        if option == b"AUTH" and at + 2 < len(options):
            given = options[at + 1 : at + 3]
            at += 3
        elif option == b"SETNAME" and at + 1 < len(options):
            name = options[at + 1]
            if not is_printable(name):
                return replies.BAD_CLIENT_NAME
            at += 2
        else:
            return replies.hello_syntax(options[at])
    if given:
        problem = _enter(session, *given)
        if problem is not None:
            return problem
    if name is not None:
        session.name = name
    return None


def _enter(session: Session, user: bytes | None, password: bytes) -> bytes | None:
    """Be the application whose token this is or, where there are no rights, work with the keyspace
    named `user`; returns an error.
    """
    permits = session.door.permits
    if permits.rights is not None:
        return permits.authenticate(session, user, password)
    if user is None:
        return replies.NO_PASSWORD_SET
    keyspace = user.decode("utf-8", "replace")
    found = session.door.backend.locate(keyspace, b"?", session.level)
    if isinstance(found, DataError):
        if found.reason is Reason.NO_MAP:
            return replies.LOADING
        if found.reason is Reason.KEYSPACE_UNKNOWN:
            return replies.wrong_user(found.message)
    session.use_keyspace(keyspace)
    return None


def _fail(session: Session, problem: bytes) -> None:
    session.fail(problem)
    if problem is replies.WRONG_TOKENS:
        raise ConversationOverError


def _no_map(session: Session) -> bool:
    found = session.door.backend.locate(session.keyspace, b"?", session.level)
    return isinstance(found, DataError) and found.reason is Reason.NO_MAP
