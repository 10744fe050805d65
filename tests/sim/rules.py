"""Rules of the simulated control plane that a broken variant can switch off."""

from dataclasses import dataclass


@dataclass(slots=True)
class Rules:
    """As they are, all of them hold."""

    incarnations: bool = True  # a fence must name the incarnation of the map
    one_life_without_epoch: bool = False  # a new life is trusted again within its epoch
    sources: int = 0  # how many owners a move copies from; 0: a fenced majority
    purge_unrepaired: bool = False  # tombstones go once they are old


RULES = Rules()
