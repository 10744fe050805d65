"""A change of owners in four stages, each step repeatable, each stage fenced before the next.

One call makes as much progress as it can and returns; the stage and what is complete stand in the
store, so that the next leader goes on where this one died.
"""

from collections.abc import Callable, Generator
from dataclasses import replace

from buckets.bucket_map import Bucket, Owner, Stage
from buckets.topology import Node, NodeState
from replicas.fence import Role
from replicas.quorum import majority
from tests.sim.controller import Answers, Controller, Request
from tests.sim.jobs import (
    begin_life,
    collect,
    copy_to,
    drop_leftovers,
    heal,
    places_of,
    purged_through,
    raise_fences,
    release,
    seen_by,
)
from tests.sim.register_jobs import pass_through
from tests.sim.rules import RULES
from tests.sim.store import Cursor

Step = Generator[Request, Answers, bool]  # False: another leads, or has changed something


def move(controller: Controller) -> Step:
    """One stage further, if it can be."""
    store = controller.store
    stage = store.bucket.stage
    if stage is Stage.OLD:
        return _begin(controller)
    return (yield from _STEPS[stage](controller))


def _begin(controller: Controller) -> bool:
    """OLD -> WRITE_BOTH_READ_OLD: pending owners in incarnations of their own."""
    store = controller.store
    bucket, target = store.bucket, store.cursor.target
    members = {owner.node for owner in bucket.owners} | set(target)
    if any(store.node(number).state is not NodeState.ACTIVE for number in members):
        return True
    old = {owner.node: owner for owner in bucket.owners}
    joining = [_older(store.node(number)) for number in target if number not in old]
    by_number = {node.number: Owner(node.number, node.incarnation) for node in joining}
    pending = tuple(old.get(number) or by_number[number] for number in target)
    if not joining and len(target) == len(old):
        return store.commit(controller.name, store.revision, cursor=Cursor())
    next_bucket = replace(
        bucket, epoch=bucket.epoch + 1, stage=Stage.WRITE_BOTH_READ_OLD, pending=pending
    )
    return store.commit(controller.name, store.revision, bucket=next_bucket, nodes=tuple(joining))


def _older(node: Node) -> Node:
    return replace(node, incarnation=node.incarnation + 1)


def _sets(bucket: Bucket) -> tuple[set[int], set[int]]:
    return {owner.node for owner in bucket.owners}, {owner.node for owner in bucket.pending}


def _most(members: set[int], of: set[int]) -> bool:
    return len(members & of) >= majority(len(of))


def _read_old(controller: Controller) -> Step:
    """WRITE_BOTH_READ_OLD -> WRITE_BOTH_READ_NEW: fence, then copy to every new owner."""
    store = controller.store
    bucket, revision = store.bucket, store.revision
    old, new = _sets(bucket)
    fenced = yield from raise_fences(controller, _trusted(controller, old))
    if not _most(fenced, old):
        return store.leader == controller.name
    fresh = new - old - store.cursor.begun
    if fresh:  # written down before it is done
        cursor = replace(store.cursor, begun=store.cursor.begun | fresh)
        if not store.commit(controller.name, revision, cursor=cursor):
            return False
        revision = store.revision
    begun = fenced & new
    purged = yield from purged_through(controller, fenced)
    if purged is None:
        return store.leader == controller.name
    for owner in bucket.pending:
        if owner.node in old or not _trusted(controller, {owner.node}):
            continue
        began = yield from begin_life(
            controller,
            owner.node,
            incarnation=owner.incarnation,
            life=store.node(owner.node).run_id,
            may_create=owner.node in fresh,
            purged=purged,
        )
        if began is None:
            return join_anew(controller, owner.node, store.node(owner.node).run_id)
        if began:
            begun.add(owner.node)
    complete = yield from _copy(controller, fenced, begun, len(old))
    if not _most(complete, new):
        return store.leader == controller.name
    cursor = replace(store.cursor, complete=frozenset(complete))
    return _next_stage(controller, revision, Stage.WRITE_BOTH_READ_NEW, cursor)


def join_anew(controller: Controller, number: int, life: bytes) -> bool:
    """A joining owner's fence is gone, or its data: a new life, so a new epoch, lest anything that
    it acknowledged before be added to what comes.
    """
    store = controller.store
    bucket = store.bucket
    node = replace(_older(store.node(number)), run_id=life, state=NodeState.ACTIVE, reason="")
    pending = tuple(
        Owner(number, node.incarnation) if owner.node == number else owner
        for owner in bucket.pending
    )
    return store.commit(
        controller.name,
        store.revision,
        bucket=replace(bucket, epoch=bucket.epoch + 1, pending=pending),
        nodes=(node,),
        cursor=replace(store.cursor, begun=store.cursor.begun - {number}),
    )


def _copy(
    controller: Controller, fenced: set[int], targets: set[int], old: int
) -> Generator[Request, Answers, set[int]]:
    """The version-maximum of the fenced majority of old, to each target; who holds it all."""
    store = controller.store
    if store.linearizable:
        return (yield from _pass_through(controller, fenced, targets, old))
    sources = sorted(fenced)
    if RULES.sources:
        sources = controller.rng.sample(sources, RULES.sources)
    places = places_of(controller, targets)
    seen = yield from seen_by(places)
    records = yield from collect(controller, sources, RULES.sources or majority(old))
    complete: set[int] = set()
    if records is None:
        return complete
    for place in places:
        if place.node in seen and (yield from copy_to(place, records, seen[place.node])):
            complete.add(place.node)
            yield from drop_leftovers(place, records)
    return complete


def _pass_through(
    controller: Controller, fenced: set[int], targets: set[int], old: int
) -> Generator[Request, Answers, set[int]]:
    """Of linearizable keys: what is chosen is on a majority of old and on one of new."""
    pending = len(controller.store.bucket.pending)
    new = targets | controller.store.cursor.complete
    majorities = [(fenced, majority(old)), (new, majority(pending))]
    places = places_of(controller, targets)
    keys = yield from pass_through(controller, sorted(fenced), majority(old), majorities)
    if keys is None:
        return set()
    for place in places:
        yield from drop_leftovers(place, keys)
    return targets


def _read_new(controller: Controller) -> Step:
    """WRITE_BOTH_READ_NEW -> NEW, once every new owner is complete."""
    store = controller.store
    bucket, revision = store.bucket, store.revision
    old, new = _sets(bucket)
    complete = set(store.cursor.complete)
    roles = _trusted(controller, old | new)
    for number in new - complete - old:
        if number in roles:
            roles[number] = Role.JOINING
    fenced = yield from raise_fences(controller, roles)
    if not _most(fenced, old) or not _most(fenced, new):
        return store.leader == controller.name
    if new - complete:
        more = yield from _copy(controller, fenced & old, (fenced & new) - complete, len(old))
        if not more or revision != store.revision:
            return store.leader == controller.name
        cursor = replace(store.cursor, complete=frozenset(complete | more))
        # Another epoch, since a fence is raised to another role only with its epoch.
        return _next_stage(controller, revision, Stage.WRITE_BOTH_READ_NEW, cursor)
    return _next_stage(controller, revision, Stage.NEW, store.cursor)


def _new(controller: Controller) -> Step:
    """NEW -> OLD with the new owners: what only a released owner holds is merged first."""
    store = controller.store
    bucket, revision = store.bucket, store.revision
    old, new = _sets(bucket)
    fenced = yield from raise_fences(controller, _trusted(controller, new))
    if not _most(fenced, new):
        return store.leader == controller.name
    for number in sorted(old - new):
        records = None
        if not store.linearizable:  # what is chosen stands with a majority of the new ones
            records = yield from collect(controller, [number], 1)
        for place in places_of(controller, fenced) if records else ():
            yield from heal(place, records or {})
        yield from release(controller, number)
    if revision != store.revision:
        return store.leader == controller.name
    settled = replace(
        bucket, epoch=bucket.epoch + 1, stage=Stage.OLD, owners=bucket.pending, pending=()
    )
    return store.commit(controller.name, revision, bucket=settled, cursor=Cursor())


def _trusted(controller: Controller, numbers: set[int]) -> dict[int, Role]:
    store = controller.store
    return {
        number: Role.OWNER
        for number in sorted(numbers)
        if store.node(number).state is NodeState.ACTIVE
    }


def _next_stage(controller: Controller, revision: int, stage: Stage, cursor: Cursor) -> bool:
    store = controller.store
    bucket = replace(store.bucket, epoch=store.bucket.epoch + 1, stage=stage)
    return store.commit(controller.name, revision, bucket=bucket, cursor=cursor)


_STEPS: dict[Stage, Callable[[Controller], Step]] = {
    Stage.WRITE_BOTH_READ_OLD: _read_old,
    Stage.WRITE_BOTH_READ_NEW: _read_new,
    Stage.NEW: _new,
}
