"""Where the requests of one bucket go, as one map snapshot says: computed once, used by all.

A route belongs to one epoch of one bucket. Everything that depends only on that (names on the
server, the groups of each level) is computed when first asked for and kept; the order in which
replicas are read follows health and latency: it is made anew when one of them has changed.
"""

import itertools
from collections.abc import Callable
from typing import Any

from buckets.bucket_map import Bucket, Consistency, Keyspace, Mode, Stage
from buckets.hashing import key_hash
from replicas.commands import pack_limits, read_prefix, write_prefix
from replicas.fence import Role, decode_fence
from replicas.group import is_group
from replicas.layout import bucket_keys
from replicas.quorum import Needs, smallest_set
from replicas.scripts import SCRIPTS
from sidecar.core.levels import Members, needs
from sidecar.core.peer import Peer

MAX_ORDERS = 6


class Route:
    """One bucket's replicas and how to ask them. Not frozen: it keeps what it learnt."""

    __slots__ = (
        "_group_prefixes",
        "bucket",
        "epoch",
        "keyspace",
        "known_fences",
        "learning",
        "members",
        "orders",
        "orders_age",
        "peers",
        "plans",
        "read_needs",
        "read_prefix",
        "registers",
        "settings",
        "turn",
        "write_limits",
        "write_needs",
        "write_prefixes",
        "writes_need_more",
        "zone",
    )

    def __init__(
        self, keyspace: Keyspace, bucket: Bucket, peers: dict[int, Peer], zone: str
    ) -> None:
        self.keyspace = keyspace.settings.name
        self.settings = keyspace.settings
        self.bucket = bucket.id
        self.epoch = bucket.epoch
        self.zone = zone
        self.members = Members.of(bucket, {n: peer.node.zone for n, peer in peers.items()})
        self.peers = tuple(peers[owner.node] for owner in self.members.slots)
        # Fence bytes that were already judged good, one a slot: the hot path compares bytes.
        self.known_fences: list[bytes | None] = [None] * len(self.peers)
        keys = bucket_keys(self.keyspace, bucket.id)
        self.read_prefix = read_prefix(keys)
        self.write_limits = pack_limits(
            self.settings.max_skew_ms, self.settings.log_bytes_per_bucket
        )
        self.write_prefixes = tuple(
            write_prefix(keys, bucket.epoch, owner.incarnation) for owner in self.members.slots
        )
        # In a move: a majority that reads need is not all that writes need.
        self.writes_need_more = self.members.write_sets() != self.members.read_sets()
        self.write_needs: dict[int, Needs | None] = {}
        self.read_needs: dict[int, Needs | None] = {}
        self.orders: tuple[tuple[int, ...], ...] = ()
        self.orders_age = -1
        self.plans: dict[int, tuple[tuple[int, ...], ...]] = {}
        self.turn = 0
        self.learning = False
        self._group_prefixes: tuple[bytes, ...] = ()
        self.registers: Any = None  # a RegisterRoute, where the keyspace is linearizable

    @property
    def stage(self) -> Stage:
        """The stage of the bucket's move."""
        return self.members.stage

    def needs_of_write(self, level: Consistency) -> Needs | None:
        """Groups that must acknowledge a write.

        None: a LOCAL level without an owner in this zone, or ANY where history is kept.
        """
        if level not in self.write_needs:
            sets = self.members.write_sets()
            without_history = level is Consistency.ANY and self.settings.retention_ms > 0
            made = None if without_history else needs(self.members, sets, level, self.zone)
            self.write_needs[level] = made
        return self.write_needs[level]

    def needs_of_read(self, level: Consistency) -> Needs | None:
        """Groups that must answer a read; None: no owner in this zone."""
        if level not in self.read_needs:
            sets = self.members.read_sets()
            self.read_needs[level] = needs(self.members, sets, level, self.zone)
        return self.read_needs[level]

    def prefixes_for(self, record: bytes) -> tuple[bytes, ...]:
        """What a write of these bytes begins with: a record, or a group of them."""
        return self.group_prefixes() if is_group(record) else self.write_prefixes

    def group_prefixes(self) -> tuple[bytes, ...]:
        """What a write of several keys begins with, one a slot."""
        if not self._group_prefixes:
            keys, script = bucket_keys(self.keyspace, self.bucket), SCRIPTS["transact"]
            self._group_prefixes = tuple(
                write_prefix(keys, self.epoch, owner.incarnation, script=script)
                for owner in self.members.slots
            )
        return self._group_prefixes

    def settle_needs(self) -> Needs:
        """The majorities on which a version must stand before a settling read may answer it."""
        settled = self.needs_of_write(Consistency.QUORUM)
        if settled is None:
            raise AssertionError("QUORUM always has members")
        return settled

    def fence_is_good(self, slot: int, raw: bytes | None) -> bool:
        """Whether a fence just read lets the record beside it count; keeps the bytes if so."""
        fence = decode_fence(raw) if raw is not None else None
        owner = self.members.slots[slot]
        if fence is None or fence.role is not Role.OWNER or fence.incarnation != owner.incarnation:
            return False
        if fence.epoch > self.epoch:
            return False
        self.known_fences[slot] = raw
        return True

    def gone_through(self) -> bytes:
        """The version up to which what an owner lacks was deleted, and not missed: empty: none.

        As far as fences show that were read lately. Tombstones are dropped only after every owner
        was made equal up to there; the fence of an owner that is merely closed says nothing.
        """
        fences = [decode_fence(raw) for raw in self.known_fences if raw is not None]
        return max((one.dropped_through for one in fences if one is not None), default=b"")

    def countable(self) -> int:
        """Mask of the slots whose answers may form a quorum now."""
        mask = 0
        bit = 1
        for peer in self.peers:
            if peer.counts:
                mask |= bit
            bit <<= 1
        return mask

    def connecting(self) -> bool:
        """Whether the first attempt to connect to some replica has not ended yet."""
        return not all(peer.tried for peer in self.peers)

    def first_to_read(self, level: int, read_groups: Needs, age: int) -> tuple[int, ...]:
        """Slots to ask first for a read at `level`, rotating over replicas that are equally good.

        `age` is a number that changes when health or latency changed enough to choose again.
        """
        plans = self.plans_to_read(level, read_groups, age)
        self.turn += 1
        return plans[self.turn % len(plans)]

    def plans_to_read(
        self, level: int, read_groups: Needs, age: int
    ) -> tuple[tuple[int, ...], ...]:
        """The sets of slots that are equally good to ask first; see first_to_read."""
        if age != self.orders_age:
            self.orders = self._read_orders()
            self.plans.clear()
            self.orders_age = age
        plans = self.plans.get(level)
        if plans is None:
            chosen = (smallest_set(read_groups, order) for order in self.orders)
            plans = tuple(
                _slots(mask, order) for mask, order in zip(chosen, self.orders, strict=True)
            )
            self.plans[level] = plans
        return plans

    def next_to_read(self, asked: int, groups: Needs, acked: int) -> int:
        """The best countable slot not asked yet that an unmet group has as a member; -1: none.

        One that does not answer promptly is taken only when no other is left.
        """
        last = -1
        order = self.orders[self.turn % len(self.orders)]
        for slot in order:
            peer = self.peers[slot]
            if asked >> slot & 1 or not peer.counts:
                continue
            if any(m >> slot & 1 and (acked & m).bit_count() < n for m, n in groups):
                if not peer.breaker.demoted:
                    return slot
                if last < 0:
                    last = slot
        return last

    def _read_orders(self) -> tuple[tuple[int, ...], ...]:
        """Own zone first, then by latency, the demoted last; permutations of those alike."""
        ranked: dict[tuple[bool, int, int], list[int]] = {}
        for slot, peer in enumerate(self.peers):
            if peer.counts:
                foreign = int(peer.node.zone != self.zone)
                rank = (peer.breaker.demoted, foreign, peer.latency_class)
                ranked.setdefault(rank, []).append(slot)
        groups = [ranked[rank] for rank in sorted(ranked)]
        permuted = [list(itertools.permutations(group)) for group in groups]
        orders = itertools.islice(itertools.product(*permuted), MAX_ORDERS)
        return tuple(tuple(itertools.chain(*parts)) for parts in orders) or ((),)


def _slots(mask: int, order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(slot for slot in order if mask >> slot & 1)


class RoutingTable:
    """The routes of one map snapshot, made when a bucket is first asked for."""

    __slots__ = ("_keyspace", "_make", "_routes", "buckets", "shift", "tunable")

    def __init__(self, keyspace: Keyspace, make: Callable[[Keyspace, Bucket], Route]) -> None:
        self._keyspace = keyspace
        self._make = make
        self._routes: list[Route | None] = [None] * len(keyspace.buckets)
        self.buckets = len(keyspace.buckets)
        self.shift = keyspace.shift
        self.tunable = keyspace.settings.mode is Mode.TUNABLE

    def route(self, key: bytes) -> Route:
        """The route of the bucket that `key` hashes to."""
        bucket = key_hash(key) >> self.shift
        return self._routes[bucket] or self.route_of(bucket)

    def route_of(self, bucket: int) -> Route:
        """The route of a bucket by its id."""
        route = self._routes[bucket]
        if route is None:
            route = self._make(self._keyspace, self._keyspace.buckets[bucket])
            self._routes[bucket] = route
        return route

    def epoch_of(self, bucket: int) -> int:
        """The epoch of a bucket in this snapshot."""
        return self._keyspace.buckets[bucket].epoch

    @property
    def keyspace(self) -> Keyspace:
        """The keyspace that this table routes."""
        return self._keyspace
