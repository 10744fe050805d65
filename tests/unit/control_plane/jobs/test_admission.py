"""What is decided about a node that lost data, bucket by bucket."""

from dataclasses import replace

import pytest

from buckets.bucket_map import Bucket, KeyspaceSettings, Owner, Stage
from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.controllers.records import EVICTING, RESTARTED_EMPTY
from control_plane.controllers.sight import cluster_mark
from control_plane.jobs.admission import (
    Outlook,
    Standing,
    Target,
    changed_range,
    joins,
    may_begin,
    next_incarnation,
    obstacle,
    outlook,
    standing,
    trusted_nodes,
    with_again,
    without,
)
from replicas.identity import Identity
from tests.support.cluster_states import StoreContent, healthy

LOST = Target(1, "n1", bytes(20), 2)
OLD_LIFE, NEW_LIFE = Owner(1, 1), Owner(1, 2)
SECOND, THIRD = Owner(2, 1), Owner(3, 1)
BUCKET = Bucket(7, 5, (OLD_LIFE, SECOND, THIRD))
ALL_OTHERS = frozenset({2, 3})


def keyspace_of(state: ClusterState) -> StoredKeyspace:
    [stored] = state.keyspaces.values()
    return stored


def one_keyspace() -> tuple[StoreContent, ClusterState]:
    content = StoreContent(1, 2, 3)
    content.create_keyspace(KeyspaceSettings("places", buckets=128))
    return content, content.state()


def why_not(bucket: Bucket, trusted: frozenset[int], *, accept_loss: bool = False) -> str:
    _, state = one_keyspace()
    return obstacle(keyspace_of(state), bucket, LOST, trusted, accept_loss=accept_loss)


class TestTheWayOfABucket:
    def test_is_an_epoch_without_the_node_and_then_one_with_its_next_life(self) -> None:
        assert standing(BUCKET, LOST) is Standing.LOST
        out = without(BUCKET, LOST)
        assert (out.epoch, out.owners, out.pending) == (6, (SECOND, THIRD), (NEW_LIFE,))
        assert out.stage is Stage.OLD  # pending at this stage: written to, and counted in nothing
        assert standing(out, LOST) is Standing.JOINING
        back = with_again(out, LOST)
        assert (back.epoch, set(back.owners)) == (7, {NEW_LIFE, SECOND, THIRD})
        assert back.pending == ()
        assert standing(back, LOST) is Standing.BACK

    def test_begins_anew_when_the_node_is_lost_again_on_its_way(self) -> None:
        again = replace(LOST, incarnation=3)
        for bucket in (without(BUCKET, LOST), with_again(without(BUCKET, LOST), LOST)):
            assert standing(bucket, again) is Standing.LOST
            out = without(bucket, again)
            assert (out.owners, out.pending) == ((SECOND, THIRD), (again.owner,))
            assert out.epoch == bucket.epoch + 1

    def test_leaves_a_sole_owner_its_bucket(self) -> None:
        out = without(Bucket(7, 5, (OLD_LIFE,)), LOST)
        assert (out.epoch, out.owners, out.pending) == (6, (NEW_LIFE,), ())


class TestObstacles:
    def test_none_while_a_majority_not_counting_it_is_left(self) -> None:
        assert why_not(BUCKET, ALL_OTHERS) == ""
        five = replace(BUCKET, owners=(*BUCKET.owners, Owner(4, 1), Owner(5, 1)))
        assert why_not(five, frozenset({2, 3, 5})) == ""

    @pytest.mark.parametrize("trusted", [frozenset({2}), frozenset({1, 2}), frozenset[int]()])
    def test_without_a_majority_only_an_accepted_loss_helps(self, trusted: frozenset[int]) -> None:
        assert "no majority left" in why_not(BUCKET, trusted)
        assert "--accept-loss" in why_not(BUCKET, trusted)
        assert why_not(BUCKET, trusted, accept_loss=True) == ""

    def test_what_is_left_outside_the_owners_does_not_count(self) -> None:
        assert why_not(BUCKET, frozenset({2, 4, 5, 6})) != ""

    def test_the_majority_is_of_all_owners_also_once_it_is_out(self) -> None:
        assert why_not(without(BUCKET, LOST), frozenset({2})) != ""
        assert why_not(without(BUCKET, LOST), ALL_OTHERS) == ""

    def test_another_change_of_owners_goes_first(self) -> None:
        moving = replace(BUCKET, stage=Stage.WRITE_BOTH_READ_OLD, pending=(Owner(4, 1),))
        assert "another change" in why_not(moving, ALL_OTHERS)
        joined = replace(BUCKET, pending=(Owner(4, 1),))
        assert "another change" in why_not(joined, ALL_OTHERS, accept_loss=True)


class TestOutlook:
    def look(self, state: ClusterState, *, joining_only: bool = False) -> Outlook:
        return outlook(state, LOST, ALL_OTHERS, joining_only=joining_only)

    def test_one_range_after_the_other_the_lost_buckets_first(self) -> None:
        content, state = one_keyspace()
        seen: list[tuple[int, Standing]] = []
        while (unit := self.look(state).unit) is not None:
            seen.append((unit.index, unit.standing))
            stored = keyspace_of(state)
            step = without if unit.standing is Standing.LOST else with_again
            changed = [step(stored.keyspace.buckets[b], LOST) for b in unit.buckets]
            self.publish(content, stored, unit.index, changed)
            state = content.state()
        lost, joining = Standing.LOST, Standing.JOINING
        assert seen == [(0, lost), (0, joining), (1, lost), (1, joining)]
        after = self.look(state)
        assert (after.back, after.total, after.blocked) == (128, 128, ())

    def publish(
        self, content: StoreContent, stored: StoredKeyspace, index: int, changed: list[Bucket]
    ) -> None:
        value = changed_range(stored.ranges[index], changed)
        content.put_range(value)

    def test_a_node_that_came_back_with_its_data_only_finishes_what_was_begun(self) -> None:
        content, state = one_keyspace()
        assert not joins(state, 1)
        assert self.look(state, joining_only=True).unit is None
        stored = keyspace_of(state)
        out = without(stored.keyspace.buckets[3], LOST)
        self.publish(content, stored, 0, [out])
        assert joins(content.state(), 1)
        unit = self.look(content.state(), joining_only=True).unit
        assert unit is not None
        assert (unit.standing, unit.buckets) == (Standing.JOINING, (3,))

    def test_the_next_incarnation_is_above_all_that_the_map_has_named(self) -> None:
        content, state = one_keyspace()
        assert next_incarnation(state, 1) == 2
        stored = keyspace_of(state)
        out = without(stored.keyspace.buckets[3], replace(LOST, incarnation=8))
        self.publish(content, stored, 0, [out])
        assert next_incarnation(content.state(), 1) == 9


class TestWhoIsTakenBack:
    def test_a_node_that_lost_data_and_can_be_asked(self) -> None:
        _, state = one_keyspace()
        sights = healthy(state)
        record, sight = state.nodes["n1"].record, sights["n1"]
        mark = cluster_mark(state.cluster, state.uid)
        lost = record.suspected(RESTARTED_EMPTY, "why", sight.run_id)
        assert may_begin(lost, sight, mark)
        assert not may_begin(record, sight, mark)
        assert not may_begin(lost, None, mark)
        assert not may_begin(lost, replace(sight, fault="unreachable"), mark)
        assert not may_begin(lost, replace(sight, role="slave"), mark)
        assert not may_begin(lost, replace(sight, eviction_policy="allkeys-lru"), mark)
        stranger = Identity(mark, "n2", 1)
        assert not may_begin(lost, replace(sight, identity=stranger), mark)
        evicted = record.suspected(EVICTING, "why", sight.run_id)
        assert not may_begin(evicted, sight, mark)

    def test_only_the_trusted_life_of_a_trusted_node_is_repaired_from(self) -> None:
        content, state = one_keyspace()
        sights = dict(healthy(state))
        assert trusted_nodes(state, sights) == {1, 2, 3}
        sights["n2"] = replace(sights["n2"], run_id=b"\xff" * 20)
        record = state.nodes["n3"].record.suspected(RESTARTED_EMPTY, "why", b"")
        content.put_node(record)
        assert trusted_nodes(content.state(), sights) == {1}
