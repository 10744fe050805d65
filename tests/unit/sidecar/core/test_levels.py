"""Which owners each level needs, in every stage of a move."""

import pytest

from buckets.bucket_map import Bucket, Consistency, Owner, Stage
from replicas.quorum import Needs
from sidecar.core.levels import READ_LEVELS, SETTLING_LEVELS, WRITE_LEVELS, Members, needs

ZONES = {1: "a", 2: "a", 3: "b", 4: "b", 5: "c"}


def members(owners: str, pending: str = "", stage: Stage = Stage.OLD) -> Members:
    def parsed(text: str) -> tuple[Owner, ...]:
        return tuple(Owner(int(number), 1) for number in text)

    return Members.of(Bucket(0, 1, parsed(owners), stage, parsed(pending)), ZONES)


def groups(found: Needs | None, of: Members) -> list[tuple[str, int]]:
    """Each group as the numbers of its nodes and how many of them are needed."""
    assert found is not None
    named = []
    for mask, need in found:
        named.append(("".join(str(o.node) for s, o in enumerate(of.slots) if mask >> s & 1), need))
    return named


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (Consistency.ONE, [("135", 1)]),
        (Consistency.LOCAL_ONE, [("1", 1)]),
        (Consistency.QUORUM, [("135", 2)]),
        (Consistency.LOCAL_QUORUM, [("1", 1)]),
        (Consistency.EACH_QUORUM, [("1", 1), ("3", 1), ("5", 1)]),
        (Consistency.ALL, [("135", 3)]),
    ],
)
def test_each_level_names_its_owners(level: Consistency, expected: list[tuple[str, int]]) -> None:
    three = members("135")
    assert groups(needs(three, three.write_sets(), level, "a"), three) == expected
    assert groups(needs(three, three.read_sets(), level, "a"), three) == expected


def test_each_quorum_needs_a_majority_of_every_zone() -> None:
    five = members("12345")
    found = needs(five, five.write_sets(), Consistency.EACH_QUORUM, "a")
    assert groups(found, five) == [("12", 2), ("34", 2), ("5", 1)]


@pytest.mark.parametrize("level", [Consistency.LOCAL_ONE, Consistency.LOCAL_QUORUM])
def test_a_local_level_without_owners_in_the_zone_is_none(level: Consistency) -> None:
    three = members("135")
    assert needs(three, three.write_sets(), level, "z") is None
    moving = members("135", "345", Stage.WRITE_BOTH_READ_OLD)
    assert needs(moving, moving.write_sets(), level, "a") is None  # old has one, new has none
    assert needs(moving, moving.read_sets(), level, "a") is not None


@pytest.mark.parametrize(
    ("stage", "write", "read"),
    [
        (Stage.OLD, [("123", 2)], [("123", 2)]),
        (Stage.WRITE_BOTH_READ_OLD, [("123", 2), ("345", 2)], [("123", 2)]),
        (Stage.WRITE_BOTH_READ_NEW, [("123", 2), ("345", 2)], [("345", 2)]),
        (Stage.NEW, [("345", 2)], [("345", 2)]),
    ],
)
def test_a_move_needs_old_and_new_as_its_stage_says(
    stage: Stage, write: list[tuple[str, int]], read: list[tuple[str, int]]
) -> None:
    moving = members("123", "345", stage)
    assert groups(needs(moving, moving.write_sets(), Consistency.QUORUM, "a"), moving) == write
    assert groups(needs(moving, moving.read_sets(), Consistency.QUORUM, "a"), moving) == read


def test_a_node_that_is_old_and_new_has_one_slot_but_one_in_each_life() -> None:
    moving = members("123", "345", Stage.WRITE_BOTH_READ_OLD)
    assert [owner.node for owner in moving.slots] == [1, 2, 3, 4, 5]
    reborn = Bucket(0, 1, (Owner(1, 1),), Stage.WRITE_BOTH_READ_OLD, (Owner(1, 2),))
    assert len(Members.of(reborn, ZONES).slots) == 2


def test_levels_that_do_not_count_owners_are_not_served() -> None:
    assert (Consistency.ANY, *READ_LEVELS) == WRITE_LEVELS
    for level in (Consistency.BOUNDED, Consistency.SESSION):
        assert level not in WRITE_LEVELS
        three = members("135")
        with pytest.raises(ValueError, match="not a level"):
            needs(three, three.write_sets(), level, "a")


def test_reads_at_quorum_and_above_settle() -> None:
    above = {Consistency.QUORUM, Consistency.EACH_QUORUM, Consistency.ALL}
    assert above == SETTLING_LEVELS
