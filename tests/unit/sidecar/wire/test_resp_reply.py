"""Replies as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import resp_reply as resp


@given(st.text())
def test_an_error_is_always_one_line(text: str) -> None:
    reply = resp.error("ERR " + text.encode("utf-8", "replace").decode())
    assert reply.startswith(b"-ERR ")
    assert reply.endswith(b"\r\n")
    assert b"\r" not in reply[:-2]
    assert b"\n" not in reply[:-2]


def test_simple_strings_are_one_line() -> None:
    assert resp.simple("a\r\nb") == b"+a  b\r\n"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (2, b"*4\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n$1\r\nb\r\n+x\r\n"),
        (3, b"%2\r\n$1\r\na\r\n*2\r\n:1\r\n_\r\n$1\r\nb\r\n+x\r\n"),
    ],
)
def test_nested_values_follow_the_version(version: int, expected: bytes) -> None:
    assert resp.encode(version, {b"a": [1, None], b"b": "x"}) == expected


def test_text_is_verbatim_in_resp3() -> None:
    assert resp.text(2, "hi") == b"$2\r\nhi\r\n"
    assert resp.text(3, "hi") == b"=6\r\ntxt:hi\r\n"


def test_sets_are_arrays_in_resp2() -> None:
    assert resp.set_of(2, [b":1\r\n"]) == b"*1\r\n:1\r\n"
    assert resp.set_of(3, [b":1\r\n"]) == b"~1\r\n:1\r\n"


def test_a_value_without_a_form_is_refused() -> None:
    with pytest.raises(TypeError, match="float is no part of a reply"):
        resp.encode(3, 1.5)
