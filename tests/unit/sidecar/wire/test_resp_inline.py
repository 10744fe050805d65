"""Lines of words as commands: redis-cli's quoting."""

import pytest

from sidecar.wire.resp_inline import UnbalancedQuotesError, split_inline
from sidecar.wire.resp_parser import RequestParser


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"PING\r", [b"PING"]),
        (b"  SET  a   b ", [b"SET", b"a", b"b"]),
        (b'SET a "b c"', [b"SET", b"a", b"b c"]),
        (b"SET a 'b \\' c'", [b"SET", b"a", b"b ' c"]),
        (rb'SET "\x41\n\t\q\x4" ""', [b"SET", b"A\n\tqx4", b""]),
        (b"", []),
        (b" \r", []),
    ],
)
def test_words_are_split_as_redis_does(line: bytes, words: list[bytes]) -> None:
    assert split_inline(line) == words


@pytest.mark.parametrize("line", [b'"', b"'a", b'"a"b', b'"a\\'])
def test_unbalanced_quotes_are_refused(line: bytes) -> None:
    with pytest.raises(UnbalancedQuotesError):
        split_inline(line)


def test_inline_commands_are_taken_when_configured() -> None:
    parser = RequestParser(inline=True)
    assert parser.feed(b"PING\r\nGET a\n*1\r\n$4\r\nQUIT\r\n") == [
        [b"PING"],
        [b"GET", b"a"],
        [b"QUIT"],
    ]
    parser.feed(b'GET "a\r\n')
    assert parser.error == "Protocol error: unbalanced quotes in request"


def test_an_endless_inline_line_is_refused() -> None:
    parser = RequestParser(inline=True)
    for _ in range(70):
        parser.feed(b"a" * 1024)
    assert parser.error == "Protocol error: too big inline request"
