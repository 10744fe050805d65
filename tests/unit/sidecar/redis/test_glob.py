"""Patterns of MATCH, beside a plain recursive matcher that only cares to be right."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.redis.glob import literal_prefix, matcher


def plain(pattern: bytes, key: bytes) -> bool:
    """* and ? alone."""
    if not pattern:
        return not key
    if pattern[:1] == b"*":
        return plain(pattern[1:], key) or bool(key and plain(pattern, key[1:]))
    return bool(key) and pattern[:1] in (b"?", key[:1]) and plain(pattern[1:], key[1:])


words = st.lists(st.sampled_from([b"a", b"b", b"\n"]), max_size=7).map(b"".join)
patterns = st.lists(st.sampled_from([b"a", b"b", b"*", b"?"]), max_size=6).map(b"".join)


@given(patterns, words)
def test_stars_and_question_marks(pattern: bytes, key: bytes) -> None:
    assert matcher(pattern)(key) == plain(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "matching", "not_matching"),
    [
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"hllo"]),
        (b"h[^e]llo", [b"hallo", b"h\nllo"], [b"hello"]),
        (b"h[a-c]llo", [b"hbllo"], [b"hdllo", b"h-llo"]),
        (b"h[c-a]llo", [b"hbllo"], [b"hdllo"]),
        (b"h[a\\]]", [b"ha", b"h]"], [b"h\\"]),
        (b"h[a", [b"ha"], [b"hb", b"h[a"]),
        (b"a\\*b", [b"a*b"], [b"axb"]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b"a[]b", [], [b"ab", b"a]b"]),
        (b"a.b", [b"a.b"], [b"axb"]),
        (b"", [b""], [b"a"]),
    ],
)
def test_classes_and_escapes(
    pattern: bytes, matching: list[bytes], not_matching: list[bytes]
) -> None:
    assert [key for key in matching if not matcher(pattern)(key)] == []
    assert [key for key in not_matching if matcher(pattern)(key)] == []


def test_the_literal_prefix_ends_before_what_is_special() -> None:
    assert literal_prefix(b"user:*") == b"user:"
    assert literal_prefix(b"us\\er") == b"us"
    assert literal_prefix(b"plain") == b"plain"


def test_a_hostile_pattern_takes_no_exponential_time() -> None:
    began = time.process_time()
    assert not matcher(b"a*" * 200 + b"b")(b"a" * 1024)
    assert time.process_time() - began < 1.0
