"""Variants in which a session's token asks for nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.core import session_ops
from sidecar.core.operation import Read
from tests.sim.broken.patching import patched


@contextmanager
def no_comparison() -> Iterator[None]:
    """What is read is not compared with what the session has met."""

    def new_enough(self: object, op: Read) -> bool:
        return True

    with patched(session_ops._ReadTurn, _new_enough=new_enough):
        yield
