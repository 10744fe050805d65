"""The quorum tally, with three answers: pending, reached, impossible.

Replicas of one operation are slots, 0 to n-1; who acknowledged and who can no longer do so are bit
masks over the slots. What is needed is a tuple of groups, every one of which must be met: a
majority is one group, EACH_QUORUM one group for each zone, a bucket in a move one for the old
owners and one for the new. (Never one group over the union of old and new: two majorities of a
union need not share a replica with a majority of either.)
"""

from typing import NamedTuple

PENDING = 0
REACHED = 1
IMPOSSIBLE = 2


class Group(NamedTuple):
    """`need` of the slots in the mask `members` must acknowledge."""

    members: int
    need: int


Needs = tuple[Group, ...]


def majority(count: int) -> int:
    """The smallest number such that any two sets of it, out of `count`, share a member."""
    return count // 2 + 1


def tally(needs: Needs, acked: int, failed: int) -> int:
    """PENDING, REACHED or IMPOSSIBLE, given who acknowledged and who never will.

    A group without members can not be reached: a quorum of nobody proves nothing.
    """
    verdict = REACHED
    for members, need in needs:
        if (acked & members).bit_count() >= need:
            continue
        if (members & ~failed).bit_count() < need:
            return IMPOSSIBLE
        verdict = PENDING
    return verdict


def smallest_set(needs: Needs, preference: tuple[int, ...]) -> int:
    """Mask of slots, taken greedily in order of `preference`, whose acknowledgements meet `needs`.

    Where the preferred slots do not suffice the mask is as near as they come.
    """
    chosen = 0
    for slot in preference:
        bit = 1 << slot
        for members, need in needs:
            if members & bit and (chosen & members).bit_count() < need:
                chosen |= bit
                break
    return chosen
