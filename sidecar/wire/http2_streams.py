"""The streams of one HTTP/2 connection: what the layer above may do with them, how they end, and
how a connection ends.

A stream leaves the table `streams`, and frees its slot, when its work has ended *and* its last byte
is written or it is dead. So a client that opens and cancels streams in a hurry (Rapid Reset) can
never have more work going on than `max_concurrent_streams`, and every reset by either side is paid
from one budget.
"""

from collections.abc import Callable
from typing import Final

from sidecar.wire import http2_frames as h2
from sidecar.wire.http2_frames import ConnectionFault, StreamFault
from sidecar.wire.http2_limits import Budget, Counters, Http2Limits
from sidecar.wire.http2_outbox import Outbox, must_wait
from sidecar.wire.http2_stream import IGNORES, Stream

DRAIN_PING: Final = b"draining"
REMEMBERED_RESETS: Final = 4_096


class Http2Streams:
    """The base of Http2Connection, which reads the frames."""

    def __init__(
        self, limits: Http2Limits, counters: Counters, on_output: Callable[[], None], now_ns: int
    ) -> None:
        self.finished = False
        self.draining = False
        self.streams: dict[int, Stream] = {}
        self.out = Outbox(on_output, self._on_sent, limits.max_turn_bytes, counters)
        self._limits = limits
        self._counters = counters
        self._last_id = 0
        self._refuse_above = h2.LARGEST_STREAM_ID
        self._reset_by_us: dict[
            int, None
        ] = {}  # oldest first; what still comes for these is no fault
        # Time and budgets.
        self._now_ns = now_ns
        self._partial_since_ns = now_ns  # 0: nothing is half received
        self._idle_since_ns = now_ns
        self._unwritable_since_ns = 0  # 0: the socket takes what we write
        self._drain_began_ns = 0
        self._control = Budget(limits.control_burst, limits.control_per_s, now_ns)
        self._pings = Budget(limits.ping_burst, limits.ping_per_s, now_ns)
        self._expires_ns = _expiry_ns(limits, counters.connections_opened, now_ns)
        self._resets = Budget(limits.reset_burst, limits.reset_per_s, now_ns)

    # What the layer above calls. Every one is harmless on a stream that is dead.

    def answer(self, stream: Stream, head: bytes, body: bytes, tail: bytes) -> None:
        """The whole answer: a header block, body bytes and a trailer block."""
        stream.work_ended = True
        if stream.reset:
            self._forget(stream)
        elif self.out.whole_answer(stream, head, body, tail):
            self._on_sent(stream)
        else:
            self.out.headers(stream.id, head)
            self.out.queue(stream, body)
            if self._overflows(len(body)):
                self._reset_stream(stream, h2.ENHANCE_YOUR_CALM)
            else:
                self.out.end(stream, tail)

    def start(self, stream: Stream, head: bytes) -> None:
        """The headers of an answer that comes in parts."""
        if not stream.reset:
            self.out.headers(stream.id, head)

    def send(self, stream: Stream, body: bytes) -> bool:
        """Body bytes. False: they are queued, but wait for `stream_drained` before sending more.

        A writer that does not wait loses its stream at `max_queued_bytes`; who sends to a client
        that reads nothing of many streams loses it earlier.
        """
        if stream.reset:
            return False
        queued = self.out.queue(stream, body)
        if queued > self._limits.max_queued_bytes and queued > len(body):
            self._reset_stream(stream, h2.INTERNAL_ERROR)
            return False
        if self._overflows(len(body)):
            self._reset_stream(stream, h2.ENHANCE_YOUR_CALM)
            return False
        return not must_wait(stream, queued)

    def end(self, stream: Stream, tail: bytes) -> None:
        """The trailer block, or the only header block of an answer without a body."""
        stream.work_ended = True
        if stream.reset:
            self._forget(stream)
        else:
            self.out.end(stream, tail)

    def hold_credit(self, stream: Stream, held: bool) -> None:
        """Stops or resumes refilling the stream's window: at most a window's worth still comes
        after holding.
        """
        stream.credit_held = held
        if not held and not stream.reset and not stream.remote_closed:
            self._refill(stream)

    # What the socket calls.

    def take_output(self) -> bytes:
        """What to write to the socket now; b"" for nothing. Call again while `out.has_more`."""
        data, drained = self.out.take()
        self._counters.bytes_sent += len(data)
        for stream in drained:
            stream.user.stream_drained()
        return data

    def lost(self) -> None:
        """The socket is gone: every call still at work is told."""
        self.finished = True
        for stream in list(self.streams.values()):
            self._cancel(stream)

    def drain(self, now_ns: int) -> None:
        """Says goodbye so that no request is lost: GOAWAY for the largest id, and after a round
        trip one for the last.
        """
        if self.draining or self.finished:
            return
        self.draining = True
        self._drain_began_ns = now_ns
        self.out.emit(
            h2.goaway_frame(h2.LARGEST_STREAM_ID, h2.NO_ERROR) + h2.ping_frame(DRAIN_PING)
        )

    def terminate(self, code: int, text: str) -> None:
        """GOAWAY with an error code; calls at work are cancelled, nothing further is read."""
        if self.finished:
            return
        self.finished = True
        self._counters.faulty_connections += code != h2.NO_ERROR
        self.out.emit(h2.goaway_frame(self._last_id, code, text))
        self.lost()

    def sweep(self, now_ns: int) -> None:
        """Ends what takes too long. To be called every second or so."""
        limits = self._limits
        self._now_ns = now_ns
        if self.out.writable:
            self._unwritable_since_ns = 0
        else:
            self._unwritable_since_ns = self._unwritable_since_ns or now_ns
        if self._partial_since_ns and now_ns - self._partial_since_ns > self._partial_timeout_ns():
            self.terminate(
                h2.ENHANCE_YOUR_CALM, "a preface, frame or header block was left unfinished"
            )
        elif (
            self._unwritable_since_ns
            and now_ns - self._unwritable_since_ns > limits.stall_timeout_ns
        ):
            self.terminate(h2.ENHANCE_YOUR_CALM, "the client does not read")
        elif self._expires_ns and now_ns > self._expires_ns:
            self._expire(now_ns)
        elif self.draining and now_ns - self._drain_began_ns > limits.drain_ping_timeout_ns:
            self._end_drain()
        elif not self.streams and now_ns - self._idle_since_ns > limits.idle_timeout_ns:
            self.terminate(h2.NO_ERROR, "idle")
        for stream in list(self.streams.values()):
            self._sweep_stream(stream, now_ns)

    def _expire(self, now_ns: int) -> None:
        """The connection is old: asked to leave first, and ended after the grace."""
        if now_ns - self._expires_ns > self._limits.connection_grace_ns:
            self.terminate(h2.NO_ERROR, "max_age")
            return
        self.drain(now_ns)
        if now_ns - self._drain_began_ns > self._limits.drain_ping_timeout_ns:
            self._end_drain()

    def _partial_timeout_ns(self) -> int:
        raise NotImplementedError

    def _sweep_stream(self, stream: Stream, now_ns: int) -> None:
        if stream.reset:
            return
        backlog = stream.backlog
        if backlog is not None and backlog.size_bytes:
            if backlog.progressed:
                backlog.progressed = False
                backlog.stuck_since_ns = now_ns
            elif now_ns - backlog.stuck_since_ns > self._limits.stall_timeout_ns:
                self._reset_stream(stream, h2.CANCEL)
        elif (
            stream.user.awaits_end
            and not stream.remote_closed
            and now_ns - stream.opened_ns > self._limits.request_timeout_ns
        ):
            self._reset_stream(stream, h2.CANCEL)

    def _overflows(self, size: int) -> bool:
        """Whether too much is queued with these last `size` bytes: streams that were open before
        the bounds for new ones were reached may bring many times as much.
        """
        limits = self._limits
        queued, grace = self.out.queued_bytes, limits.queued_grace
        return queued > size and (
            queued > grace * limits.max_connection_queued_bytes
            or self._counters.queued_bytes > grace * limits.max_door_queued_bytes
        )

    # How streams end.

    def _on_sent(self, stream: Stream) -> None:
        """Our END_STREAM is written."""
        if not stream.remote_closed:
            # The client may stop uploading (RFC 9113, section 8.1).
            self._send_reset(stream.id, h2.NO_ERROR)
        self._forget(stream)

    def _on_stream_fault(self, fault: StreamFault) -> None:
        stream = self.streams.get(fault.stream_id)
        if stream is None:
            self._send_reset(fault.stream_id, fault.code)
        elif not stream.reset:
            self._reset_stream(stream, fault.code)

    def _reset_stream(self, stream: Stream, code: int) -> None:
        self._send_reset(stream.id, code)
        self._cancel(stream)

    def _send_reset(self, stream_id: int, code: int) -> None:
        self._counters.resets_sent += 1
        self._reset_by_us[stream_id] = None
        if len(self._reset_by_us) > REMEMBERED_RESETS:
            del self._reset_by_us[next(iter(self._reset_by_us))]
        self.out.emit(h2.rst_stream_frame(stream_id, code))
        if not self._resets.spend(self._now_ns):
            self.terminate(h2.ENHANCE_YOUR_CALM, "too many streams had to be reset")

    def _cancel(self, stream: Stream) -> None:
        """The stream is dead. Its slot is free once its work has ended."""
        if stream.reset:
            return
        stream.reset = True
        self.out.discard(stream)
        if stream.work_ended:
            self._forget(stream)
        else:
            stream.user.stream_died()

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)
        stream.user = IGNORES  # a cycle of call and stream would be left to the garbage collector
        if not self.streams:
            self._idle_since_ns = self._now_ns
            if self._refuse_above < h2.LARGEST_STREAM_ID:
                self.finished = True

    def _end_drain(self) -> None:
        """The second GOAWAY: what was opened so far is served, what comes later is refused."""
        if self._refuse_above < h2.LARGEST_STREAM_ID:
            return
        self._refuse_above = self._last_id
        self.out.emit(h2.goaway_frame(self._last_id, h2.NO_ERROR))
        if not self.streams:
            self.finished = True

    # Windows and budgets.

    def _refill(self, stream: Stream) -> None:
        """A full window again, unless the user holds it back or no more will come."""
        if stream.receive_window < 0:
            raise StreamFault(stream.id, h2.FLOW_CONTROL_ERROR, "DATA beyond the stream's window")
        gained = self._limits.stream_window_bytes - stream.receive_window
        if gained > 0 and not stream.credit_held and not stream.remote_closed:
            stream.receive_window += gained
            self.out.emit(h2.window_update_frame(stream.id, gained))

    def _shift_send_windows(self, initial_window: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE moves the windows of open streams too, below zero if need be
        (section 6.9.2).
        """
        gained = initial_window - self.out.initial_window
        self.out.initial_window = initial_window
        for stream in self.streams.values():
            stream.send_window += gained
            if stream.send_window > h2.LARGEST_WINDOW_BYTES:
                raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "a stream's window grew beyond 2^31-1")
            self.out.window_opened(stream)

    def _spend_control(self) -> None:
        if not self._control.spend(self._now_ns, 2 * self.out.data_frames):
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _spend_ping(self) -> None:
        if not self._pings.spend(self._now_ns, self.out.data_frames):
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too_many_pings")

    def _spend_reset(self) -> None:
        if not self._resets.spend(self._now_ns):
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many streams were reset")


def _expiry_ns(limits: Http2Limits, number: int, now_ns: int) -> int:
    """When the door's connection of this number is drained; 0: never."""
    age_ns = limits.max_connection_age_ns
    return now_ns + age_ns * (90 + number * 7 % 21) // 100 if age_ns else 0
