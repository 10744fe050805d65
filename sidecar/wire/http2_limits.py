"""What one HTTP/2 client may ask for, and the budgets that tell a busy client from an attack."""

from dataclasses import dataclass
from typing import Final

SECOND_NS: Final = 1_000_000_000
KIB: Final = 1024
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Http2Limits:
    """Bounds of one connection. Defaults suit applications on the same host."""

    # Streams whose work has not ended; a stream that the client has cancelled counts until its work
    # has ended.
    max_concurrent_streams: int = 1_000
    max_header_list_bytes: int = 16 * KIB
    max_header_block_bytes: int = 32 * KIB
    max_continuations: int = 8
    stream_window_bytes: int = 256 * KIB
    connection_window_bytes: int = 4 * MIB
    # What one stream may have queued behind a closed window; the service is told to wait far
    # earlier.
    max_queued_bytes: int = 64 * MIB
    # With this much queued on all streams, new ones are refused. Reading cannot stop instead: the
    # window updates that would free the queues come the same way.
    max_connection_queued_bytes: int = 64 * MIB
    # With this much queued on all connections, those with a queue of their own open no more.
    max_door_queued_bytes: int = 256 * MIB
    # With so many times that much, from streams that were open before, an answer that would have to
    # be queued too is dropped with its stream.
    queued_grace: int = 2
    # What is made ready for the socket in one turn of the loop.
    max_turn_bytes: int = 256 * KIB

    # SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA and unknown frames: cheap to send, not
    # free to read. Clients send WINDOW_UPDATE for what they receive, so each DATA frame sent to
    # them earns two.
    control_burst: int = 2_000
    control_per_s: int = 1_000
    # PINGs beyond these make a GOAWAY "too_many_pings", as gRPC clients know it. They ping to keep
    # a connection alive, and to measure it while they receive: each DATA frame sent earns one.
    ping_burst: int = 100
    ping_per_s: int = 5
    # Streams reset by either side. An overloaded cluster makes honest clients cancel too, hence no
    # tighter.
    reset_burst: int = 2_000
    reset_per_s: int = 500

    preface_timeout_ns: int = 10 * SECOND_NS
    # A frame or header block of which only a part has come.
    partial_timeout_ns: int = 10 * SECOND_NS
    # A request whose end has not come (where one message is the whole request).
    request_timeout_ns: int = 120 * SECOND_NS
    # Data is queued and neither windows nor socket let any of it go.
    stall_timeout_ns: int = 60 * SECOND_NS
    idle_timeout_ns: int = 1_800 * SECOND_NS
    # A connection older than this is drained (0: never), so that clients look for others; each at
    # an age that differs by up to a tenth. What is at work then has the grace to end.
    max_connection_age_ns: int = 0
    connection_grace_ns: int = 30 * SECOND_NS
    # During a drain: how long to wait for the answer to the PING that follows the first GOAWAY.
    drain_ping_timeout_ns: int = 1 * SECOND_NS

    def __post_init__(self) -> None:
        # Until a client has read our settings it may send this much.
        if min(self.stream_window_bytes, self.connection_window_bytes) < 65_535:
            raise ValueError(
                "stream_window_bytes and connection_window_bytes must be at least 65535"
            )


class Budget:
    """A token bucket that reads the clock only when it looks empty: a spend is one subtraction.

    `earned` is a running total kept by the caller (such as DATA frames sent) that adds to the
    refill.
    """

    __slots__ = ("_burst", "_earned", "_per_s", "_refilled_ns", "_tokens")

    def __init__(self, burst: int, per_s: int, now_ns: int) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = burst
        self._refilled_ns = now_ns
        self._earned = 0

    def spend(self, now_ns: int, earned: int = 0) -> bool:
        """Takes one token; False when there was none."""
        if self._tokens <= 0:
            self._refill(now_ns, earned)
        self._tokens -= 1
        return self._tokens >= 0

    def _refill(self, now_ns: int, earned: int) -> None:
        self._tokens = 0
        gained = (now_ns - self._refilled_ns) * self._per_s // SECOND_NS + earned - self._earned
        if gained > 0:
            self._tokens = min(self._burst, gained)
            self._refilled_ns = now_ns
            self._earned = earned


_TOTALS: Final = (
    "bytes_received",
    "bytes_sent",
    "calls_cancelled",
    "calls_ended",
    "calls_failed",
    "calls_started",
    "connections_closed",
    "connections_opened",
    "connections_shed",
    "faulty_connections",
    "handler_errors",
    "held_bytes",
    "messages_received",
    "messages_sent",
    "queued_bytes",
    "resets_received",
    "resets_sent",
)


class Counters:
    """Plain running totals, shared by all connections of a door; read by the metrics."""

    __slots__ = _TOTALS

    def __init__(self) -> None:
        self.bytes_received = 0
        self.bytes_sent = 0
        self.calls_cancelled = 0
        self.calls_ended = 0
        self.calls_failed = 0
        self.calls_started = 0
        self.connections_closed = 0
        self.connections_opened = 0
        self.connections_shed = 0
        self.faulty_connections = 0
        self.handler_errors = 0
        self.held_bytes = 0  # no total: what half received requests hold at this moment
        self.messages_received = 0
        self.messages_sent = 0
        self.queued_bytes = 0  # no total: behind windows and sockets at this moment
        self.resets_received = 0
        self.resets_sent = 0

    def snapshot(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _TOTALS}
