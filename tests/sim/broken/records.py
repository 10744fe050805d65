"""Variants in which records are believed as they are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

import replicas.fake
import sidecar.core.read
from replicas.record import HEADER_BYTES, Record, decode_record
from tests.sim.broken.patching import patched

_READERS: tuple[ModuleType, ...] = (replicas.fake, sidecar.core.read)


@contextmanager
def no_checksum() -> Iterator[None]:
    """Neither replicas nor readers verify a record."""

    def believed(raw: bytes) -> Record | None:
        return decode_record(raw) or (
            Record(raw[8:24], 0, 0, raw[HEADER_BYTES:], raw) if len(raw) >= HEADER_BYTES else None
        )

    with ExitStack() as stack:
        for module in _READERS:
            stack.enter_context(patched(module, decode_record=believed))
        yield
