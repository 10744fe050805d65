"""Redis's own error texts, byte for byte: clients match on them. And from a DataError to an error.

The first word says what happened to the data, so that a program need not read the sentence:

| outcome      | fault                | first word  | meaning                                     |
| ------------ | -------------------- | ----------- | ------------------------------------------- |
| UNKNOWN      | any                  | UNKNOWN     | perhaps applied; `version` names the write, |
|              |                      |             | to repeat the very same one                 |
| any other    | CALLER, PRECONDITION | ERR         | wrong now, wrong when repeated; not applied |
| any other    | FORBIDDEN            | NOPERM      | not for this client                         |
| any other    | UNAUTHENTICATED      | NOAUTH      | nobody knows who this is                    |
| NOT_APPLIED  | the others           | NOTAPPLIED  | nobody will ever read the value             |
| none (reads) | UNAVAILABLE          | UNAVAILABLE | not enough replicas; worth repeating        |
| none         | TIMEOUT              | TIMEOUT     | the deadline passed; worth repeating        |
| none         | OVERLOADED           | OVERLOADED  | shed before anything was sent; repeat later |
| none         | DATA                 | BADDATA     | what the replicas hold can not be trusted   |

Then the sentence, and in brackets what is known: reason, keyspace, bucket, epoch, acks=had/needed
and, for UNKNOWN, version in hexadecimal.
"""

from sidecar.core.turns import MOST_HELD_BYTES
from sidecar.errors import DataError, Fault, Outcome
from sidecar.wire.resp_reply import error

SYNTAX = error("ERR syntax error")
INVALID_CURSOR = error("ERR invalid cursor")
NOT_AN_INTEGER = error("ERR value is not an integer or out of range")
NOT_A_FLOAT = error("ERR value is not a valid float")
NOT_FINITE = error("ERR increment would produce NaN or Infinity")
OVERFLOW = error("ERR increment or decrement would overflow")
DECREMENT_OVERFLOW = error("ERR decrement would overflow")
OFFSET_OUT_OF_RANGE = error("ERR offset is out of range")
STRING_TOO_LONG = error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
REFUSED_UNSEEN = error(
    "NOTAPPLIED the condition did not hold, and what stood is not known any more"
)
NOVALUES = error("ERR NOVALUES option can only be used in HSCAN")
NX_ALONE = error("ERR NX and XX, GT or LT options at the same time are not compatible")
GT_OR_LT = error("ERR GT and LT options at the same time are not compatible")
NOT_32_BITS = error(
    "ERR value is out of range, value must between -2147483648 and 2147483647"  # so Redis says it
)
HELD_TOO_MUCH = error(
    f"OVERLOADED the values that commands on many keys ask for at once pass {MOST_HELD_BYTES}"
    " bytes; repeat later, with fewer keys"
)
DB_OUT_OF_RANGE = error("ERR DB index is out of range")
NO_PASSWORD_SET = error(
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
NOAUTH = error("NOAUTH Authentication required.")
WRONG_TOKEN = error("WRONGPASS invalid username-password pair or user is disabled.")
WRONG_TOKENS = error(
    "WRONGPASS invalid username-password pair or user is disabled. So were those before:"
    " the connection is closed"
)
NO_PROTOCOL = error("NOPROTO unsupported protocol version")
NOT_A_PROTOCOL = error("ERR Protocol version is not an integer or out of range")
TOO_MANY_CLIENTS = error("ERR max number of clients reached")
BAD_CLIENT_NAME = error("ERR Client names cannot contain spaces, newlines or special characters.")
LOADING = error(
    "LOADING this sidecar has no map of the cluster yet; "
    "try again once a control plane has answered"
)

_SHOWN_BYTES = 128  # of a command's name, and of its arguments together

_FIRST_WORD = {
    Fault.CALLER: "ERR",
    Fault.PRECONDITION: "ERR",
    Fault.FORBIDDEN: "NOPERM",
    Fault.UNAUTHENTICATED: "NOAUTH",
    Fault.UNAVAILABLE: "UNAVAILABLE",
    Fault.TIMEOUT: "TIMEOUT",
    Fault.OVERLOADED: "OVERLOADED",
    Fault.DATA: "BADDATA",
}


def wrong_user(why: str) -> bytes:
    """AUTH with a user's name that is no keyspace's: clients match the first word."""
    return error(
        "WRONGPASS invalid username-password pair or user is disabled. The user's name picks the "
        f"keyspace, and {why}"
    )


def no_permission(user: str, command: str, missing: str, keyspace: str) -> bytes:
    """`missing`: the rights that it takes in the keyspace; empty: some right in any."""
    lacks = f"{missing} in keyspace '{keyspace}'" if missing else "a right in any keyspace"
    return error(
        f"NOPERM User {user} has no permissions to run the '{command}' command: it takes {lacks},"
        f" to be granted in the sidecar's rights_file (reason=RIGHT_MISSING keyspace={keyspace})"
    )


def too_late(timeout_ms: int) -> bytes:
    """Nobody was told in time who the client is."""
    return error(
        f"NOAUTH Authentication required within {timeout_ms} ms: the connection is closed."
        " Send AUTH or HELLO with AUTH first"
    )


def wrong_arity(name: str) -> bytes:
    """`name` in lower case; of a subcommand: "client|id"."""
    return error(f"ERR wrong number of arguments for '{name}' command")


def invalid_expire(name: str) -> bytes:
    """An expiry that is not after 1970, or beyond what a record holds."""
    return error(f"ERR invalid expire time in '{name}' command")


def unsupported_option(option: bytes) -> bytes:
    """An option of EXPIRE that is none."""
    return error(b"ERR Unsupported option %b" % _printed(option, _SHOWN_BYTES))


def unknown_type(name: bytes) -> bytes:
    """SCAN's TYPE."""
    return error(b"ERR unknown type name '%b'" % _printed(name, _SHOWN_BYTES))


def unknown_client_type(name: bytes) -> bytes:
    """CLIENT LIST's TYPE."""
    return error(b"ERR Unknown client type '%b'" % _printed(name, _SHOWN_BYTES))


def too_large(most_bytes: int) -> bytes:
    """The values that one command asks for do not fit into one reply."""
    return error(f"ERR the values take more than {most_bytes} bytes; ask for fewer keys")


def unknown_command(args: list[bytes]) -> bytes:
    """Names the command and as many of its arguments as fit."""
    shown = bytearray()
    for arg in args[1:]:
        if len(shown) >= _SHOWN_BYTES:
            break
        shown += b"'" + _printed(arg, _SHOWN_BYTES - len(shown)) + b"' "
    name = _printed(args[0], _SHOWN_BYTES)
    return error(b"ERR unknown command '%b', with args beginning with: %b" % (name, bytes(shown)))


def unknown_subcommand(parent: str, name: bytes) -> bytes:
    """`parent` in capitals."""
    shown = _printed(name, _SHOWN_BYTES)
    return error(b"ERR unknown subcommand '%b'. Try %b HELP." % (shown, parent.encode()))


def _printed(raw: bytes, limit: int) -> bytes:
    # As printf("%.*s") does it: up to the first NUL.
    return raw[:limit].split(b"\0", 1)[0]


def first_word(failure: DataError) -> str:
    """See the table above."""
    if failure.outcome is Outcome.UNKNOWN:
        return "UNKNOWN"
    word = _FIRST_WORD[failure.fault]
    return "NOTAPPLIED" if failure.outcome is Outcome.NOT_APPLIED and word != "ERR" else word


def data_error(failure: DataError, note: str = "") -> bytes:
    """A DataError as a Redis error. `note` is added to the sentence."""
    facts = [f"reason={failure.reason}"]
    if failure.keyspace:
        facts.append(f"keyspace={failure.keyspace}")
    if failure.bucket >= 0:
        facts.append(f"bucket={failure.bucket} epoch={failure.epoch}")
    if failure.acks_needed:
        facts.append(f"acks={failure.acks_had}/{failure.acks_needed}")
    if failure.outcome is Outcome.UNKNOWN and failure.version:
        facts.append(f"version={failure.version.hex()}")
    if failure.outcome is Outcome.UNKNOWN and failure.operation_id:
        facts.append(f"operation_id={failure.operation_id.hex()}")
    sentence = f"{failure.message}; {note}" if note else failure.message
    return error(f"{first_word(failure)} {sentence} ({' '.join(facts)})")


def shown_key(key: bytes) -> str:
    """A key inside an error: ASCII, short, unambiguous."""
    text = ascii(key[:48])[1:]
    return text + "..." if len(key) > 48 else text


def hello_syntax(option: bytes) -> bytes:
    """An option of HELLO that is unknown or incomplete."""
    shown = _printed(option, _SHOWN_BYTES)
    return error(b"ERR Syntax error in HELLO option '%b'" % shown)


def unknown_client_info(option: bytes) -> bytes:
    """CLIENT SETINFO knows lib-name and lib-ver."""
    return error(b"ERR Unrecognized option '%b'" % _printed(option, _SHOWN_BYTES))


def bad_client_info(option: str) -> bytes:
    """CLIENT SETINFO's value ends up in CLIENT LIST."""
    return error(f"ERR {option} cannot contain spaces, newlines or special characters.")
