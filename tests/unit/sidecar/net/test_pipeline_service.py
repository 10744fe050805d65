"""Pipeline: answers by number, in any order, and no more under way than a reader can take."""

import time

from google.protobuf.message import Message

from protos.dabbawala.v1 import data_pb2 as pb
from sidecar.net.data_service import SERVICE, DataService
from sidecar.net.pipeline_service import (
    FIRST_UNDER_WAY,
    LEAST_UNDER_WAY,
    WAITING_OVERHEAD_BYTES,
    encode_answer,
)
from sidecar.wire.grpc import Call, StreamSink
from tests.support.memory_coordinator import MemoryCoordinator

INVALID_ARGUMENT = 3
RESOURCE_EXHAUSTED = 8


class StreamCall(Call):
    """The stream's own call: keeps what is sent; its client may stop reading."""

    __slots__ = ("dead", "kept_bytes", "most_bytes", "paused", "room", "sent", "status")

    def __init__(self) -> None:
        super().__init__(method=SERVICE + b"Pipeline", metadata=(), timeout_ns=None)
        self.sent: list[pb.PipelineResponse] = []
        self.room = True
        self.paused = False
        self.dead = False
        self.status = -1
        self.kept_bytes = 0
        self.most_bytes = 1 << 30

    @property
    def cancelled(self) -> bool:
        return self.dead

    def send(self, message: bytes) -> bool:
        self.sent.append(pb.PipelineResponse.FromString(message))
        return self.room

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        self.ended, self.status = True, status

    def keep(self, size: int) -> bool:
        self.kept_bytes = size
        return size <= self.most_bytes

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    @property
    def numbers(self) -> list[int]:
        return [answer.id for answer in self.sent]


class Stream:
    """A pipeline over a coordinator in memory."""

    def __init__(self) -> None:
        self.core = MemoryCoordinator({0: "default"}, lambda: 1_763_700_000_000)
        service = DataService(self.core, time.monotonic, lambda act: None)  # type: ignore[arg-type]
        self.call = StreamCall()
        self.sink: StreamSink = service.streams()[SERVICE + b"Pipeline"].start(self.call)

    def ask(self, number: int, **request: Message) -> None:
        message = pb.PipelineRequest(id=number, **request)  # type: ignore[arg-type]
        self.sink.message(message.SerializeToString())


def get(key: bytes = b"k") -> Message:
    return pb.GetRequest(key=key)


def test_requests_are_answered_under_their_numbers() -> None:
    stream = Stream()
    stream.ask(7, put=pb.PutRequest(key=b"k", value=b"v"))
    stream.ask(1 << 63, get=get())
    stream.ask(0, delete=pb.DeleteRequest(key=b"k"))
    put, got, deleted = stream.call.sent
    assert (put.id, got.id, deleted.id) == (7, 1 << 63, 0)
    assert got.get.value == b"v"
    assert got.get.version == put.put.version
    assert deleted.delete.existed
    stream.sink.half_closed()
    assert stream.call.status == 0


def test_answers_come_as_they_are_ready_and_the_stream_ends_after_the_last() -> None:
    stream = Stream()
    stream.core.hold()
    for number in (1, 2, 3):
        stream.ask(number, get=get())
    stream.sink.half_closed()
    assert not stream.call.ended
    stream.core.release(1)
    assert stream.call.numbers == [2]
    stream.core.release()
    assert stream.call.numbers == [2, 1, 3]
    assert stream.call.ended


def test_a_refusal_is_the_status_of_its_request_alone() -> None:
    stream = Stream()
    stream.ask(1, get=get(b""))
    stream.ask(2)
    stream.sink.message(b"\xff")
    stream.ask(3, get=get())
    refused, empty, garbled, good = stream.call.sent
    assert refused.error.code == empty.error.code == garbled.error.code == INVALID_ARGUMENT
    assert refused.error.details[0].TypeName() == "google.rpc.ErrorInfo"
    assert (empty.id, good.WhichOneof("response")) == (2, "get")


def test_not_more_than_the_bound_is_under_way_and_the_client_is_told_to_wait() -> None:
    stream = Stream()
    stream.core.hold()
    for number in range(FIRST_UNDER_WAY + 5):
        stream.ask(number, get=get())
    assert stream.core.held is not None
    assert len(stream.core.held) == FIRST_UNDER_WAY
    assert stream.call.paused
    stream.core.release()
    assert len(stream.call.sent) == FIRST_UNDER_WAY + 5
    assert not stream.call.paused


def test_a_client_that_does_not_read_is_not_read() -> None:
    stream = Stream()
    stream.call.room = False
    for number in range(10):
        stream.ask(number, get=get())
    assert stream.call.numbers == [0]
    assert stream.call.paused
    stream.call.room = True
    assert stream.call.on_writable is not None
    stream.call.on_writable(stream.call)
    assert stream.call.numbers == list(range(10))
    assert not stream.call.paused


def test_requests_that_wait_are_counted_with_what_each_takes() -> None:
    stream = Stream()
    stream.call.room = False
    for number in range(10):
        stream.ask(number, get=get())
    assert stream.call.kept_bytes > 9 * WAITING_OVERHEAD_BYTES
    stream.call.room = True
    assert stream.call.on_writable is not None
    stream.call.on_writable(stream.call)
    assert stream.call.kept_bytes == 0


def test_too_many_that_wait_are_let_go_and_the_call_fails_after_what_was_begun() -> None:
    stream = Stream()
    stream.core.hold()
    stream.call.most_bytes = 500
    for number in range(FIRST_UNDER_WAY + 20):
        stream.ask(number, get=get())
    assert stream.call.kept_bytes == 0
    assert not stream.call.ended
    assert stream.call.paused
    stream.ask(999, get=get())  # it was on its way
    stream.core.release()
    assert sorted(stream.call.numbers) == list(range(FIRST_UNDER_WAY))
    assert stream.call.status == RESOURCE_EXHAUSTED


def test_large_answers_let_less_be_under_way() -> None:
    stream = Stream()
    stream.ask(0, put=pb.PutRequest(key=b"k", value=bytes(1 << 20)))
    for number in (1, 2):
        stream.ask(number, get=get())
    stream.core.hold()
    for number in range(3, 20):
        stream.ask(number, get=get())
    assert stream.core.held is not None
    assert LEAST_UNDER_WAY <= len(stream.core.held) <= 4


def test_a_cancelled_stream_keeps_its_place_until_its_work_has_ended() -> None:
    stream = Stream()
    stream.core.hold()
    stream.ask(1, get=get())
    stream.call.dead = True
    stream.sink.cancelled()
    assert stream.call.status == -1
    stream.core.release()
    assert stream.call.status == 0
    assert stream.call.sent == []


def test_an_answer_is_encoded_as_protobuf_does() -> None:
    got = pb.GetResponse(found=True, value=bytes(300))
    for number in (0, 1, 127, 128, (1 << 64) - 1):
        encoded = encode_answer(number, "get", got.SerializeToString())
        assert encoded == pb.PipelineResponse(id=number, get=got).SerializeToString()
