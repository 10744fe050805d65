"""gRPC calls as playbooks: requests good and bad, and what services may do with a call."""

import logging

import pytest

from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes, StreamHandler, StreamSink
from tests.support.http2_playbook import Peer, call, data, echo, message, request

BAD_TIMEOUT = "grpc-timeout is not 1 to 8 digits and one of H, M, S, m, u, n"
IDENTITY = "grpc-accept-encoding=identity,gzip"


class Recorder:
    """A streaming method that notes what happens to its call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.events: list[str] = []

    def start(self, call: Call) -> StreamSink:
        self.calls.append(call)
        call.on_cancel = lambda _: self.events.append("on_cancel")
        call.on_writable = lambda _: self.events.append("on_writable")
        return self

    def message(self, message: bytes) -> None:
        self.events.append(message.decode())

    def half_closed(self) -> None:
        self.events.append("half_closed")

    def cancelled(self) -> None:
        self.events.append("cancelled")


class Flooding(Recorder):
    """Sends without waiting, from its very start."""

    cancelled_calls = 0

    def start(self, call: Call) -> StreamSink:
        super().start(call)
        call.on_cancel = self._on_cancel
        while not call.cancelled:
            call.send(b"x" * 50_000)
        return self

    def _on_cancel(self, call: Call) -> None:
        self.cancelled_calls += 1
        call.finish()


class Failing:
    def start(self, call: Call) -> StreamSink:
        raise RuntimeError("a bug in start")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def kept() -> list[Call]:
    return []


@pytest.fixture
def peer(recorder: Recorder, kept: list[Call]) -> Peer:
    unary = {b"/t.T/Echo": echo, b"/t.T/Keep": lambda call, _: kept.append(call)}
    stream: dict[bytes, StreamHandler] = {b"/t.T/Stream": recorder, b"/t.T/Failing": Failing()}
    return Peer(GrpcRoutes(unary, stream), GrpcLimits(max_message_bytes=1_000))


# What is no gRPC request.


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"method": "GET"}, "HEADERS 1 405 allow=POST END"),
        ({"content_type": "application/json"}, "HEADERS 1 415 END"),
        ({"content_type": "application/grpc-web"}, "HEADERS 1 415 END"),
        ({"content_type": ""}, "HEADERS 1 415 END"),
        (
            {"grpc_timeout": "1x"},
            f"HEADERS 1 200 grpc-status=13 grpc-message={BAD_TIMEOUT} END",
        ),
        (
            {"trace-bin": "*"},
            "HEADERS 1 200 grpc-status=13 grpc-message=metadata trace-bin is not base64 END",
        ),
        (
            {"path": "/t.T/None"},
            f"HEADERS 1 200 grpc-status=12 grpc-message=unknown method /t.T/None {IDENTITY} END",
        ),
    ],
)
def test_a_head_that_is_no_call_is_answered_at_once(
    peer: Peer, changes: dict[str, str], answer: str
) -> None:
    peer.says(request(1, end=True, **changes))
    assert peer.hears() == [answer]
    assert peer.http.streams == {}


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;charset=x"])
def test_content_types_of_grpc_are_taken(peer: Peer, content_type: str) -> None:
    peer.says(request(1, content_type=content_type), data(1, message(b"x"), end=True))
    assert peer.hears()[-1] == "TRAILERS 1 grpc-status=0"


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 13, "the request ended without a message"),
        (b"\0\0\0", 13, "the request ended in the middle of a message"),
        (message(b"xyz")[:-1], 13, "the request ended in the middle of a message"),
        (message(b"a") * 2, 12, "more than one message for a method that takes one"),
        (message(b"a") + b"\0", 12, "more than one message for a method that takes one"),
        (
            message(b"x" * 1_001),
            8,
            "a message of 1001 bytes is larger than the limit of 1000; send less at once",
        ),
    ],
)
def test_a_body_that_is_not_one_message_fails_its_call(
    peer: Peer, body: bytes, status: int, text: str
) -> None:
    peer.says(request(1), data(1, body, end=True))
    (answer,) = peer.hears()
    assert answer.startswith(f"HEADERS 1 200 grpc-status={status} grpc-message={text}")
    assert answer.endswith("END")
    assert peer.server.held_bytes == 0


def test_a_request_of_headers_alone_has_no_message(peer: Peer) -> None:
    peer.says(request(1, end=True))
    assert "ended without a message" in peer.hears()[0]


def test_a_message_too_large_is_refused_at_its_prefix(peer: Peer) -> None:
    peer.says(request(1), data(1, b"\0\xff\xff\xff\xff"))
    heard = peer.hears()
    assert "grpc-status=8" in heard[0]
    assert heard[1] == "RST_STREAM 1 NO_ERROR"
    assert peer.http.streams == {}


def test_an_unknown_compression_is_refused_with_what_is_accepted(peer: Peer) -> None:
    peer.says(request(1, grpc_encoding="br"), data(1, message(b"x", 1), end=True))
    (answer,) = peer.hears()
    assert "grpc-status=12" in answer
    assert IDENTITY in answer


# Memory for what is half sent.


def test_half_sent_requests_are_bounded_together() -> None:
    limits = GrpcLimits(max_message_bytes=1_000, max_held_bytes=2_000)
    peer = Peer(GrpcRoutes({b"/t.T/Echo": echo}), limits)
    half = message(b"x" * 1_000)[:900]
    peer.says(*(request(stream) + data(stream, half) for stream in (1, 3, 5)))
    assert peer.hears()[0].startswith("HEADERS 5 200 grpc-status=8")
    assert peer.server.held_bytes == 1_800
    peer.says(data(1, message(b"x" * 1_000)[900:], end=True))
    assert peer.hears()[-1] == "TRAILERS 1 grpc-status=0"
    peer.says(h2.rst_stream_frame(3, h2.CANCEL))
    assert peer.server.held_bytes == peer.counters.held_bytes == 0


def test_whole_messages_whose_end_is_missing_are_held_memory_too() -> None:
    limits = GrpcLimits(max_message_bytes=1_000, max_held_bytes=1_500)
    peer = Peer(GrpcRoutes({b"/t.T/Echo": echo}), limits)
    peer.says(*(request(stream) + data(stream, message(b"x" * 900)) for stream in (1, 3)))
    assert peer.hears()[0].startswith("HEADERS 3 200 grpc-status=8")


def test_the_door_bounds_all_connections_together() -> None:
    limits = GrpcLimits(max_message_bytes=1_000, max_door_held_bytes=1_500)
    first = Peer(GrpcRoutes({b"/t.T/Echo": echo}), limits)
    second = Peer(GrpcRoutes({b"/t.T/Echo": echo}), limits, counters=first.counters)
    for peer in (first, second):
        peer.says(request(1), data(1, message(b"x" * 900)))
    assert first.hears() == []
    assert second.hears()[0].startswith("HEADERS 1 200 grpc-status=8")


def test_what_a_service_keeps_of_a_stream_is_held_memory_until_the_call_has_ended(
    peer: Peer, recorder: Recorder
) -> None:
    limits = GrpcLimits(max_held_bytes=1_000)
    peer = Peer(GrpcRoutes(stream={b"/t.T/Stream": recorder}), limits)
    peer.says(request(1, "/t.T/Stream"), request(3, "/t.T/Stream"))
    first, second = recorder.calls
    assert first.keep(900)
    assert not second.keep(200)
    assert first.keep(800)
    assert peer.server.held_bytes == peer.counters.held_bytes == 1_000
    first.finish()
    assert peer.server.held_bytes == 200
    peer.says(h2.rst_stream_frame(3, h2.CANCEL))
    assert second.keep(100)  # too late to count
    second.finish()
    assert peer.server.held_bytes == peer.counters.held_bytes == 0


def test_answers_that_nobody_takes_are_bounded_over_all_connections() -> None:
    """Who has some of them opens no more streams; others are served."""
    routes = GrpcRoutes({b"/t.T/Echo": echo})
    limits = GrpcLimits(max_door_queued_bytes=1_500)
    first = Peer(routes, limits)
    second, third = (Peer(routes, limits, counters=first.counters) for _ in range(2))
    for peer in (first, second):
        peer.says(h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 0}))
        peer.says(request(1), data(1, message(b"x" * 900), end=True))
        peer.hears()
    assert first.counters.queued_bytes > 1_500
    first.says(request(3), data(3, message(b"y"), end=True))
    assert first.hears() == ["RST_STREAM 3 REFUSED_STREAM"]
    third.says(request(1), data(1, message(b"y"), end=True))
    assert third.hears()[-1] == "TRAILERS 1 grpc-status=0"


# What a service gets and may do.


def test_a_call_tells_method_metadata_and_timeout(peer: Peer, kept: list[Call]) -> None:
    peer.says(
        request(1, "/t.T/Keep", grpc_timeout="5m", tenant="a", trace_bin="AAH/", user_agent="u/1"),
        data(1, message(b""), end=True),
    )
    (call,) = kept
    assert call.method == b"/t.T/Keep"
    assert call.timeout_ns == 5_000_000
    assert call.metadata == (
        (b"tenant", b"a"),
        (b"trace-bin", b"\0\1\xff"),
        (b"user-agent", b"u/1"),
    )
    assert peer.counters.calls_started - peer.counters.calls_ended == 1


def test_the_first_ending_counts(peer: Peer, kept: list[Call]) -> None:
    peer.says(call(1, "/t.T/Keep"))
    kept[0].fail(5, "not found", b"details")
    kept[0].respond(b"late")
    kept[0].finish()
    assert not kept[0].send(b"later")
    assert peer.hears() == [
        "HEADERS 1 200 grpc-status=5 grpc-message=not found grpc-status-details-bin=ZGV0YWlscw END"
    ]
    assert peer.counters.calls_ended == peer.counters.calls_failed == 1


def test_an_answer_to_a_cancelled_call_goes_nowhere(peer: Peer, kept: list[Call]) -> None:
    peer.says(call(1, "/t.T/Keep"), h2.rst_stream_frame(1, h2.CANCEL))
    assert kept[0].cancelled
    kept[0].respond(b"x")
    assert peer.hears() == []
    assert peer.http.streams == {}


def test_a_stream_hears_messages_and_the_half_close(peer: Peer, recorder: Recorder) -> None:
    body = message(b"a") + message(b"bc") + message(b"d")
    peer.says(request(1, "/t.T/Stream"), data(1, body[:9]), data(1, body[9:], end=True))
    assert recorder.events == ["a", "bc", "d", "half_closed"]
    (answer,) = recorder.calls
    assert answer.send(b"1")
    assert answer.send(b"")
    answer.finish()
    assert peer.hears() == [
        "HEADERS 1 200",
        "DATA 1 b'\\x00\\x00\\x00\\x00\\x011\\x00\\x00\\x00\\x00\\x00'",
        "TRAILERS 1 grpc-status=0",
    ]


def test_a_stream_hears_of_its_cancelling_once(peer: Peer, recorder: Recorder) -> None:
    peer.says(request(1, "/t.T/Stream"), h2.rst_stream_frame(1, h2.CANCEL))
    peer.http.lost()
    assert recorder.events == ["on_cancel", "cancelled"]


def test_a_stream_may_fail_after_messages(peer: Peer, recorder: Recorder) -> None:
    peer.says(request(1, "/t.T/Stream"))
    recorder.calls[0].send(b"1")
    recorder.calls[0].finish(14, "no owner answers")
    heard = peer.hears()
    assert heard[0] == "HEADERS 1 200"
    assert heard[2:] == [
        "TRAILERS 1 grpc-status=14 grpc-message=no owner answers",
        "RST_STREAM 1 NO_ERROR",
    ]


def test_a_stream_may_respond_last(peer: Peer, recorder: Recorder) -> None:
    peer.says(request(1, "/t.T/Stream", end=True))
    recorder.calls[0].send(b"1")
    recorder.calls[0].respond(b"2")
    heard = peer.hears()
    assert heard[0] == "HEADERS 1 200"
    assert heard[-1] == "TRAILERS 1 grpc-status=0"
    assert peer.http.streams == {}


def test_a_stream_that_dies_while_its_service_starts_is_told() -> None:
    flooding = Flooding()
    limits = GrpcLimits(max_queued_bytes=100_000)
    peer = Peer(GrpcRoutes({}, {b"/t.T/Flood": flooding}), limits)
    peer.says(request(1, "/t.T/Flood"))
    assert flooding.cancelled_calls == 1
    assert peer.http.streams == {}


def test_a_full_stream_asks_to_wait_and_calls_back(peer: Peer, recorder: Recorder) -> None:
    peer.says(request(1, "/t.T/Stream"))
    (answer,) = recorder.calls
    assert answer.send(b"x" * 65_000)
    assert not answer.send(b"x" * 65_000)
    peer.hears()
    assert recorder.events == []  # 64,475 bytes wait for a window
    peer.says(h2.window_update_frame(0, 100_000), h2.window_update_frame(1, 50_000))
    assert recorder.events == ["on_writable"]
    peer.says(h2.window_update_frame(1, 50_000))
    assert recorder.events == ["on_writable"]


def test_a_paused_stream_gets_no_more_than_a_window(peer: Peer, recorder: Recorder) -> None:
    peer.says(request(1, "/t.T/Stream"))
    (answer,) = recorder.calls
    answer.pause()
    peer.says(*(data(1, message(b"x" * 995)) for _ in range(200)))
    assert peer.hears() == []
    answer.resume()
    assert peer.hears() == ["WINDOW_UPDATE 1 200000"]
    assert len(recorder.events) == 200


def test_a_bug_in_a_service_fails_its_call(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, logger="sidecar.wire.grpc_server"):
        peer.says(request(1, "/t.T/Failing", end=True))
    (answer,) = peer.hears()
    assert answer.startswith("HEADERS 1 200 grpc-status=13")
    assert peer.counters.handler_errors == 1


def test_routes_join_and_never_hide_one_another() -> None:
    one = GrpcRoutes({b"/a": echo})
    assert set((one | GrpcRoutes({b"/b": echo})).unary) == {b"/a", b"/b"}
    with pytest.raises(ValueError, match="more than one handler"):
        one | GrpcRoutes({}, {b"/a": Failing()})
