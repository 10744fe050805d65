"""Run by a test: keeps hints as fast as it can and says which of them are on disk, until killed."""

import asyncio
import sys
import time
from functools import partial
from pathlib import Path

from sidecar.background.hint_log import HintLog
from sidecar.core.hints import ONLY_COPY, Hint

KEPT_AT_ONCE = 50


def confirm(number: int, problem: str) -> None:
    sys.stdout.write(f"{number} {problem}\n")
    sys.stdout.flush()


async def main(path: Path) -> None:
    hints = HintLog(path, "test", wall_ms=lambda: time.time_ns() // 1_000_000)
    await hints.start()
    number = 0
    while True:
        for _ in range(KEPT_AT_ONCE):
            number += 1
            record = bytes(number % 5000)
            hint = Hint("ks", number % 8, b"%d" % number, record, ONLY_COPY, number)
            hints.keep_only_copy(hint, partial(confirm, number))
        await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
