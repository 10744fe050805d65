"""Variants of the control plane's jobs."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.sim.broken.patching import patched
from tests.sim.rules import RULES


@contextmanager
def life_without_epoch() -> Iterator[None]:
    """A new life is repaired and trusted again within the epoch of the former one."""
    with patched(RULES, one_life_without_epoch=True):
        yield


@contextmanager
def purge_unrepaired() -> Iterator[None]:
    """Tombstones are purged once they are old, whoever lacks them."""
    with patched(RULES, purge_unrepaired=True):
        yield


@contextmanager
def one_source() -> Iterator[None]:
    """A move copies from one owner."""
    with patched(RULES, sources=1):
        yield
