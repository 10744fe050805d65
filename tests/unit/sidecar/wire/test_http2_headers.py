"""Header blocks: what is remembered is what decoding would give; what is no request is refused."""

from collections.abc import Callable

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import http2_frames as h2
from sidecar.wire.http2_frames import ConnectionFault
from sidecar.wire.http2_headers import (
    REMEMBERED_BLOCKS,
    HeaderBlocks,
    MalformedHeaders,
    RequestHead,
    encode_field,
    read_head,
    status_field,
)

PSEUDO = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a")]
FIELD = st.tuples(
    st.sampled_from((b"a", b"b", b"grpc-timeout", b"x-long-name")),
    st.sampled_from((b"1", b"2", b"3", b"value " * 8 + b"x")),
)


class Interpreter:
    """Counts how often a head had to be understood."""

    def __init__(self) -> None:
        self.heads = 0

    def __call__(self, head: RequestHead) -> RequestHead:
        self.heads += 1
        return head


def test_a_repeated_block_is_understood_once() -> None:
    interpret = Interpreter()
    blocks = HeaderBlocks(interpret, 16_384)
    encoder = Encoder()
    first, second, third = (encoder.encode([*PSEUDO, (b"te", b"trailers")]) for _ in range(3))
    assert first != second  # the first fills the table
    heads = [blocks.request(block)[0] for block in (first, second, third, third)]
    assert interpret.heads == 2
    assert len(set(heads)) == 1


def test_a_change_of_the_table_forgets_what_blocks_meant() -> None:
    blocks = HeaderBlocks(lambda head: head.fields, 16_384)
    encoder = Encoder()
    blocks.request(encoder.encode([*PSEUDO, (b"a", b"1")]))
    points_at_newest = encoder.encode([*PSEUDO, (b"a", b"1")])
    assert blocks.request(points_at_newest)[0] == ((b"a", b"1"),)
    # Now the newest entry is another one, and the same bytes mean another request.
    blocks.request(b"\x83\x86\x44\x02/a" + b"\x40\x01b\x012")
    again = blocks.request(points_at_newest)[0]
    assert again == ((b"b", b"2"),)


def test_a_block_that_changes_the_table_changes_it_every_time() -> None:
    blocks = HeaderBlocks(lambda head: head.fields, 16_384)
    adds = b"\x83\x86\x84" + b"\x40\x01a\x011"
    for _ in range(2):
        assert blocks.request(adds)[0] == ((b"a", b"1"),)
    both_entries = b"\x83\x86\x84\xbe\xbf"
    assert blocks.request(both_entries)[0] == ((b"a", b"1"), (b"a", b"1"))


@given(
    requests=st.lists(st.lists(FIELD, max_size=4), max_size=30),
    table_sizes=st.lists(st.sampled_from((0, 40, 100, 4_096)), min_size=30, max_size=30),
)
def test_remembering_never_changes_what_a_block_means(
    requests: list[list[tuple[bytes, bytes]]], table_sizes: list[int]
) -> None:
    encoder = Encoder()
    blocks = HeaderBlocks(lambda head: head.fields, 16_384)
    plain = Decoder()
    for fields, size in zip(requests, table_sizes, strict=False):
        if size != encoder.header_table_size:
            encoder.header_table_size = size
        block = encoder.encode([*PSEUDO, *fields])
        expected = tuple((bytes(n), bytes(v)) for n, v in plain.decode(block, raw=True))
        assert blocks.request(block)[0] == expected[3:] == tuple(fields)


def test_the_memory_is_bounded() -> None:
    blocks = HeaderBlocks(lambda head: head, 16_384)
    start = b"\x83\x86\x84"
    for number in range(REMEMBERED_BLOCKS * 3):
        blocks.request(start + encode_field(b"n", b"%d" % number))
        blocks.request(start + encode_field(b"n", b"x" * 1_000 + b"%d" % number))
    assert 0 < len(blocks._known) <= REMEMBERED_BLOCKS


def test_a_list_over_the_limit_is_stopped_while_decoding() -> None:
    blocks = HeaderBlocks(lambda head: head, 16_384)
    # One entry of 4 KB in the table, then a reference to it in every byte: 4 MB from 1 KB.
    bomb = b"\x83\x86\x84\x40" + encode_field(b"a", b"v" * 4_000)[1:] + b"\xbe" * 1_000
    with pytest.raises(ConnectionFault) as caught:
        blocks.request(bomb)
    assert caught.value.code == h2.ENHANCE_YOUR_CALM


@given(block=st.binary(max_size=64))
def test_any_bytes_end_in_a_head_or_in_a_known_fault(block: bytes) -> None:
    blocks = HeaderBlocks(lambda head: head, 16_384)
    try:
        head, _ = blocks.request(block)
    except (ConnectionFault, MalformedHeaders):
        return
    assert head.path


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields[1:],
        lambda fields: [*fields, fields[0]],
        lambda fields: [fields[0], fields[1], (b":path", b"")],
        lambda fields: [*fields, (b":status", b"200")],
        lambda fields: [*fields, (b"a", b"1"), (b":authority", b"late")],
        lambda fields: [*fields, (b"Upper", b"1")],
        lambda fields: [*fields, (b"", b"1")],
        lambda fields: [*fields, (b"sp ace", b"1")],
        lambda fields: [*fields, (b"connection", b"close")],
        lambda fields: [*fields, (b"transfer-encoding", b"chunked")],
        lambda fields: [*fields, (b"te", b"gzip")],
        lambda fields: [*fields, (b"a", b"x\ny")],
        lambda fields: [*fields, (b"a", b"x\0y")],
        lambda fields: [*fields, (b"a", b" x")],
        lambda fields: [*fields, (b"content-length", b"-1")],
        lambda fields: [*fields, (b"content-length", b"1"), (b"content-length", b"2")],
    ],
)
def test_what_is_no_request_is_malformed(
    change: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]],
) -> None:
    with pytest.raises(MalformedHeaders):
        read_head(change(list(PSEUDO)))


def test_content_length_is_read() -> None:
    assert read_head([*PSEUDO, (b"content-length", b"12")]).content_length == 12
    assert read_head(PSEUDO).content_length == -1


def test_trailers_hold_no_pseudo_headers() -> None:
    blocks = HeaderBlocks(lambda head: head, 16_384)
    assert blocks.trailers(encode_field(b"a", b"1")) == ((b"a", b"1"),)
    with pytest.raises(MalformedHeaders):
        blocks.trailers(encode_field(b":path", b"/"))


@given(value=st.binary(max_size=400))
def test_our_fields_decode_to_themselves(value: bytes) -> None:
    block = status_field(415) + status_field(200) + encode_field(b"name", value)
    assert Decoder().decode(block, raw=True) == [
        (b":status", b"415"),
        (b":status", b"200"),
        (b"name", value),
    ]
