"""Tracebacks that pytest can print.

An exception raised by a signal handler (pytest-timeout's, say) may hit an instruction that belongs
to no line, such as a loop's jump back. Such a frame's `tb_lineno` is None (-1 in the first releases
of Python 3.11), and pytest, which counts from it, ends the whole run with an internal error instead
of reporting the test.
"""

from types import TracebackType


def number_frames(raised: BaseException) -> None:
    """Give every frame without a line, of `raised` and of what led to it, its function's first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [raised]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _numbered(one.__traceback__)
        waiting += [one.__cause__, one.__context__]


def _numbered(traceback: TracebackType | None) -> TracebackType | None:
    frames: list[TracebackType] = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    numbered: TracebackType | None = None
    for entry in reversed(frames):
        # typeshed says int; an instruction without a line says None or -1.
        line: int | None = entry.tb_lineno
        first = entry.tb_frame.f_code.co_firstlineno
        numbered = TracebackType(
            numbered,
            entry.tb_frame,
            entry.tb_lasti,
            line if line is not None and line > 0 else first,
        )
    return numbered
