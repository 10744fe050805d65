"""Carrying out an admission: epochs through the store, fences and records on the replicas.

Every step is decided from the map as it is (admission.py) and is safe to repeat, so the control
plane may die after any of them. One range of buckets is worked on at a time.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from buckets.bucket_map import RANGE_BUCKETS, Bucket, Mode, Stage
from buckets.topology import Node
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.leading import Term
from control_plane.controllers.probing import Probes
from control_plane.controllers.records import encode_node_record
from control_plane.controllers.sight import cluster_mark
from control_plane.coordination.errors import Conflict
from control_plane.coordination.store import Put
from control_plane.jobs.admission import (
    Outlook,
    Standing,
    Target,
    Unit,
    concerned,
    joins,
    needed,
    next_incarnation,
    others,
    outlook,
    trusted_nodes,
    with_again,
    without,
)
from control_plane.jobs.equalizing import Findings, Terms, equalize
from control_plane.jobs.fencing import Raised, fence_change, publish, raise_owners
from control_plane.jobs.job import DONE, Job, JobLedger, JobRecord, now_ms
from control_plane.jobs.node_links import NodeLinks
from control_plane.jobs.passing import Quorum, new_ballots, pass_bucket
from control_plane.jobs.repair import repaired_path, repaired_through
from replicas.bucket_copy import Copy, Pace, StepRefused
from replicas.client import FenceChange, ReplicaClient, StoredFence
from replicas.commands import pack_command, pack_limits
from replicas.digest import overwrite_fence
from replicas.errors import ReplicaError
from replicas.fence import Fence, Role
from replicas.identity import Identity
from replicas.layout import IDENTITY_KEY, bucket_keys
from replicas.passage import ballot_floor
from replicas.replies import Code, parse_refusal
from replicas.scripts import SCRIPTS
from replicas.version import ZERO_VERSION

BUCKETS_AT_ONCE: Final = 4
MOST_PASSES: Final = 4
SETTLED_MS: Final = 2_000
_log = structlog.get_logger(part="admission")


class Interrupted(Exception):
    """A step could not be done now; the next turn looks at the map again."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The highest of what a majority of the owners refuses, and the ballot floor of an acceptor
    that forgot what it promised; as in a fence.
    """

    purged_through: bytes = ZERO_VERSION
    closed_through: bytes = ZERO_VERSION
    ballot_floor: bytes = ZERO_VERSION


class AdmissionJob(Job):
    """Takes one node back. `blocked` says what is in the way, in words."""

    def __init__(
        self, term: Term, ledger: JobLedger, links: NodeLinks, probes: Probes, record: JobRecord
    ) -> None:
        self.record = record
        self.blocked = ""
        self._term = term
        self._ledger = ledger
        self._links = links
        self._probes = probes
        self._ballots = new_ballots()
        self._named: Target | None = None  # who the server says that it is

    async def run_once(self) -> bool:
        """One range by one step, or the end. False: it waits for something, or is over."""
        try:
            return await self._step()
        except Conflict:
            await self._term.read_again()
            return True
        except StepRefused as error:
            await self._term.read_again()
            self._block(str(error))
        except (Interrupted, ReplicaError) as error:
            self._block(str(error))
        return False

    async def _step(self) -> bool:
        state = self._term.state
        stored = state.nodes.get(self.record.node)
        if stored is None or (stored.record.trusted and not joins(state, stored.node.number)):
            return await self._finish()
        target = await self._target(state, stored.node)
        trusted = trusted_nodes(state, self._probes.sights)
        seen = outlook(
            state,
            target,
            trusted,
            accept_loss=self.record.accept_loss,
            joining_only=stored.record.trusted,  # it came back with its data after all
        )
        self._note(seen)
        if seen.unit is not None:
            return await self._work(state, target, seen.unit, trusted)
        if seen.blocked:
            self._block(seen.blocked[0])
            return False
        return await self._admit(state, target)

    # --- which life

    async def _target(self, state: ClusterState, node: Node) -> Target:
        """The life to admit; another one than before if the server has restarted meanwhile."""
        client = await self._links.open(node)
        run_id, record = client.server.run_id, self.record
        if record.run_id != run_id.hex():
            await self._next_life(state, node, run_id)
        target = Target(node.number, node.id, run_id, record.incarnation)
        if self._named != target:  # early, so that it has been seen once all buckets are back
            await _identify(client, self._identity(state, target))
            self._named = target
        return target

    async def _next_life(self, state: ClusterState, node: Node, run_id: bytes) -> None:
        highest = max(self.record.incarnation + 1, next_incarnation(state, node.number))
        self.record.run_id, self.record.incarnation = run_id.hex(), highest
        self.record.passed.clear()
        await self._save()
        _log.info("a new life is admitted", node=node.id, incarnation=highest)

    # --- one range

    async def _work(
        self, state: ClusterState, target: Target, unit: Unit, trusted: Iterable[int]
    ) -> bool:
        stored = state.keyspaces[unit.keyspace]
        buckets = [stored.keyspace.buckets[number] for number in unit.buckets]
        if unit.standing is Standing.LOST:
            without_it = [without(bucket, target) for bucket in buckets]
            await publish(self._term, state, unit.keyspace, unit.index, without_it)
            return True
        fenced = await self._fence_others(state, stored, buckets, target, set(trusted))
        buckets = [b for b in buckets if self._enough(b, target, fenced[b.id])]
        if not buckets:
            raise Interrupted("too few of the other owners could be fenced")
        await self._fence_joining(state, stored, buckets, target, fenced)
        limit = asyncio.Semaphore(BUCKETS_AT_ONCE)

        async def repair(bucket: Bucket) -> None:
            cursor = f"{unit.keyspace}/{bucket.id}@{bucket.epoch}.{target.incarnation}"
            async with limit:
                if cursor not in self.record.passed:
                    await self._repair(state, stored, bucket, target, fenced[bucket.id])
                    self.record.passed.append(cursor)
                    await self._save()

        repairs = [asyncio.ensure_future(repair(bucket)) for bucket in buckets]
        try:
            await asyncio.gather(*repairs)
        finally:  # what one of them ends, ends for all: nothing goes on behind the job's back
            for each in repairs:
                each.cancel()
            await asyncio.gather(*repairs, return_exceptions=True)
        admitted = [with_again(bucket, target) for bucket in buckets]
        state = await publish(self._term, state, unit.keyspace, unit.index, admitted)
        stored = state.keyspaces[unit.keyspace]
        await self._fence_others(state, stored, admitted, target, set(trusted))
        await self._own(state, stored, admitted, target)
        self.record.passed.clear()
        await self._save()
        return True

    def _enough(self, bucket: Bucket, target: Target, fenced: dict[int, Fence]) -> bool:
        return self.record.accept_loss or len(fenced) >= needed(bucket, target)

    # --- fences

    async def _fence_others(
        self,
        state: ClusterState,
        stored: StoredKeyspace,
        buckets: Sequence[Bucket],
        target: Target,
        trusted: set[int],
    ) -> Raised:
        """Raise the other owners' fences; for each bucket the fences of those that were raised."""
        owners = [
            (bucket, owner)
            for bucket in buckets
            for owner in others(bucket, target)
            if owner.node in trusted
        ]
        return await raise_owners(self._links, state, stored, owners)

    async def _fence_joining(
        self,
        state: ClusterState,
        stored: StoredKeyspace,
        buckets: Sequence[Bucket],
        target: Target,
        fenced: Raised,
    ) -> None:
        """Give the lost replica its fence of the next incarnation: it takes writes, and joins."""
        client = await self._own_client(state, target)
        changes = []
        for bucket in buckets:
            bounds = _bounds(fenced[bucket.id].values())
            if stored.settings.mode is Mode.LINEARIZABLE:
                floor = await self._ballot_floor(state, stored, bucket, target, fenced[bucket.id])
                bounds = replace(bounds, ballot_floor=floor)
            fence = Fence(
                bucket.epoch,
                Stage.OLD,
                Role.JOINING,
                target.incarnation,
                bounds.purged_through,
                bounds.closed_through,
                bounds.ballot_floor,
            )
            changes.append(fence_change(state, stored, bucket, fence))
        stands = await client.read_fences([change.keys for change in changes])
        for change, now in zip(changes, stands, strict=True):
            await _set_fence(client, change, now)

    async def _ballot_floor(
        self,
        state: ClusterState,
        stored: StoredKeyspace,
        bucket: Bucket,
        target: Target,
        fenced: dict[int, Fence],
    ) -> bytes:
        """The node's TIME is of its present life: the connection is. The job's own ballots go above
        the floor, so that the node takes them.
        """
        time_ms = await (await self._own_client(state, target)).time_ms()
        copies = await self._fenced_copies(state, stored, bucket, fenced, Pace())
        if len(fenced) < needed(bucket, target):
            copies += await self._untrusted(
                state, stored, bucket, target, fenced=set(fenced), pace=Pace()
            )
        await asyncio.gather(*(copy.measure() for copy in copies))
        promises = await asyncio.gather(*(copy.highest_promise() for copy in copies))
        floor = ballot_floor(time_ms, stored.settings.max_skew_ms, promises)
        self._ballots.merge(floor)
        return floor

    async def _own(
        self,
        state: ClusterState,
        stored: StoredKeyspace,
        buckets: Sequence[Bucket],
        target: Target,
    ) -> None:
        """The replica's own fences: it owns again."""
        client = await self._own_client(state, target)
        changes = [
            fence_change(
                state,
                stored,
                bucket,
                Fence(bucket.epoch, bucket.stage, Role.OWNER, target.incarnation),
            )
            for bucket in buckets
        ]
        for change, refusal in zip(changes, await client.raise_fences(changes), strict=True):
            if refusal is not None:
                raise Interrupted(f"{change.keys.data.decode()} refused: {refusal.code}")

    async def _own_client(self, state: ClusterState, target: Target) -> ReplicaClient:
        client = await self._links.open(state.by_number[target.number].node)
        if client.server.run_id != target.run_id:
            raise Interrupted(f"{target.node_id} restarted again")
        return client

    # --- records

    async def _repair(
        self,
        state: ClusterState,
        stored: StoredKeyspace,
        bucket: Bucket,
        target: Target,
        fenced: dict[int, Fence],
    ) -> None:
        """Until a pass finds nothing older than itself that differs."""
        pace, own_pace = Pace(), Pace(rest=0.0)  # nobody reads from the one that joins
        keys = bucket_keys(stored.settings.name, bucket.id)
        own = Copy(
            await self._own_client(state, target),
            keys,
            epoch=bucket.epoch,
            incarnation=target.incarnation,
            pace=own_pace,
            trusted=False,
        )
        copies = await self._fenced_copies(state, stored, bucket, fenced, pace)
        if stored.settings.mode is Mode.LINEARIZABLE:
            heard: list[Copy] = []
            if len(fenced) < needed(bucket, target):
                heard = await self._untrusted(
                    state, stored, bucket, target, fenced=set(fenced), pace=pace
                )
            found = await self._pass_all(
                stored, bucket, target, own=own, fenced=copies, heard=heard
            )
        else:
            if self.record.accept_loss:
                copies += await self._untrusted(
                    state, stored, bucket, target, fenced=set(fenced), pace=pace
                )
            found = await self._equal(stored, bucket, target, [own, *copies])
        counts = self.record.counts
        counts.records += found.records
        counts.differing += found.differing
        counts.copied += found.copied
        counts.healed += found.healed
        counts.unhealed += found.unhealed
        counts.moved_bytes += pace.moved_bytes + own_pace.moved_bytes
        self.record.done += 1  # for who looks; the map says what is done
        if len(fenced) < needed(bucket, target):
            await self._note_loss(stored, bucket)

    async def _fenced_copies(
        self,
        state: ClusterState,
        stored: StoredKeyspace,
        bucket: Bucket,
        fenced: dict[int, Fence],
        pace: Pace,
    ) -> list[Copy]:
        keys = bucket_keys(stored.settings.name, bucket.id)
        copies = []
        for number, fence in fenced.items():
            client = await self._links.open(state.by_number[number].node)
            copies.append(
                Copy(client, keys, epoch=bucket.epoch, incarnation=fence.incarnation, pace=pace)
            )
        return copies

    async def _pass_all(
        self,
        stored: StoredKeyspace,
        bucket: Bucket,
        target: Target,
        *,
        own: Copy,
        fenced: list[Copy],
        heard: list[Copy],
    ) -> Findings:
        """Every register through an identity change by the others, and to the one that joins."""
        need, settings = needed(bucket, target), stored.settings
        limits = pack_limits(settings.max_skew_ms, settings.log_bytes_per_bucket)
        quorum = Quorum(tuple(fenced), need, limits, self._ballots, joining=own, may_heal=True)
        if len(fenced) < need:  # the loss was accepted
            quorum = _listening(quorum, own, heard)
        found = await pass_bucket(quorum)
        if found.unhealed and not self.record.accept_loss:
            name = f"bucket {bucket.id} of {settings.name}"
            raise Interrupted(f"{found.unhealed} keys of {name} are not agreed on by a majority")
        return found

    async def _equal(
        self, stored: StoredKeyspace, bucket: Bucket, target: Target, copies: list[Copy]
    ) -> Findings:
        settings = stored.settings
        limits = pack_limits(settings.max_skew_ms, settings.log_bytes_per_bucket)
        total = Findings()
        if len(copies) < 2:
            return total
        for _ in range(MOST_PASSES):
            terms = Terms(limits, needed(bucket, target), now_ms() - SETTLED_MS)
            found = await equalize(copies, terms)
            total.add(found)
            if found.settled <= found.unhealed:
                return total
        raise Interrupted(f"bucket {bucket.id} of {settings.name} does not become equal")

    async def _untrusted(
        self,
        state: ClusterState,
        stored: StoredKeyspace,
        bucket: Bucket,
        target: Target,
        *,
        fenced: set[int],
        pace: Pace,
    ) -> list[Copy]:
        """Where loss was accepted: owners that are not trusted either are listened to."""
        found, keys = [], bucket_keys(stored.settings.name, bucket.id)
        for owner in others(bucket, target):
            if owner.node in fenced:
                continue
            try:
                client = await self._links.open(state.by_number[owner.node].node)
                [stands] = await client.read_fences([keys])
            except ReplicaError:
                continue
            if stands.fence is None or stands.fence.epoch > bucket.epoch:
                continue
            found.append(
                Copy(
                    client,
                    keys,
                    epoch=bucket.epoch,
                    incarnation=stands.fence.incarnation,
                    pace=pace,
                    trusted=False,
                    read_only=True,
                )
            )
        return found

    async def _note_loss(self, stored: StoredKeyspace, bucket: Bucket) -> None:
        """Up to repaired-through every owner has everything; what came later may be lost. Without
        a repair ever nothing is known, and the window begins at 0.
        """
        name, index = stored.settings.name, bucket.id // RANGE_BUCKETS
        entry = await self._ledger.store.read(repaired_path(self._term.paths, name, index))
        through = repaired_through(entry, bucket.id)
        known = self.record.loss_from_ms if self.record.loss_to_ms else through
        self.record.loss_from_ms = min(known, through)
        self.record.loss_to_ms = now_ms()

    # --- the end

    async def _admit(self, state: ClusterState, target: Target) -> bool:
        """All buckets are back: publish the life, if it is still the one that was repaired."""
        client = await self._own_client(state, target)
        await self._make_sure(state, target, client)
        identity = self._identity(state, target)
        await _identify(client, identity)
        sight = self._probes.sights.get(target.node_id)
        if sight is None or sight.identity != identity or sight.run_id != target.run_id:
            # An older look would have it taken for a node that has just been emptied.
            raise Interrupted("its new identity has not been seen yet")
        stored = state.by_number[target.number]
        record = stored.record.trusted_in(target.run_id, durable=sight.durable)
        record = replace(record, node=replace(record.node, incarnation=target.incarnation))
        path = self._term.paths.node(target.node_id)
        await self._term.write(state, [Put(path, encode_node_record(record), stored.version)])
        _log.warning("node admitted", node=target.node_id, incarnation=target.incarnation)
        return await self._finish()

    async def _make_sure(self, state: ClusterState, target: Target, client: ReplicaClient) -> None:
        """Every fence of the node stands, and owns; otherwise its life has ended."""
        known = concerned(state, target.number)
        keys = [bucket_keys(stored.settings.name, bucket.id) for stored, bucket in known]
        stands = await client.read_fences(keys)
        late: list[tuple[StoredKeyspace, Bucket]] = []
        for (stored, bucket), now in zip(known, stands, strict=True):
            alone = len(bucket.owners) == 1 and self.record.accept_loss
            if now.fence is None or now.fence.incarnation != target.incarnation:
                if not alone:
                    node = state.by_number[target.number].node
                    await self._next_life(state, node, target.run_id)
                    raise Interrupted(f"{target.node_id} lost its fences again")
                # A fence joins before it owns, and owns only under a later epoch.
                before = replace(bucket, epoch=bucket.epoch - 1)
                await self._fence_joining(state, stored, [before], target, {bucket.id: {}})
            late_epoch = now.fence is None or now.fence.epoch < bucket.epoch
            if now.fence is None or late_epoch or now.fence.role is not Role.OWNER:
                late.append((stored, bucket))
        for stored, bucket in late:
            await self._own(state, stored, [bucket], target)

    def _identity(self, state: ClusterState, target: Target) -> Identity:
        mark = cluster_mark(state.cluster, state.uid)
        return Identity(mark, target.node_id, target.incarnation)

    async def _finish(self) -> bool:
        self.record.state, self.record.problem = DONE, ""
        await self._save()
        return False

    # --- what is shown

    def _note(self, seen: Outlook) -> None:
        self.blocked = ""
        self.record.problem = ""
        self.record.done = seen.back + len(self.record.passed)
        self.record.total = seen.total

    def _block(self, why: str) -> None:
        if self.blocked != why:
            _log.warning("admission waits", node=self.record.node, why=why)
        self.blocked = self.record.problem = why

    async def _save(self) -> None:
        await self._ledger.save(self.record, self._term.leadership.guard())


def _bounds(fences: Iterable[Fence]) -> Bounds:
    known = list(fences)
    return Bounds(
        max((fence.purged_through for fence in known), default=ZERO_VERSION),
        max((fence.closed_through for fence in known), default=ZERO_VERSION),
    )


async def _set_fence(client: ReplicaClient, change: FenceChange, now: StoredFence) -> None:
    """Create it where nothing is, raise it in its own life, overwrite what a former life left."""
    refusal = None
    if now.fence is not None and now.fence.incarnation == change.fence.incarnation:
        if now.fence.epoch < change.fence.epoch:
            refusal = await client.raise_fence(*change)
    else:
        refusal = await client.create_fence(*change)
        if refusal is not None and refusal.code in (Code.EXISTS, Code.LEFTOVERS):
            command = overwrite_fence(change.keys, change.fence.encode(), change.entry)
            [reply] = await client.ask([command])
            refusal = None if reply == 1 else parse_refusal(reply)
            if reply != 1 and refusal is None:
                raise Interrupted(f"{change.keys.data.decode()} answered {str(reply)[:100]}")
    if refusal is not None:
        raise Interrupted(f"{change.keys.data.decode()} refused: {refusal.code}")


def _listening(quorum: Quorum, own: Copy, heard: Iterable[Copy]) -> Quorum:
    """Those that are left of the others decide, however few; without any, the joining one."""
    if not quorum.deciding:
        return replace(quorum, deciding=(own,), need=1, joining=None, heard=tuple(heard))
    return replace(quorum, need=len(quorum.deciding), heard=(*heard, own))


async def _identify(client: ReplicaClient, identity: Identity) -> None:
    """The server says from now on that it is the node in its new life."""
    wanted = identity.encode()
    seen = await client.call(b"GET", IDENTITY_KEY)
    if seen == wanted:
        return
    old = seen if isinstance(seen, bytes) else b""
    sha = SCRIPTS["identity_replace"].sha
    [reply] = await client.ask([pack_command(b"EVALSHA", sha, b"1", IDENTITY_KEY, old, wanted)])
    if reply != wanted:
        raise Interrupted(f"its identity changed meanwhile: {str(reply)[:100]}")
