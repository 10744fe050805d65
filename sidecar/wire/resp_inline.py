"""A line of words as a request, with the quoting rules of redis-cli. Off unless configured."""

_ESCAPES = {0x6E: 0x0A, 0x72: 0x0D, 0x74: 0x09, 0x62: 0x08, 0x61: 0x07}
_HEXADECIMAL = b"0123456789abcdefABCDEF"
_SPACE = b" \t\r\n\v\f\0"
_DOUBLE, _SINGLE, _BACKSLASH = 0x22, 0x27, 0x5C


class UnbalancedQuotesError(ValueError):
    """A quote was not closed, or something followed a closing quote without a space."""


def split_inline(line: bytes) -> list[bytes]:
    """The words of `line`; quotes keep spaces, and double quotes know escapes."""
    words: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _SPACE:
            at += 1
        if at >= len(line):
            return words
        word, at = _word(line, at)
        words.append(word)


def _word(line: bytes, at: int) -> tuple[bytes, int]:
    word = bytearray()
    while at < len(line) and line[at] not in _SPACE:
        quote = line[at]
        if quote not in (_DOUBLE, _SINGLE):
            word.append(quote)
            at += 1
            continue
        at = _quoted(line, at + 1, quote, word)
        if at < len(line) and line[at] not in _SPACE:
            raise UnbalancedQuotesError
    return bytes(word), at


def _quoted(line: bytes, at: int, quote: int, word: bytearray) -> int:
    """Append what stands before the closing `quote`; return the place after it."""
    while at < len(line):
        byte = line[at]
        if byte == quote:
            return at + 1
        if byte == _BACKSLASH and quote == _DOUBLE:
            at = _escape(line, at + 1, word)
        elif byte == _BACKSLASH and line[at + 1 : at + 2] == b"'":
            word.append(_SINGLE)
            at += 2
        else:
            word.append(byte)
            at += 1
    raise UnbalancedQuotesError


def _escape(line: bytes, at: int, word: bytearray) -> int:
    if at >= len(line):
        raise UnbalancedQuotesError
    digits = line[at + 1 : at + 3]
    if line[at] == 0x78 and len(digits) == 2 and all(digit in _HEXADECIMAL for digit in digits):
        word.append(int(digits, 16))
        return at + 3
    word.append(_ESCAPES.get(line[at], line[at]))
    return at + 1
