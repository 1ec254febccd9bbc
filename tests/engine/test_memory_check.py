"""A run that cannot fit into memory is refused before anything is made, unless it is forced."""

import re

import pytest
from helpers.run import TINY, bench_inline

from latentbench.bench.engine import memory_check

SMALL = TINY.replace("  kl: {weight: 1.0e-3}\n", "").replace("seeds: [0]", "seeds: [0]\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder with a small matrix, on a machine with less memory than its stages need."""
    (tmp_path / "matrix.yaml").write_text(
        SMALL.replace("[reconstruction, generation, density, cost]", "[cost]")
    )
    monkeypatch.setattr(memory_check, "main_memory", lambda: 100_000)
    return tmp_path


def test_a_run_that_cannot_fit_is_refused_before_anything_is_made(machine):
    ran = bench_inline("run", cwd=machine)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    assert "needs " in ran.stderr and " bytes), and this machine has 100 kB (100,000 bytes)" in ran.stderr
    assert "--force-memory" in ran.stderr
    assert not (machine / "results").exists()


def test_it_runs_if_forced_and_what_is_made_is_not_checked_again(machine):
    ran = bench_inline("run", "--force-memory", cwd=machine)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert bench_inline("run", cwd=machine).returncode == 0  # nothing is left to make
    assert bench_inline("run", "--rerun", cwd=machine).returncode == 2


def test_a_matrix_of_zones_is_refused_with_its_stage_bytes_and_batch(tmp_path):
    text = SMALL.replace("none: {}", "lzn: {steps: 2}").replace("patch: 4", "patch: 1")
    (tmp_path / "matrix.yaml").write_text(text.replace("batch: 16", "batch: 1024"))  # 65,536 anchors
    ran = bench_inline("run", cwd=tmp_path)
    assert ran.returncode == 2
    # Some 100 GB; the latents and what scores draw of them don't fit either.
    assert re.search(r"tokenizer vit · lzn · seed 0 \(and \d+ more\) needs 1", ran.stderr)
    assert "{batch: 1024}" in ran.stderr
