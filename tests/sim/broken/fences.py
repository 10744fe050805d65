"""Variants in which fences do not judge as they should."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from replicas.fake import FakeReplica
from replicas.fence import Role, decode_fence
from replicas.layout import FENCE_FIELD, MAP_FIELD
from replicas.replies import Code
from sidecar.core.coordinator import Coordinator
from sidecar.core.route import Route
from tests.sim.broken.patching import patched
from tests.sim.rules import RULES


@contextmanager
def no_fence() -> Iterator[None]:
    """Replicas and readers ask whether there is a fence, and nothing else."""

    def agreed(self: Any, keys: Any, raw: bytes | None, epoch: bytes, incarnation: bytes) -> Any:
        return self._refuse(keys, Code.NO_FENCE) if raw is None else decode_fence(raw)

    def good(self: Route, slot: int, raw: bytes | None) -> bool:
        return raw is not None

    with patched(FakeReplica, _agreed_fence=agreed), patched(Route, fence_is_good=good):
        yield


@contextmanager
def absent_without_fence() -> Iterator[None]:
    """To a reader a replica without the bucket is one without the key."""
    good_before = Route.fence_is_good

    def good(self: Route, slot: int, raw: bytes | None) -> bool:
        return raw is None or good_before(self, slot, raw)

    with patched(Route, fence_is_good=good):
        yield


@contextmanager
def no_epoch_check() -> Iterator[None]:
    """A coordinator does not look at its own epoch once more before it answers."""
    with patched(Coordinator, epoch_moved=lambda self, route: False):
        yield


@contextmanager
def no_incarnations() -> Iterator[None]:
    """Nobody compares incarnations: replicas, readers, the control plane."""
    agreed_before = FakeReplica._agreed_fence

    def agreed(self: Any, keys: Any, raw: bytes | None, epoch: bytes, incarnation: bytes) -> Any:
        fence = decode_fence(raw) if raw is not None else None
        its_own = fence.incarnation.to_bytes(8, "big") if fence is not None else incarnation
        return agreed_before(self, keys, raw, epoch, its_own)

    def good(self: Route, slot: int, raw: bytes | None) -> bool:
        fence = decode_fence(raw) if raw is not None else None
        return fence is not None and fence.role is Role.OWNER and fence.epoch <= self.epoch

    with (
        patched(FakeReplica, _agreed_fence=agreed),
        patched(Route, fence_is_good=good),
        patched(RULES, incarnations=False),
    ):
        yield


@contextmanager
def create_and_raise() -> Iterator[None]:
    """One fence script that makes a fence where there is none."""
    raise_before = FakeReplica._raise

    def create_or_raise(
        self: FakeReplica, keys: list[bytes], arguments: list[bytes], now_ms: int
    ) -> object:
        fields = self.state.hashes.setdefault(keys[0], {})
        if FENCE_FIELD not in fields:
            fields.update({FENCE_FIELD: arguments[0], MAP_FIELD: arguments[1]})
            return 1
        return raise_before(self, keys, arguments, now_ms)

    with patched(FakeReplica, _raise=create_or_raise):
        yield
