"""Reflection within bounds. What it answers is in tests/functional/test_reflection.py."""

from sidecar.net.grpc_standard import ReflectionService
from sidecar.wire import http2_frames as h2
from tests.support.http2_playbook import Peer, data, message, request

PATH = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
QUESTION = message(b"\x22\x15grpc.health.v1.Health")  # file_containing_symbol


def test_who_does_not_read_its_answers_may_not_ask_on() -> None:
    peer = Peer(ReflectionService(["grpc.health.v1.Health"]).routes())
    peer.says(h2.settings_frame({h2.SETTINGS_INITIAL_WINDOW_SIZE: 0}), request(1, PATH))
    peer.says(*(data(1, QUESTION * 100) for _ in range(10)))
    asked = peer.http.streams[1]
    assert asked.credit_held
    peer.says(h2.window_update_frame(1, 1 << 24), h2.window_update_frame(0, 1 << 24))
    peer.hears()
    assert not asked.credit_held


def test_a_question_is_worked_out_once_and_long_ones_are_not_kept() -> None:
    service = ReflectionService(["grpc.health.v1.Health"])
    peer = Peer(service.routes())
    peer.says(request(1, PATH))
    long = b"x" * 300
    for question in (QUESTION, QUESTION, message(b"\x22\xac\x02" + long)):
        peer.says(data(1, question))
    known = service.answers_to.cache_info()
    assert (known.hits, known.misses, known.currsize) == (1, 1, 1)
    assert peer.http.streams[1] is not None
