"""HPACK for a server's ears (RFC 7541): header blocks to fields.

Needed where looking a block up is no use: a client that says something new with every call, a
deadline or an id, sends no block twice. The `hpack` package takes seven times as long; its tables
are used here, and it is the oracle of the tests.
"""

from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

from sidecar.wire.http2_frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

Field = tuple[bytes, bytes]

TABLE_BYTES: Final = 4_096  # the largest table that a client may ask for
_ENTRY_BYTES: Final = 32  # counted for each entry beside its name and value
_STATIC: Final[tuple[Field, ...]] = HeaderTable.STATIC_TABLE
_FIRST_DYNAMIC: Final = len(_STATIC) + 1
_END_OF_STRING: Final = 256
_MOST_SHIFT: Final = 28  # of an integer's last seven bits


class HpackDecoder:
    """One connection's. `changed` is set when a block has changed the table."""

    __slots__ = ("_entries", "_held_bytes", "_max_list_bytes", "_table_bytes", "changed")

    def __init__(self, max_list_bytes: int) -> None:
        self.changed = False
        self._max_list_bytes = max_list_bytes
        self._table_bytes = TABLE_BYTES
        self._entries: list[Field] = []  # the newest last
        self._held_bytes = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block, in order; raises ConnectionFault, and the table is then lost."""
        try:
            return self._decode(block)
        except IndexError as fault:
            raise _wrong("it ends in the middle of a field, or names an unknown entry") from fault

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        room = self._max_list_bytes
        at, end = 0, len(block)
        while at < end:
            first = block[at]
            at += 1
            if first & 0x80:
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, index)
                field = self._entry(index)
            elif first & 0x60 == 0x20:
                if fields:
                    raise _wrong("the table's size changes behind a field")
                at = self._resize(block, at, first & 0x1F)
                continue
            else:
                mask = 0x3F if first & 0x40 else 0x0F
                index = first & mask
                if index == mask:
                    index, at = _integer(block, at, index)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                field = name, value
                if first & 0x40:
                    self._add(field)
            fields.append(field)
            room -= len(field[0]) + len(field[1]) + _ENTRY_BYTES
            if room < 0:
                text = f"a header list of more than {self._max_list_bytes} bytes"
                raise ConnectionFault(ENHANCE_YOUR_CALM, text)
        return fields

    def _entry(self, index: int) -> Field:
        if index >= _FIRST_DYNAMIC:
            return self._entries[_FIRST_DYNAMIC - 1 - index]
        if not index:
            raise _wrong("it names entry 0")
        return _STATIC[index - 1]

    def _resize(self, block: bytes, at: int, size: int) -> int:
        if size == 0x1F:
            size, at = _integer(block, at, size)
        if size > TABLE_BYTES:
            raise _wrong(f"a table of {size} bytes, over {TABLE_BYTES}")
        self._table_bytes = size
        self._evict()
        self.changed = True
        return at

    def _add(self, field: Field) -> None:
        """An entry larger than the table empties it."""
        self._entries.append(field)
        self._held_bytes += len(field[0]) + len(field[1]) + _ENTRY_BYTES
        self._evict()
        self.changed = True

    def _evict(self) -> None:
        entries, oldest = self._entries, 0
        while self._held_bytes > self._table_bytes:
            name, value = entries[oldest]
            self._held_bytes -= len(name) + len(value) + _ENTRY_BYTES
            oldest += 1
        del entries[:oldest]


def _wrong(text: str) -> ConnectionFault:
    return ConnectionFault(COMPRESSION_ERROR, f"header block: {text}")


def _integer(block: bytes, at: int, number: int) -> tuple[int, int]:
    """An integer whose prefix is full, and where it ends."""
    shift = 0
    while True:
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > _MOST_SHIFT:
            raise _wrong("an integer of too many bytes")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    first = block[at]
    at += 1
    size = first & 0x7F
    if size == 0x7F:
        size, at = _integer(block, at, size)
    end = at + size
    if end > len(block):
        raise _wrong("it ends in the middle of a string")
    text = block[at:end]
    return (_decode_huffman(text), end) if first & 0x80 else (text, end)


# --- Huffman: the code's tree, walked a byte at a time.


def _code_tree() -> list[list[int]]:
    """Its inner nodes, the root first: the child for 0 and for 1, or ~symbol for a leaf."""
    tree = [[0, 0]]
    for symbol, (code, bits) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for place in range(bits - 1, 0, -1):
            bit = code >> place & 1
            if not tree[node][bit]:
                tree[node][bit] = len(tree)
                tree.append([0, 0])
            node = tree[node][bit]
        tree[node][code & 1] = ~symbol
    return tree


_TREE: Final = _code_tree()
_STEPS: Final[dict[int, tuple[int, bytes]]] = {}  # by node and byte; 65,536 at most


def _padded_ends() -> frozenset[int]:
    """Where a string may end: less than eight bits into the code that is all ones."""
    nodes = [0]
    for _ in range(7):
        nodes.append(_TREE[nodes[-1]][1])
    return frozenset(nodes)


_ENDS: Final = _padded_ends()


def _decode_huffman(text: bytes) -> bytes:
    node = 0
    decoded: list[bytes] = []
    steps = _STEPS
    for byte in text:
        place = node << 8 | byte
        step = steps.get(place)
        if step is None:
            step = steps[place] = _walk(node, byte)
        node, found = step
        decoded.append(found)
    if node not in _ENDS:
        raise _wrong("a string that is padded wrongly")
    return b"".join(decoded)


def _walk(node: int, byte: int) -> tuple[int, bytes]:
    """Where eight bits lead from a node, and the symbols on the way."""
    found = bytearray()
    for place in range(7, -1, -1):
        child = _TREE[node][byte >> place & 1]
        if child < 0:
            if ~child == _END_OF_STRING:
                raise _wrong("a string with the code for its end inside")
            found.append(~child)
            child = 0
        node = child
    return node, bytes(found)
