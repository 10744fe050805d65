"""What happened in a run, one line per event. Costs nothing while it is off."""

from tests.sim.schedule import Schedule


class Trace:
    """Lines of virtual time, who, what."""

    __slots__ = ("_schedule", "lines", "on")

    def __init__(self, schedule: Schedule, on: bool) -> None:
        self._schedule = schedule
        self.on = on
        self.lines: list[str] = []

    def __call__(self, who: str, what: str, *arguments: object) -> None:
        """Note `what`, a %-format of `arguments`."""
        if self.on:
            at_ms = self._schedule.now * 1000
            self.lines.append(f"{at_ms:11.3f} ms  {who:<9} {what % arguments}")
