import os
from pathlib import Path

import msgspec
import pytest

from control_plane.dev.load_report import LoadPlan
from control_plane.dev.loading import LoadFailed, run_load
from control_plane.dev.screen import Screen

NOWHERE = "127.0.0.1:1"


@pytest.mark.slow
async def test_a_loader_that_ends_without_a_report_is_an_error_with_its_last_words(
    tmp_path: Path,
) -> None:
    plan = LoadPlan(
        grpc=NOWHERE,
        redis=NOWHERE,
        admin=NOWHERE,
        keyspace="places",
        redis_db=1,
        sidecar_pid=0,
        run_s=1.0,
        ready_seconds=0.0,
    )
    broken = msgspec.structs.replace(plan, redis_db="one")  # its first check refuses this
    with pytest.raises(LoadFailed, match="ended with status 1.*redis_db") as caught:
        await run_load(broken, tmp_path / "loader.log", os.environ, Screen())
    assert str(tmp_path / "loader.log") in str(caught.value)
