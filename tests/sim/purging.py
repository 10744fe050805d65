"""What the leader does to a bucket that is well: makes its owners equal, and takes away tombstones
that all of them have, in the order that replicas.purge gives. Every step needs every owner.
"""

from collections.abc import Generator

from buckets.bucket_map import Stage
from buckets.topology import NodeState
from replicas.commands import TIME
from replicas.digest import Difference, differences
from replicas.purge import (
    Purged,
    PurgeStep,
    What,
    parse_purge,
    purge_bound,
    purge_command,
    purging,
)
from replicas.quorum import majority
from replicas.record import decode_record
from replicas.version import physical_ms
from sidecar.core.hints import ONLY_COPY
from tests.sim.controller import Answers, Ask, Controller, Request
from tests.sim.jobs import Place, copy_to, heal, listing, places_of, read_records, seen_by
from tests.sim.register_jobs import pass_key
from tests.sim.rules import RULES
from tests.sim.server import KEYS
from tests.sim.store import Cursor

GRACE_MS = 150
SETTLED_MS = 60  # what is younger may be on its way
MAX_PASSES = 3
SHARE_OF_ROUNDS = 0.25  # jobs come seldom, or nothing would ever differ

Step = Generator[Request, Answers, bool]
Places = list[Place]


def maintain(controller: Controller) -> Step:
    """A purge below what the last repair found to be equal, and the next repair; whether this
    leader goes on.
    """
    store = controller.store
    quiet = store.bucket.stage is Stage.OLD and store.cursor == Cursor()
    owners = [owner.node for owner in store.bucket.owners]
    well = all(store.node(number).state is NodeState.ACTIVE for number in owners)
    if not quiet or not well or controller.rng.random() >= SHARE_OF_ROUNDS:
        return True
    places = places_of(controller, owners)
    now_ms = yield from _lowest_clock(places)
    if now_ms:
        yield from _purge(controller, places, now_ms)
        through_ms = now_ms - SETTLED_MS
        if (yield from _equalize(controller, places, through_ms)):
            store.repaired_ms = max(store.repaired_ms, through_ms)
    return store.leader == controller.name


def _lowest_clock(places: Places) -> Generator[Request, Answers, int]:
    """Unix milliseconds; 0: not all answered."""
    answers = yield [Ask(place.node, TIME, place.life) for place in places]
    times = []
    for answer in answers:
        if answer is None or not isinstance(answer.reply, list):
            return 0
        seconds, micros = answer.reply
        times.append(int(seconds) * 1000 + int(micros) // 1000)
    return min(times)


# --- equal


def _equalize(controller: Controller, places: Places, through_ms: int) -> Step:
    """Whether the owners were found equal up to that time, after what that took."""
    for _ in range(MAX_PASSES):
        seen = yield from seen_by(places)
        listings = []
        for place in places:
            held = yield from listing(place)
            if held is None or place.node not in seen:
                return False
            listings.append(held)
        found = [
            each
            for each in differences(listings)
            if not each.best or physical_ms(each.best[:16]) <= through_ms
        ]
        if not found:
            return True
        for difference in found:
            yield from _mend(controller, places, seen, difference)
    return False


def _mend(
    controller: Controller, places: Places, seen: dict[int, bytes], difference: Difference
) -> Generator[Request, Answers, None]:
    key = difference.field[1:]
    if controller.store.linearizable:
        # Not a majority: everyone, so that nobody is left with what came before.
        numbers = {place.node for place in places}
        yield from pass_key(controller, key, [(numbers, len(numbers))])
        return
    if not difference.holders:
        return
    records = yield from read_records(places[difference.holders[0]], [key])
    if not records:
        return
    for at in difference.behind:
        yield from copy_to(places[at], records, seen[places[at].node])
    if len(places) - len(difference.corrupt) >= majority(len(places)):
        for at in difference.corrupt:
            yield from heal(places[at], records)


# --- purge


def _purge(
    controller: Controller, places: Places, now_ms: int
) -> Generator[Request, Answers, None]:
    """As the product's own generator says; what can not be done on all owners ends it."""
    store = controller.store
    repaired_ms = now_ms if RULES.purge_unrepaired else store.repaired_ms
    bound = purge_bound(repaired_ms, now_ms, GRACE_MS, _hints_ms(controller))
    steps = purging(bound)
    seen: Purged | None = None
    try:
        what = next(steps)
        while True:
            if what is What.EQUALIZE:
                equal = RULES.purge_unrepaired
                equal = equal or (yield from _equalize(controller, places, physical_ms(bound)))
                if not equal:
                    return
                what = steps.send(None)
                continue
            seen = yield from _on_all(controller, places, what, bound)
            if seen is None:
                return
            what = steps.send(seen)
    except StopIteration as end:
        store.changes["tombstones purged"] += end.value.purged


def _hints_ms(controller: Controller) -> list[int]:
    """Of the writes that stand in hint logs alone, as sidecars report them."""
    records = (
        decode_record(hint.record)
        for sidecar in controller.run.sidecars
        for hint in sidecar.hints.stored
        if hint.node == ONLY_COPY
    )
    return [physical_ms(record.version) for record in records if record is not None]


def _on_all(
    controller: Controller, places: Places, what: What, bound: bytes
) -> Generator[Request, Answers, Purged | None]:
    """One step on every owner, and the sum of what they saw; None: not all did it."""
    if what is What.DROP:
        history = controller.run.history
        history.purged.append((history.next_step(), bound))
    answers = yield [Ask(place.node, _command(place, what, bound), place.life) for place in places]
    total = Purged()
    for answer in answers:
        step = parse_purge(answer.reply) if answer is not None else None
        if not isinstance(step, PurgeStep):
            return None
        total.add(step.seen)
    return total


def _command(place: Place, what: What, bound: bytes) -> bytes:
    return purge_command(
        KEYS,
        place.epoch,
        place.incarnation,
        what=what,
        bound=bound,
        grace_ms=GRACE_MS,
        count=1000,
    )
