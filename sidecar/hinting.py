"""The hints of one worker process: their log, their replay, and when each begins and ends."""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

import structlog

from sidecar.background.hint_drain import HintDrain
from sidecar.background.hint_handover import HintAdoption, hand_over
from sidecar.background.hint_ledger import HintsView
from sidecar.background.hint_log import HintLog
from sidecar.background.map_file import MapFile
from sidecar.config import ConfigError, SidecarConfig
from sidecar.core.coordinator import Coordinator
from sidecar.core.hints import HintBounds
from sidecar.workers import Repaired

log = structlog.get_logger("hints")

LEAST_HAND_OVER_S = 1.0  # even when the time for draining is spent


class Hinting:
    """Make it, `start` it once links are being kept, `finish` and `close` it before they go."""

    def __init__(
        self,
        config: SidecarConfig,
        worker: int,
        core: Coordinator,
        *,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        path = hint_path(config.state_dir, worker)
        bounds = HintBounds(size_bytes=config.hint_log_bytes, age_ms=config.hint_age_ms)
        self.log = HintLog(path, config.cluster, wall_ms=wall_ms, bounds=bounds)
        self._drain = HintDrain(self.log, core, monotonic)
        self._adoption = HintAdoption(self.log, core) if worker == 0 else None
        self._monotonic = monotonic
        self._left_behind = _without_worker(config) if worker == 0 else []
        self._running: asyncio.Task[None] | None = None
        self._core = core
        core.hints = self.log

    def start(self) -> None:
        """Open the log and replay; what is hinted before it is open waits in memory."""
        self._running = asyncio.create_task(self._run(), name="hints")

    async def _run(self) -> None:
        await self.log.start(self._left_behind)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._drain.run(), name="hint-drain")
            if self._adoption is not None:
                tasks.create_task(self._adoption.run(), name="hint-adoption")

    async def finish(self, timeout_s: float) -> None:
        """Replay what can be, within this time. What is left stays on disk, and goes to others."""
        ends_at = self._monotonic() + timeout_s
        await self._stop_running()
        left = await self._drain.finish(timeout_s)
        if left:
            ends_at = max(ends_at, self._monotonic() + LEAST_HAND_OVER_S)
            taken = await hand_over(self.log, self._core, self._monotonic, ends_at)
            log.warning("hints are left for the next start", hints=left, handed_over=taken)

    async def close(self) -> None:
        """Write what came last, and let go of the file."""
        await self._stop_running()
        await self._drain.close()
        await self.log.close()

    async def _stop_running(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})

    def repaired(self, bucket: Repaired) -> None:
        """Drop the mark of a bucket, unless it was marked again since the repair began."""
        self.log.repaired((bucket.keyspace, bucket.bucket), bucket.begun_ms)

    def view(self) -> HintsView:
        """For the admin door and metrics."""
        return self.log.view()


def hint_path(state_dir: str, worker: int) -> Path | None:
    """Where worker number `worker` keeps its hints; None: nowhere."""
    return Path(state_dir) / f"hints-{worker}.db" if state_dir else None


def log_id(state_dir: str) -> str:
    """What the logs of this folder are called, over all starts; "": there are none. Made by the
    first start. Raises ConfigError.
    """
    if not state_dir:
        return ""
    file = MapFile(Path(state_dir) / "hints-id")
    try:
        known = file.read()
        if known is None:
            known = secrets.token_bytes(16)
            file.write(known)
    except OSError as error:
        raise ConfigError(f"configuration: state_dir takes no {file.path}: {error}") from None
    return known.hex()[:32]


def _without_worker(config: SidecarConfig) -> list[Path]:
    """Files of workers that are not started any more, because there are fewer now."""
    if not config.state_dir:
        return []
    kept = {hint_path(config.state_dir, worker) for worker in range(config.workers)}
    return sorted(set(Path(config.state_dir).glob("hints-*.db")) - kept)
