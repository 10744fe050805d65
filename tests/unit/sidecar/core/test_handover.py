"""A hint's bytes on another owner, and who that is."""

import pytest

from replicas.record import seal
from sidecar.core.handover import decode_hint, encode_hint, keeper
from sidecar.core.hints import ONLY_COPY, Hint
from tests.support.fake_cluster import KEYSPACE, START_MS, FakeCluster

HINT = Hint("läger", 7, b"k\0\xff", b"record\r\n", 3, START_MS)


@pytest.mark.parametrize("hint", [HINT, HINT._replace(node=ONLY_COPY, key=b"k" * 1024, record=b"")])
def test_a_hint_comes_back_as_it_went(hint: Hint) -> None:
    assert decode_hint(encode_hint(hint)) == hint


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    raw = encode_hint(HINT)
    for at in range(len(raw)):
        assert decode_hint(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]) is None
    assert decode_hint(raw[:-1]) is None
    assert decode_hint(b"") is None
    assert decode_hint(seal(b"short")) is None


def test_another_owner_that_counts_keeps_it() -> None:
    cluster = FakeCluster()
    route = cluster.sidecar.core.route_of(KEYSPACE, b"k")
    assert route is not None
    nodes = [peer.node.number for peer in route.peers]
    for number in nodes:
        slot = keeper(HINT._replace(node=number), route)
        assert slot is not None
        assert nodes[slot] != number
    for number in nodes[:2]:
        cluster.link(number).cut()
    assert keeper(HINT._replace(node=nodes[0]), route) == 2
    assert keeper(HINT._replace(node=nodes[2]), route) is None
