import pytest

from control_plane.cli.output import age_text, size_text, table
from control_plane.cli.views import bytes_view, plain, short_name, shown
from protos.dabbawala.v1 import admin_pb2, map_pb2


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_sizes_in_the_largest_unit(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("since_ms", "text"),
    [(0, "-"), (1_000_000, "0s"), (999_000, "1s"), (940_000, "1m"), (2_000_000, "0s")],
)
def test_ages_never_go_below_zero(since_ms: int, text: str) -> None:
    assert age_text(since_ms, 1_000_000) == text


def test_an_enumeration_loses_its_prefix_and_an_unknown_number_stays() -> None:
    assert short_name(map_pb2.NodeState.DESCRIPTOR, map_pb2.NODE_STATE_SUSPECT) == "SUSPECT"
    assert short_name(map_pb2.NodeState.DESCRIPTOR, 77) == "77"


def test_a_message_that_is_not_set_is_null() -> None:
    assert plain(admin_pb2.AddNodeResponse()) == {"node": None, "warnings": []}


def test_text_is_shown_as_it_is_and_control_characters_are_not() -> None:
    assert shown("पता\n".encode()) == "पता\n"
    assert shown(b"\x1b[31m") == r"b'\x1b[31m'"
    assert shown(b"\xff") == r"b'\xff'"


def test_bytes_that_are_not_text_come_twice() -> None:
    assert bytes_view("key", b"k") == {"key": "k"}
    assert bytes_view("key", b"\xff") == {"key": "\\xff", "key_base64": "/w=="}


def test_markup_of_others_is_not_interpreted() -> None:
    made = table("", ("A",), [("[red]x[/red]",)])
    (cell,) = made.columns[0].cells
    assert str(cell) == "[red]x[/red]"
