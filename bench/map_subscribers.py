"""Many sidecar feeds in one process: python -m bench.map_subscribers CLUSTER COUNT.

Reads the control plane's address as the first line of its standard input. Prints a line
"REVISION SECONDS" when all have adopted a revision, by the clock that all processes of a machine
share (CLOCK_MONOTONIC). Ends when its standard input does.
"""

import asyncio
import logging
import sys
import time
from collections import Counter

import structlog

from buckets.bucket_map import BucketMap
from sidecar.background.map_feed import FeedIdentity, FeedTimes, MapFeed


class Crowd:
    """The feeds and how many have which revision."""

    def __init__(self, address: str, cluster: str, count: int) -> None:
        self._count = count
        self._adopted: Counter[int] = Counter()
        times = FeedTimes(answer_timeout_s=120)
        self._feeds = [
            MapFeed(FeedIdentity(f"s{number}", cluster, "a"), [address], self._note, times=times)
            for number in range(count)
        ]

    def _note(self, bucket_map: BucketMap) -> None:
        self._adopted[bucket_map.revision] += 1
        if self._adopted[bucket_map.revision] == self._count:
            print(bucket_map.revision, time.monotonic(), flush=True)

    async def run(self) -> None:
        """Follows until standard input ends."""
        tasks = [asyncio.create_task(feed.run()) for feed in self._feeds]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(Crowd(sys.stdin.readline().strip(), sys.argv[1], int(sys.argv[2])).run())
