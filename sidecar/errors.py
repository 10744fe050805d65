"""How an operation can end other than well: values here, mapped to words at the doors."""

import enum
from dataclasses import dataclass


class Outcome(enum.IntEnum):
    """How a write ended. Values are those of data.proto.

    NOT_APPLIED is a promise: nothing was sent, or every replica contacted refused it in one atomic
    step, so nobody will ever read the value. Whatever can not be proved is UNKNOWN.
    """

    OK = 1
    NOT_APPLIED = 2
    UNKNOWN = 3


class Fault(enum.IntEnum):
    """Who must act, which decides the gRPC status and the first word of a Redis error."""

    CALLER = 1  # the request is wrong and will be wrong again
    UNAVAILABLE = 2  # not enough replicas now; worth repeating
    TIMEOUT = 3  # the deadline passed first
    OVERLOADED = 4  # shed before anything was sent
    DATA = 5  # what the replicas hold can not be trusted
    PRECONDITION = 6  # the keyspace's settings do not allow it
    FORBIDDEN = 7  # not for this client
    UNAUTHENTICATED = 8  # nobody knows who this is


class Reason(enum.StrEnum):
    """Stable names, as in google.rpc.ErrorInfo.reason."""

    KEYSPACE_UNKNOWN = "KEYSPACE_UNKNOWN"
    KEY_INVALID = "KEY_INVALID"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"
    CONSISTENCY_INVALID = "CONSISTENCY_INVALID"
    EXPIRY_INVALID = "EXPIRY_INVALID"
    VERSION_INVALID = "VERSION_INVALID"
    REQUEST_INVALID = "REQUEST_INVALID"
    OPERATION_ID_INVALID = "OPERATION_ID_INVALID"
    OPERATION_EXPIRED = "OPERATION_EXPIRED"
    NOT_AN_INTEGER = "NOT_AN_INTEGER"
    INTEGER_OVERFLOW = "INTEGER_OVERFLOW"
    NEEDS_LINEARIZABLE = "NEEDS_LINEARIZABLE"
    NEEDS_TUNABLE = "NEEDS_TUNABLE"
    KEYS_APART = "KEYS_APART"
    SESSION_INVALID = "SESSION_INVALID"
    SESSION_KEY_UNKNOWN = "SESSION_KEY_UNKNOWN"
    SESSION_KEY_MISSING = "SESSION_KEY_MISSING"
    SESSION_AHEAD = "SESSION_AHEAD"
    SESSION_STALE = "SESSION_STALE"
    NO_MAP = "NO_MAP"
    NO_OWNER_IN_ZONE = "NO_OWNER_IN_ZONE"
    NOT_ENOUGH_REPLICAS = "NOT_ENOUGH_REPLICAS"
    REPLICAS_DISAGREE = "REPLICAS_DISAGREE"
    TIMEOUT = "TIMEOUT"
    CLOCK_SKEW = "CLOCK_SKEW"
    DRAINING = "DRAINING"
    IDENTITY_REFUSED = "IDENTITY_REFUSED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOKEN_REFUSED = "TOKEN_REFUSED"
    RIGHT_MISSING = "RIGHT_MISSING"
    OVERLOADED = "OVERLOADED"


@dataclass(frozen=True, slots=True)
class DataError:
    """One operation's error. `field` names the request's field when the caller is at fault."""

    reason: Reason
    fault: Fault
    message: str
    outcome: Outcome | None = None  # writes only
    field: str = ""
    keyspace: str = ""
    bucket: int = -1
    epoch: int = 0
    acks_had: int = 0
    acks_needed: int = 0
    version: bytes = b""  # what an UNKNOWN write is repeated with, in tunable keyspaces
    operation_id: bytes = b""  # the same in linearizable ones
    application: str = ""  # who may not, and
    missing: str = ""  # the rights that it takes in the keyspace

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.fault in (Fault.UNAVAILABLE, Fault.TIMEOUT, Fault.OVERLOADED)
