"""HPACK: the same as the `hpack` package, which is the oracle, and the bounds."""

from random import Random

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import http2_frames as h2
from sidecar.wire.hpack_decoder import TABLE_BYTES, Field, HpackDecoder
from sidecar.wire.http2_frames import ConnectionFault

LIST_BYTES = 16_384
SEED = 5
FIELD = st.tuples(
    st.sampled_from((b":method", b":path", b"a", b"grpc-timeout", b"x-id")),
    st.sampled_from((b"", b"GET", b"/", b"1", b"value " * 9)) | st.binary(max_size=40),
)


def oracle(decoder: Decoder, block: bytes) -> list[Field] | None:
    """None: it refuses the block."""
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except (HPACKError, IndexError):
        return None


def decoded(decoder: HpackDecoder, block: bytes) -> list[Field] | None:
    try:
        return decoder.decode(block)
    except ConnectionFault:
        return None


@given(
    requests=st.lists(st.tuples(st.lists(FIELD, max_size=6), st.booleans(), st.booleans())),
    sizes=st.lists(st.sampled_from((0, 40, 100, 300, TABLE_BYTES)), min_size=1),
)
def test_what_an_encoder_says_is_understood(
    requests: list[tuple[list[Field], bool, bool]], sizes: list[int]
) -> None:
    encoder, decoder, package = Encoder(), HpackDecoder(LIST_BYTES), Decoder()
    for at, (fields, huffman, sensitive) in enumerate(requests):
        encoder.header_table_size = sizes[at % len(sizes)]
        said = [NeverIndexedHeaderTuple(*field) for field in fields] if sensitive else fields
        block = encoder.encode(said, huffman=huffman)
        assert decoder.decode(block) == oracle(package, block) == fields


def test_mutations_of_blocks_are_understood_or_refused_as_by_the_package() -> None:
    dice = Random(SEED)
    understood = refused = 0
    for _ in range(1_500):
        encoder, decoder, package = Encoder(), HpackDecoder(LIST_BYTES), Decoder()
        for _ in range(8):
            block = bytearray(_block(encoder, dice))
            for _ in range(dice.choice((0, 1, 1, 2))):
                at = dice.randrange(len(block) + 1)
                block[at : at + dice.randint(0, 2)] = dice.randbytes(dice.randint(0, 2))
            fields = decoded(decoder, bytes(block))
            assert fields == oracle(package, bytes(block)), bytes(block)
            if fields is None:
                refused += 1
                break
            understood += 1
    assert understood > 800
    assert refused > 800


def _block(encoder: Encoder, dice: Random) -> bytes:
    fields = [
        (dice.choice((b":path", b"te", b"x-id")), b"%x" % dice.getrandbits(dice.choice((4, 64))))
        for _ in range(dice.randint(1, 4))
    ]
    return encoder.encode(fields, huffman=dice.random() < 0.7)


def test_the_examples_of_the_standard() -> None:
    """RFC 7541, appendix C.4: three requests, one after the other."""
    decoder = HpackDecoder(LIST_BYTES)
    start = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
    host = (b":authority", b"www.example.com")
    blocks = (
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    )
    assert [decoder.decode(bytes.fromhex(block)) for block in blocks] == [
        [*start, host],
        [*start, host, (b"cache-control", b"no-cache")],
        [
            start[0],
            (b":scheme", b"https"),
            (b":path", b"/index.html"),
            host,
            (b"custom-key", b"custom-value"),
        ],
    ]


def test_the_oldest_entries_go_when_there_is_no_room() -> None:
    decoder = HpackDecoder(LIST_BYTES)
    decoder.decode(b"\x3f\x21")  # a table of 64 bytes: room for one entry
    decoder.decode(b"\x40\x01a\x011\x40\x01b\x012")
    assert decoder.decode(b"\xbe") == [(b"b", b"2")]
    with pytest.raises(ConnectionFault):
        decoder.decode(b"\xbf")


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = HpackDecoder(LIST_BYTES)
    decoder.decode(b"\x40\x01a\x011")
    large = b"\x40\x01b\x7f" + bytes((0x80 | 5_000 - 127 & 0x7F, 5_000 - 127 >> 7)) + b"v" * 5_000
    assert decoder.decode(large) == [(b"b", b"v" * 5_000)]
    with pytest.raises(ConnectionFault):
        decoder.decode(b"\xbe")


def test_what_changes_the_table_is_told() -> None:
    decoder = HpackDecoder(LIST_BYTES)
    for block, changes in (
        (b"\x82", False),
        (b"\x00\x01a\x011", False),
        (b"\x10\x01a\x011", False),
        (b"\x40\x01a\x011", True),
        (b"\x20", True),
        (b"\x40\x01a\x011", True),  # it does not fit, but who knows
    ):
        decoder.changed = False
        decoder.decode(block)
        assert decoder.changed == changes


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xbe",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xff",
        b"\x00",
        b"\x00\x05ab",
        b"\x00\x01a",
        b"\x00\x01a\x05v",
        b"\x00\x01a\x7f",
        b"\x3f\xe2\x1f",  # 4,097 bytes
        b"\x82\x20",
        b"\x00\x01a\x81\xff",  # eight bits of padding
        b"\x00\x01a\x81\x00",  # padding of zeros
        b"\x00\x01a\x84\xff\xff\xff\xff",  # the end of a string inside
    ],
    ids=bytes.hex,
)
def test_what_is_no_block_is_a_compression_error(block: bytes) -> None:
    assert oracle(Decoder(), block) is None
    with pytest.raises(ConnectionFault) as caught:
        HpackDecoder(LIST_BYTES).decode(block)
    assert caught.value.code == h2.COMPRESSION_ERROR


def test_an_integer_is_not_read_on_for_ever() -> None:
    with pytest.raises(ConnectionFault, match="an integer of too many bytes"):
        HpackDecoder(LIST_BYTES).decode(b"\xff" + b"\xff" * 1_000 + b"\x01")


def test_a_list_over_the_bound_is_stopped() -> None:
    decoder = HpackDecoder(2 * 42)
    assert decoder.decode(b"\x82\x82") == [(b":method", b"GET")] * 2
    with pytest.raises(ConnectionFault) as caught:
        decoder.decode(b"\x82\x82\x82")
    assert caught.value.code == h2.ENHANCE_YOUR_CALM
