"""Runs that a signal ends at any moment leave no traceback behind."""

import os
import random
import signal
import time

import pytest
from helpers.run import TINY, start

LONG = TINY.replace("_steps: 12", "_steps: 400").replace("seeds: [0]", "seeds: [0, 1, 2]")
SECONDS = 12.0  # a run is then at its first trainings, also on a busy machine


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("all_processes", [False, True], ids=["the run alone", "its process group"])
def test_a_signal_at_any_moment_leaves_no_traceback(number, all_processes, tmp_path):
    (tmp_path / "matrix.yaml").write_text(LONG, encoding="utf-8")
    moments = random.Random(int(number) + all_processes)
    for attempt in range(8):
        process = start("run", "-j", "2", cwd=tmp_path, home=tmp_path / str(attempt), group=True)
        process.stdout.readline() if attempt % 2 else None  # the half of them are surely beyond the imports
        time.sleep(moments.uniform(2.0, SECONDS))
        (os.killpg if all_processes else os.kill)(process.pid, number)
        said, _ = process.communicate(timeout=60)
        assert not any(word in said for word in ("Traceback", "Error", "Exception")), said
        assert process.returncode in (128 + number, -number), said
