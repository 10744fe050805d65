"""What the leader does all the time: looks at every node, trusts new lives or takes them back.

A life that kept everything is trusted under the same incarnation. Any other is a new life and a
new epoch: an epoch without it is fenced on a majority of the owners, not counting it; its fence
is overwritten; it is repaired from that majority; and only the next epoch names it.
"""

from collections.abc import Generator
from dataclasses import replace

from buckets.bucket_map import Owner, Stage
from buckets.topology import Node, NodeState
from replicas.commands import create_fence, entry_command
from replicas.fence import Fence, Role, decode_fence
from replicas.quorum import majority
from tests.sim.controller import Answer, Answers, Ask, Controller, Job, Request
from tests.sim.jobs import (
    Place,
    begin_life,
    collect,
    copy_to,
    drop_leftovers,
    heal,
    purged_through,
    raise_fences,
    seen_by,
)
from tests.sim.moves import join_anew, move
from tests.sim.purging import maintain
from tests.sim.register_jobs import ballot_floor, pass_through
from tests.sim.rules import RULES
from tests.sim.server import KEYS
from tests.sim.store import Cursor

LOOK_EVERY_S = 0.2
LOOKS = 4  # at the store, in between

Step = Generator[Request, Answers, bool]  # False: another leads, or has changed something


def tend(controller: Controller) -> Job:
    """The leader's job."""
    store = controller.store
    raised = 0
    while True:
        if raised != store.bucket.epoch and store.bucket.stage is Stage.OLD:
            # At once, as the map says; who is not there is caught up with later.
            raised = store.bucket.epoch
            yield from raise_fences(controller, _active_owners(controller))
        revision = store.revision
        going_on = yield from _round(controller)
        if not going_on:
            return
        for _ in range(LOOKS):
            if revision == store.revision:
                yield LOOK_EVERY_S / LOOKS


def _active_owners(controller: Controller) -> dict[int, Role]:
    numbers = [owner.node for owner in controller.store.bucket.owners]
    return {number: Role.OWNER for number in numbers if _is_active(controller, number)}


def _round(controller: Controller) -> Step:
    store = controller.store
    numbers = sorted(store.map.nodes)
    answers = yield [Ask(number, entry_command(KEYS)) for number in numbers]
    lost: dict[int, bytes] = {}
    behind: dict[int, Role] = {}
    for number, answer in zip(numbers, answers, strict=True):
        if answer is None:
            continue
        judged = _judge(controller, number, answer)
        if isinstance(judged, Node):
            if judged != store.node(number) and not _commit_node(controller, judged):
                return False
            if judged.state is NodeState.SUSPECT:
                lost[number] = answer.life
        elif judged:
            behind[number] = Role.OWNER
    if store.leader != controller.name:
        return False
    if store.bucket.stage is Stage.OLD:
        return (yield from _settled_round(controller, lost, behind))
    joining = sorted(lost.keys() - {owner.node for owner in store.bucket.owners})
    if joining and store.bucket.stage is Stage.WRITE_BOTH_READ_OLD:
        return join_anew(controller, joining[0], lost[joining[0]])
    return (yield from move(controller))


def _settled_round(controller: Controller, lost: dict[int, bytes], behind: dict[int, Role]) -> Step:
    """While no move is under way."""
    cursor = controller.store.cursor
    if lost:
        number = cursor.admitting if cursor.admitting in lost else min(lost)
        return (yield from _take_back(controller, number, lost[number]))
    if behind:
        yield from raise_fences(controller, behind)
    if cursor.target and not cursor.admitting:
        return (yield from move(controller))
    return (yield from maintain(controller))


def _commit_node(controller: Controller, node: Node) -> bool:
    store = controller.store
    return store.commit(controller.name, store.revision, nodes=(node,))


def _judge(controller: Controller, number: int, answer: Answer) -> Node | bool:
    """The node as it should be; or whether its fence is behind while all else is well."""
    store = controller.store
    node, owner = store.node(number), store.owner(number)
    raw = answer.reply[0] if isinstance(answer.reply, list) else None
    fence = decode_fence(raw) if raw is not None else None
    if owner is None:
        if answer.life == node.run_id:
            return False
        return replace(node, run_id=answer.life, incarnation=node.incarnation + 1)
    if store.bucket.stage is Stage.WRITE_BOTH_READ_OLD and owner not in store.bucket.owners:
        # The move makes its fence; whatever lies there is of another time.
        good = answer.life == node.run_id
    else:
        good = _fits(fence, owner)
    if good and node.state is NodeState.ACTIVE:
        if answer.life == node.run_id:
            return fence is not None and fence.epoch < store.bucket.epoch
        if answer.life == controller.run.servers[number].complete_life:
            return replace(node, run_id=answer.life)
    return replace(node, state=NodeState.SUSPECT, reason="its data is not trusted")


def _fits(fence: Fence | None, owner: Owner) -> bool:
    if fence is None:
        return False
    lives = fence.role in (Role.OWNER, Role.JOINING)
    return lives and (fence.incarnation == owner.incarnation or not RULES.incarnations)


def _take_back(controller: Controller, number: int, life: bytes) -> Step:
    """One new life, from suspect to owner."""
    if RULES.one_life_without_epoch:
        return (yield from _take_back_within_epoch(controller, number, life))
    store = controller.store
    if store.cursor.admitting != number:
        without = replace(store.bucket, epoch=store.bucket.epoch + 1)
        node = replace(store.node(number), incarnation=store.node(number).incarnation + 1)
        cursor = replace(store.cursor, admitting=number)
        if not store.commit(
            controller.name, store.revision, bucket=without, nodes=(node,), cursor=cursor
        ):
            return False
    bucket, node, revision = store.bucket, store.node(number), store.revision
    others = {owner.node: Role.OWNER for owner in bucket.owners if owner.node != number}
    others = {each: role for each, role in others.items() if _is_active(controller, each)}
    fenced = yield from raise_fences(controller, others)
    if len(fenced) < majority(len(bucket.owners)) or revision != store.revision:
        return store.leader == controller.name
    if store.linearizable:
        restored = yield from _take_back_acceptor(controller, node, life, fenced)
    else:
        restored = yield from _restore(controller, node, life, fenced)
    if not restored:
        return store.leader == controller.name
    return _publish_life(controller, revision, replace(node, run_id=life))


def _restore(controller: Controller, node: Node, life: bytes, fenced: set[int]) -> Step:
    """Fence and records of a new life, from a majority of the others."""
    number, bucket = node.number, controller.store.bucket
    place = Place(number, bucket.epoch, node.incarnation, life)
    purged = yield from purged_through(controller, fenced)
    if purged is None:
        return False
    began = yield from begin_life(
        controller, number, incarnation=node.incarnation, life=life, purged=purged
    )
    seen = yield from seen_by([place])
    records = yield from collect(controller, sorted(fenced), majority(len(bucket.owners)))
    if not began or records is None or number not in seen:
        return False
    copied = yield from copy_to(place, records, seen[number])
    if copied:
        yield from drop_leftovers(place, records)
    return copied


def _take_back_acceptor(controller: Controller, node: Node, life: bytes, fenced: set[int]) -> Step:
    """An acceptor that may have forgotten promises: a floor above them, and every key through an
    identity change by a majority of the others.
    """
    store, number = controller.store, node.number
    place = Place(number, store.bucket.epoch, node.incarnation, life)
    floor = yield from ballot_floor(controller, number, life)
    purged = yield from purged_through(controller, fenced)
    if floor is None or purged is None:
        return False
    began = yield from begin_life(
        controller, number, incarnation=node.incarnation, life=life, purged=purged, floor=floor
    )
    if not began:
        return False
    need = majority(len(store.bucket.owners))
    keys = yield from pass_through(controller, sorted(fenced), need, [(fenced, need)])
    if keys is None:
        return False
    yield from drop_leftovers(place, keys)
    return True


def _publish_life(controller: Controller, revision: int, node: Node) -> bool:
    store = controller.store
    bucket = store.bucket
    owners = tuple(
        Owner(owner.node, node.incarnation) if owner.node == node.number else owner
        for owner in bucket.owners
    )
    return store.commit(
        controller.name,
        revision,
        bucket=replace(bucket, epoch=bucket.epoch + 1, owners=owners),
        nodes=(replace(node, state=NodeState.ACTIVE, reason=""),),
        cursor=replace(store.cursor, admitting=0),
    )


def _is_active(controller: Controller, number: int) -> bool:
    return controller.store.node(number).state is NodeState.ACTIVE


def _take_back_within_epoch(controller: Controller, number: int, life: bytes) -> Step:
    """What must not be done: repaired, and trusted again as if it had never been away."""
    store = controller.store
    owner, revision = store.owner(number), store.revision
    if owner is None:
        return True
    others = [each.node for each in store.bucket.owners if each.node != number]
    fence = Fence(store.bucket.epoch, store.bucket.stage, Role.OWNER, owner.incarnation)
    yield [Ask(number, create_fence(KEYS, fence.encode(), store.entry()), life)]
    records = yield from collect(controller, others, majority(len(store.bucket.owners)))
    if records is None:
        return store.leader == controller.name
    place = Place(number, store.bucket.epoch, owner.incarnation, life)
    copied = yield from heal(place, records)
    if not copied:
        return store.leader == controller.name
    node = replace(store.node(number), run_id=life, state=NodeState.ACTIVE, reason="")
    return store.commit(controller.name, revision, nodes=(node,), cursor=Cursor())
