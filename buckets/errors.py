"""What the placement code refuses: bytes that came damaged, or a placement that can not be made."""


class BucketsError(Exception):
    """Base of the errors of this package."""


class CodecError(BucketsError):
    """Bytes that are not what they should be. `resource` names them as xDS does."""

    def __init__(self, resource: str, detail: str) -> None:
        super().__init__(f"{resource}: {detail}")
        self.resource = resource
        self.detail = detail


class PlanError(BucketsError):
    """A placement that can not be made."""


class NotEnoughNodes(PlanError):
    """Fewer nodes than copies. `needed` and `have` count nodes that may hold buckets."""

    def __init__(self, needed: int, have: int) -> None:
        super().__init__(
            f"replication factor {needed} needs at least {needed} nodes that may hold buckets,"
            f" there are {have}; add nodes or choose a lower replication factor"
        )
        self.needed = needed
        self.have = have


class BadPlanInput(PlanError):
    """A node, bucket or replication factor that makes no sense: what, its bound, what to do."""
