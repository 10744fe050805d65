"""How streams and connections end, and what a hostile client cannot do."""

import pytest

from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcLimits, GrpcRoutes, StreamSink
from sidecar.wire.http2_limits import SECOND_NS, Counters
from tests.support.http2_playbook import Peer, call, data, echo, headers, message, request

KIB = 1024


class Service:
    """Holds every call until the test ends it."""

    def __init__(self) -> None:
        self.kept: list[Call] = []
        self.cancelled: list[Call] = []

    def peer(self, **limits: int) -> Peer:
        return self.peer_of(Counters(), **limits)

    def peer_of(self, door: Counters, **limits: int) -> Peer:
        routes = GrpcRoutes({b"/t.T/Echo": echo, b"/t.T/Keep": self._keep}, {b"/t.T/Stream": self})
        return Peer(routes, GrpcLimits(**limits), counters=door)

    def _keep(self, call: Call, message: bytes) -> None:
        self.kept.append(call)
        call.on_cancel = self.cancelled.append

    def start(self, call: Call) -> StreamSink:
        self._keep(call, b"")
        return Silent()


class Silent:
    def message(self, message: bytes) -> None:
        pass

    def half_closed(self) -> None:
        pass

    def cancelled(self) -> None:
        pass


@pytest.fixture
def service() -> Service:
    return Service()


# Slots.


def test_a_cancelled_stream_keeps_its_slot_until_its_work_has_ended(service: Service) -> None:
    peer = service.peer(max_concurrent_streams=2)
    for stream in (1, 3):
        peer.says(call(stream, "/t.T/Keep"), h2.rst_stream_frame(stream, h2.CANCEL))
    assert service.cancelled == service.kept
    peer.says(call(5))
    assert peer.hears() == ["RST_STREAM 5 REFUSED_STREAM"]
    service.kept[0].fail(1, "cancelled")
    peer.says(call(7))
    assert peer.hears()[-1] == "TRAILERS 7 grpc-status=0"


def test_a_refused_stream_does_not_harm_the_header_table(service: Service) -> None:
    peer = service.peer(max_concurrent_streams=1)
    peer.says(call(1, "/t.T/Keep"))
    block = request(3)[9:] + b"\x40\x01a\x01b"  # adds a field to the table
    peer.says(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 3, block))
    service.kept[0].respond(b"")
    block = request(5)[9:] + b"\xbe"  # points at it
    peer.says(h2.frame(h2.HEADERS, h2.END_HEADERS, 5, block), data(5, message(b""), end=True))
    assert peer.hears()[-1] == "TRAILERS 5 grpc-status=0"


def test_an_answer_still_being_sent_keeps_its_slot(service: Service) -> None:
    peer = service.peer(max_concurrent_streams=1)
    peer.says(call(1, "/t.T/Keep"))
    service.kept[0].respond(b"x" * 100_000)
    peer.hears()
    peer.says(call(3))
    assert peer.hears() == ["RST_STREAM 3 REFUSED_STREAM"]
    peer.says(h2.window_update_frame(0, 100_000), h2.window_update_frame(1, 100_000))
    assert peer.hears()[-1] == "TRAILERS 1 grpc-status=0"
    peer.says(call(5))
    assert peer.hears()[-1] == "TRAILERS 5 grpc-status=0"


def test_a_request_that_dies_half_sent_frees_its_slot(service: Service) -> None:
    peer = service.peer(max_concurrent_streams=1)
    peer.says(request(1), data(1, message(b"xxx")[:6]), h2.rst_stream_frame(1, h2.CANCEL))
    assert peer.http.streams == {}
    assert peer.server.held_bytes == 0


# Early answers.


def test_an_answer_before_the_end_of_the_request_stops_the_upload(service: Service) -> None:
    peer = service.peer()
    peer.says(request(1, "/t.T/None"))
    heard = peer.hears()
    assert heard[0].startswith("HEADERS 1 200 grpc-status=12")
    assert heard[1:] == ["RST_STREAM 1 NO_ERROR"]
    peer.says(data(1, b"what was on its way"), data(1, end=True), call(3))
    assert peer.hears()[-1] == "TRAILERS 3 grpc-status=0"


# Floods.


@pytest.mark.parametrize(
    "flood",
    [
        h2.ping_frame(b"12345678"),
        h2.settings_frame({}),
        h2.frame(h2.PRIORITY, 0, 1, b"\0\0\0\0\0"),
        h2.window_update_frame(0, 1),
        h2.frame(0xEE, 0, 0),
        h2.goaway_frame(0, 0),
        data(1),
        data(3, b"after our reset"),
    ],
)
def test_a_flood_of_frames_that_carry_nothing_ends_the_connection(
    service: Service, flood: bytes
) -> None:
    peer = service.peer(control_burst=100, control_per_s=10, ping_burst=100)
    peer.says(request(1, "/t.T/Stream"), request(3, ""), flood * 99)
    assert not peer.http.finished
    peer.says(flood * 10)
    assert peer.hears()[-1] == "GOAWAY 3 ENHANCE_YOUR_CALM"
    assert service.cancelled == service.kept


def test_window_updates_for_what_was_sent_are_no_flood(service: Service) -> None:
    peer = service.peer(control_burst=10, control_per_s=1)
    for stream in range(1, 2_001, 2):
        peer.says(call(stream), h2.window_update_frame(0, 6), h2.window_update_frame(stream, 6))
    assert not peer.http.finished


def test_rapid_resets_end_the_connection(service: Service) -> None:
    peer = service.peer(reset_burst=50, reset_per_s=10)
    for stream in range(1, 200, 2):
        peer.says(call(stream, "/t.T/Keep"), h2.rst_stream_frame(stream, h2.CANCEL))
    assert peer.hears()[-1].endswith("ENHANCE_YOUR_CALM")
    assert len(service.kept) == 51


def test_resets_that_we_are_made_to_send_end_the_connection(service: Service) -> None:
    peer = service.peer(reset_burst=50, reset_per_s=10)
    for stream in range(1, 200, 2):
        peer.says(call(stream, "/t.T/Keep"), h2.window_update_frame(stream, 0))
    assert peer.hears()[-1].endswith("ENHANCE_YOUR_CALM")
    assert len(service.kept) == 51


def test_resets_at_an_honest_pace_are_served(service: Service) -> None:
    peer = service.peer(reset_burst=5, reset_per_s=10)
    for stream in range(1, 200, 2):
        peer.now_ns += 100_000_000
        peer.says(call(stream, "/t.T/Keep"), h2.rst_stream_frame(stream, h2.CANCEL))
    assert not peer.http.finished


def test_a_header_block_without_end_is_stopped(service: Service) -> None:
    start = h2.frame(h2.HEADERS, 0, 1, b"\0")
    many = service.peer()
    many.says(start, *(h2.frame(h2.CONTINUATION, 0, 1) for _ in range(9)))
    assert many.hears() == ["GOAWAY 0 ENHANCE_YOUR_CALM"]
    large = service.peer()
    large.says(start, *(h2.frame(h2.CONTINUATION, 0, 1, b"x" * 16_384) for _ in range(2)))
    assert large.hears() == ["GOAWAY 0 ENHANCE_YOUR_CALM"]


def test_a_writer_that_does_not_wait_loses_its_stream(service: Service) -> None:
    peer = service.peer(max_queued_bytes=100 * KIB)
    peer.says(request(1, "/t.T/Stream"))
    peer.hears()
    (writer,) = service.kept
    assert writer.send(b"x" * 60 * KIB)
    assert not writer.send(b"x" * 30 * KIB)
    assert not writer.send(b"x" * 30 * KIB)
    assert peer.hears() == ["HEADERS 1 200", "RST_STREAM 1 INTERNAL_ERROR"]
    assert service.cancelled == [writer]


def test_answers_that_are_not_read_stop_new_streams(service: Service) -> None:
    peer = service.peer(max_connection_queued_bytes=100 * KIB)
    peer.says(call(1, "/t.T/Keep"), call(3, "/t.T/Keep"))
    for kept in service.kept:
        kept.respond(b"x" * 99 * KIB)
    peer.hears()
    peer.says(call(5))
    assert peer.hears() == ["RST_STREAM 5 REFUSED_STREAM"]
    peer.says(h2.rst_stream_frame(1, h2.CANCEL), call(7))
    assert peer.hears() == ["HEADERS 7 200"]
    peer.says(h2.rst_stream_frame(3, h2.CANCEL), h2.rst_stream_frame(7, h2.CANCEL))
    assert peer.http.out.queued_bytes == 0


@pytest.mark.parametrize("path", ["/t.T/Keep", "/t.T/Stream"])
def test_answers_of_streams_that_were_open_already_are_bounded_too(
    service: Service, path: str
) -> None:
    peer = service.peer(max_connection_queued_bytes=100 * KIB)
    peer.says(h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 0}))
    peer.says(
        *(request(stream, path) + data(stream, message(b"x"), end=True) for stream in (1, 3, 5))
    )
    for kept in service.kept:
        if path == "/t.T/Keep":
            kept.respond(b"x" * 90 * KIB)
        else:
            kept.send(b"x" * 90 * KIB)
    assert [line for line in peer.hears() if "RST" in line] == ["RST_STREAM 5 ENHANCE_YOUR_CALM"]
    assert 180 * KIB <= peer.http.out.queued_bytes <= 181 * KIB


def test_one_answer_however_large_is_queued_whole(service: Service) -> None:
    peer = service.peer(max_connection_queued_bytes=100 * KIB, max_door_queued_bytes=100 * KIB)
    peer.says(call(1, "/t.T/Keep"))
    service.kept[0].respond(b"x" * 900 * KIB)
    peer.says(h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 1 << 20}))
    peer.says(h2.window_update_frame(0, 1 << 20))
    assert peer.hears()[-1] == "TRAILERS 1 grpc-status=0"


def test_a_door_full_of_answers_drops_those_of_who_has_more_of_them(service: Service) -> None:
    door = Counters()
    first, second = (service.peer_of(door, max_door_queued_bytes=100 * KIB) for _ in range(2))
    for peer in (first, second):
        peer.says(h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 0}))
        peer.says(call(1, "/t.T/Keep"), call(3, "/t.T/Keep"))
    for kept in service.kept:
        kept.respond(b"x" * 90 * KIB)
    assert "RST_STREAM 3 ENHANCE_YOUR_CALM" not in first.hears()
    assert [line for line in second.hears() if "RST" in line] == ["RST_STREAM 3 ENHANCE_YOUR_CALM"]


# A full socket.


def test_nothing_queued_goes_to_a_full_socket(service: Service) -> None:
    peer = service.peer()
    peer.http.out.writable = False
    peer.says(call(1))
    assert peer.hears() == ["HEADERS 1 200"]
    peer.http.out.writable = True
    assert peer.hears()[-1] == "TRAILERS 1 grpc-status=0"


def test_a_turn_of_the_loop_makes_a_bounded_amount_ready(service: Service) -> None:
    peer = service.peer(max_turn_bytes=64 * KIB)
    peer.says(h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 2**31 - 1}))
    peer.says(h2.window_update_frame(0, 10**9), call(1, "/t.T/Keep"))
    peer.hears()
    service.kept[0].respond(b"x" * 1_000 * KIB)
    assert len(peer.http.take_output()) < 66 * KIB
    assert peer.http.out.has_more


def test_output_outside_of_receive_asks_for_one_flush(service: Service) -> None:
    peer = service.peer()
    peer.says(call(1, "/t.T/Keep"), call(3, "/t.T/Keep"))
    before = peer.flushes_asked
    for kept in service.kept:
        kept.respond(b"x")
    assert peer.flushes_asked == before + 1
    assert len(peer.hears()) == 6


# Time.


def test_a_client_that_says_nothing_is_let_go() -> None:
    peer = Peer(GrpcRoutes(), hello=b"")
    peer.says(h2.PREFACE[:10])
    peer.waits(9)
    assert not peer.http.finished
    peer.waits(2)
    assert peer.http.finished


@pytest.mark.parametrize("unfinished", [b"\0\0\1", call(1)[:50], h2.frame(h2.HEADERS, 0, 1, b"\0")])
def test_an_unfinished_frame_or_block_is_not_waited_for(
    service: Service, unfinished: bytes
) -> None:
    peer = service.peer()
    peer.says(unfinished)
    peer.waits(9)
    assert not peer.http.finished
    peer.waits(2)
    assert peer.hears() == ["GOAWAY 0 ENHANCE_YOUR_CALM"]


def test_a_slow_upload_that_moves_is_waited_for(service: Service) -> None:
    peer = service.peer()
    peer.says(request(1, "/t.T/Stream"))
    for _ in range(10):
        peer.says(data(1, message(b"x")) + b"\0")
        peer.waits(9)
        peer.says(data(1, message(b"x"))[1:])
        peer.waits(9)
    assert not peer.http.finished


def test_a_request_without_end_is_reset(service: Service) -> None:
    peer = service.peer()
    peer.says(request(1), request(3, "/t.T/Stream"))
    peer.waits(119)
    assert peer.hears() == []
    peer.waits(2)
    assert peer.hears() == ["RST_STREAM 1 CANCEL"]
    assert list(peer.http.streams) == [3]


def test_an_answer_nobody_reads_is_reset(service: Service) -> None:
    peer = service.peer()
    peer.says(call(1, "/t.T/Keep"))
    service.kept[0].respond(b"x" * 100_000)
    for _ in range(3):
        peer.waits(50)
    assert peer.hears()[-1] == "RST_STREAM 1 CANCEL"
    assert peer.http.streams == {}


def test_a_socket_nobody_reads_is_closed(service: Service) -> None:
    peer = service.peer()
    peer.http.out.writable = False
    peer.waits(1)
    peer.waits(59)
    assert not peer.http.finished
    peer.waits(2)
    assert peer.http.finished


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(service: Service) -> None:
    idle, busy = service.peer(), service.peer()
    busy.says(request(1, "/t.T/Stream"))
    for peer in (idle, busy):
        peer.waits(1_801)
    assert idle.hears() == ["GOAWAY 0 NO_ERROR"]
    service.kept[0].finish()
    busy.hears()
    busy.waits(1_799)
    assert busy.hears() == []
    busy.waits(2)
    assert busy.hears() == ["GOAWAY 1 NO_ERROR"]


# Goodbye.


def test_a_drain_loses_no_request(service: Service) -> None:
    peer = service.peer()
    peer.says(call(1, "/t.T/Keep"))
    peer.http.drain(peer.now_ns)
    assert peer.hears() == ["GOAWAY 2147483647 NO_ERROR", "PING draining"]
    peer.says(call(3, "/t.T/Keep"))  # was on its way
    peer.says(h2.ping_frame(b"draining", h2.ACK))
    assert peer.hears() == ["GOAWAY 3 NO_ERROR"]
    peer.says(call(5))
    assert peer.hears() == ["RST_STREAM 5 REFUSED_STREAM"]
    service.kept[0].respond(b"x")
    assert not peer.http.finished
    service.kept[1].respond(b"y")
    assert peer.hears()[-1] == "TRAILERS 3 grpc-status=0"
    assert peer.http.finished


def test_a_drain_does_not_wait_for_an_answer_to_its_ping(service: Service) -> None:
    peer = service.peer()
    peer.http.drain(peer.now_ns)
    peer.waits(2)
    assert peer.hears()[-1] == "GOAWAY 0 NO_ERROR"
    assert peer.http.finished


def test_a_lost_connection_cancels_calls_once(service: Service) -> None:
    peer = service.peer()
    peer.says(call(1, "/t.T/Keep"), call(3, "/t.T/Keep"), h2.rst_stream_frame(1, h2.CANCEL))
    peer.http.lost()
    peer.http.lost()
    assert service.cancelled == service.kept
    for kept in service.kept:
        kept.respond(b"too late")
    assert peer.http.streams == {}
    assert peer.hears() == []


def test_trailers_of_a_discarded_stream_still_feed_the_table(service: Service) -> None:
    peer = service.peer()
    peer.says(request(1, "/t.T/None"))
    peer.says(h2.frame(h2.HEADERS, 5, 1, b"\x40\x01a\x01b"), headers(3, [(":path", "/")]))
    block = request(5)[9:] + b"\xbe"
    peer.says(h2.frame(h2.HEADERS, h2.END_HEADERS, 5, block), data(5, message(b""), end=True))
    assert peer.hears()[-1] == "TRAILERS 5 grpc-status=0"


# Pings, and the age of a connection.


def test_too_many_pings_end_the_connection_in_the_words_that_clients_know(
    service: Service,
) -> None:
    peer = service.peer(ping_burst=10, ping_per_s=1)
    peer.says(call(1, "/t.T/Keep"), h2.ping_frame(b"12345678") * 10)
    peer.waits(2)
    peer.says(h2.ping_frame(b"12345678") * 2)
    peer.hears()
    peer.says(h2.ping_frame(b"12345678"))
    assert peer.http.finished
    assert b"too_many_pings" in peer._received


def test_an_old_connection_is_drained_and_what_is_at_work_has_a_grace(service: Service) -> None:
    limits = {
        "max_connection_age_ns": 100 * SECOND_NS,
        "connection_grace_ns": 10 * SECOND_NS,
    }
    peer = service.peer(**limits)
    peer.says(call(1, "/t.T/Keep"))
    peer.waits(89)
    assert peer.hears() == []
    peer.waits(2)
    assert peer.hears() == ["GOAWAY 2147483647 NO_ERROR", "PING draining"]
    peer.waits(2)
    assert peer.hears() == ["GOAWAY 1 NO_ERROR"]
    peer.says(call(3))
    assert peer.hears() == ["RST_STREAM 3 REFUSED_STREAM"]
    assert not peer.http.finished
    peer.waits(10)
    assert peer.hears() == ["GOAWAY 3 NO_ERROR"]
    assert service.cancelled == service.kept


def test_an_old_connection_whose_work_ends_is_closed_at_once(service: Service) -> None:
    peer = service.peer(max_connection_age_ns=100 * SECOND_NS)
    peer.says(call(1, "/t.T/Keep"))
    peer.waits(111)
    peer.says(h2.ping_frame(b"draining", h2.ACK))
    service.kept[0].respond(b"x")
    peer.hears()
    assert peer.http.finished
