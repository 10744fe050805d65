"""Broken variants: the product with one rule taken away, each to be caught by the checkers.

They patch the classes for the length of a `with` block; the product knows nothing of them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from buckets.bucket_map import Mode
from tests.sim.broken.acknowledgements import (
    hint_counted,
    not_applied_unproved,
    one_majority,
    tally_across_epochs,
    untrusted_counted,
)
from tests.sim.broken.fences import (
    absent_without_fence,
    create_and_raise,
    no_epoch_check,
    no_fence,
    no_incarnations,
)
from tests.sim.broken.records import no_checksum
from tests.sim.broken.registers import (
    acceptor_forgets,
    no_operation_id,
    prepare_on_read_needs,
    refused_without_identity,
)
from tests.sim.broken.repairs import life_without_epoch, one_source, purge_unrepaired
from tests.sim.broken.sessions import no_comparison
from tests.sim.broken.settling import no_write_back, write_back_to_read_only


@dataclass(frozen=True, slots=True)
class Variant:
    """`fault`: what brings it to light soonest; empty: any. `mode`: of the keys that suffer."""

    apply: Callable[[], AbstractContextManager[None]]
    fault: str = ""
    mode: Mode = Mode.TUNABLE


VARIANTS: dict[str, Variant] = {
    "no-fence": Variant(no_fence),
    "absent-without-fence": Variant(absent_without_fence),
    "no-epoch-check-at-end": Variant(no_epoch_check),
    "no-incarnation-check": Variant(no_incarnations, "rotation"),
    "create-and-raise": Variant(create_and_raise, "rotation"),
    "no-write-back": Variant(no_write_back),
    "write-back-to-read-only": Variant(write_back_to_read_only, "half_written"),
    "no-session-comparison": Variant(no_comparison),
    "no-checksum": Variant(no_checksum),
    "untrusted-counted": Variant(untrusted_counted),
    "hint-counted": Variant(hint_counted),
    "not-applied-unproved": Variant(not_applied_unproved),
    "one-majority": Variant(one_majority),
    "one-copy-source": Variant(one_source, "missed_then_moved"),
    "purge-without-repaired-through": Variant(purge_unrepaired, "unreachable"),
    "tally-across-epochs": Variant(tally_across_epochs),
    "acceptor-forgets": Variant(acceptor_forgets, mode=Mode.LINEARIZABLE),
    "prepare-on-read-needs": Variant(prepare_on_read_needs, "half_moved", mode=Mode.LINEARIZABLE),
    "refused-without-identity": Variant(refused_without_identity, mode=Mode.LINEARIZABLE),
    "no-operation-id": Variant(no_operation_id, mode=Mode.LINEARIZABLE),
    "life-without-epoch": Variant(life_without_epoch, "new_life_in_flight"),
}
