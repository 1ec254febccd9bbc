"""The number of workers that a machine's memory holds."""

import pytest
from helpers.run import TINY

from latentbench.bench.cli import run
from latentbench.bench.cli.open_plan import open_plan
from latentbench.bench.engine.workers_in_memory import WORKER_BYTES, workers_in_memory
from latentbench.bench.plan.cost import Cost
from latentbench.bench.runtime import machine_memory

STAGES = [Cost(set_memory_bytes=int(gb * 1e9)) for gb in (1, 8, 2, 2, 4)]


@pytest.mark.parametrize(
    "memory, workers",
    [(1e9, 1), (8e9, 1), (12e9 + 2 * WORKER_BYTES, 2), (14e9 + 3 * WORKER_BYTES, 3), (1e12, 6)],
)
def test_the_largest_stages_fit_side_by_side(memory, workers):
    assert workers_in_memory(STAGES, memory, 6) == workers


def test_without_stages_nothing_bounds_the_workers():
    assert workers_in_memory([], 1e9, 8) == 8


def test_a_run_starts_no_more_workers_than_memory_holds_and_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "matrix.yaml").write_text(TINY)
    opened = open_plan(tmp_path / "matrix.yaml", None, None, None, None, "cpu", None, None)
    monkeypatch.setattr(machine_memory, "main_memory", lambda: 2.5 * WORKER_BYTES)
    assert run._that_memory_holds(opened, False, 8) == 2
    assert "warning: memory holds 2 of the 8 workers" in capsys.readouterr().err
