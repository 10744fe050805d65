"""Broken variants: the product with one rule taken away, each to be caught by the checkers.

They patch the classes for the length of a `with` block; the product knows nothing of them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.sim.broken.acknowledgements import (
    hint_counted,
    not_applied_unproved,
    one_majority,
    untrusted_counted,
)
from tests.sim.broken.fences import create_and_raise, no_epoch_check, no_fence, no_incarnations
from tests.sim.broken.records import no_checksum
from tests.sim.broken.repairs import life_without_epoch, one_source
from tests.sim.broken.sessions import no_comparison
from tests.sim.broken.settling import no_write_back, write_back_to_read_only


@dataclass(frozen=True, slots=True)
class Variant:
    """`fault`: what brings it to light soonest; empty: any."""

    apply: Callable[[], AbstractContextManager[None]]
    fault: str = ""


VARIANTS: dict[str, Variant] = {
    "no-fence": Variant(no_fence),
    "no-epoch-check-at-end": Variant(no_epoch_check),
    "no-incarnation-check": Variant(no_incarnations, "rotation"),
    "create-and-raise": Variant(create_and_raise),
    "no-write-back": Variant(no_write_back),
    "write-back-to-read-only": Variant(write_back_to_read_only),
    "no-session-comparison": Variant(no_comparison),
    "no-checksum": Variant(no_checksum),
    "untrusted-counted": Variant(untrusted_counted),
    "hint-counted": Variant(hint_counted),
    "not-applied-unproved": Variant(not_applied_unproved),
    "one-majority": Variant(one_majority),
    "one-copy-source": Variant(one_source, "missed_then_moved"),
    "life-without-epoch": Variant(life_without_epoch, "new_life_in_flight"),
}
