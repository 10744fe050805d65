"""The versions that a sidecar issues grow strictly, over its restarts too."""

from itertools import pairwise

from tests.sim.history import History, short


def growing_versions(history: History) -> list[str]:
    """Versions that are not above the one issued before."""
    return [
        f"{sidecar} issued {short(later)} after {short(earlier)}"
        for sidecar, versions in sorted(history.issued.items())
        for earlier, later in pairwise(versions)
        if later[:8] <= earlier[:8]
    ]
