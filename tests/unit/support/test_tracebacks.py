"""A test that runs out of time is reported, wherever it was."""

from collections.abc import Callable
from types import FunctionType

from tests.support.tracebacks import number_frames

# An entry of a code object's line table: eight code units that belong to no line.
EIGHT_UNITS_WITHOUT_LINE = bytes([0x80 | 15 << 3 | 7])


def fail() -> None:
    raise RuntimeError


def without_lines(function: Callable[[], None]) -> Callable[[], None]:
    """The same function, none of whose instructions has a line, as a loop's jump back has none."""
    code = function.__code__
    units = len(code.co_code) // 2
    return FunctionType(
        code.replace(co_linetable=EIGHT_UNITS_WITHOUT_LINE * (units // 8 + 1)), globals()
    )


def raised_by(function: Callable[[], None]) -> RuntimeError:
    try:
        function()
    except RuntimeError as raised:
        return raised
    raise AssertionError


def lines(raised: BaseException) -> list[int | None]:
    found: list[int | None] = []
    traceback = raised.__traceback__
    while traceback is not None:
        found.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def test_a_frame_without_a_line_gets_that_of_its_function() -> None:
    raised = raised_by(without_lines(fail))
    at, nowhere = lines(raised)
    assert nowhere in (None, -1)
    number_frames(raised)
    assert lines(raised) == [at, fail.__code__.co_firstlineno]


def test_what_led_to_it_is_numbered_too() -> None:
    raised = raised_by(fail)
    raised.__context__ = raised_by(without_lines(fail))
    raised.__context__.__context__ = raised
    number_frames(raised)
    assert not {None, -1} & set(lines(raised.__context__))
