"""What engines share, and whose GPU is whose."""

import sys
import time
from pathlib import Path

import pytest
import torch

from latentbench.bench.engine import local
from latentbench.bench.engine.local import gpu_environment
from latentbench.bench.engine.start_process import start_process, start_variables


def test_gpus_are_dealt_to_workers_in_turn():
    dealt = [gpu_environment(["0", "1", "2"], worker, 1)["CUDA_VISIBLE_DEVICES"] for worker in range(5)]
    assert dealt == ["0", "1", "2", "0", "1"]


def test_a_worker_has_a_gpu_for_each_of_its_processes():
    dealt = [gpu_environment(["0", "1", "2", "3"], worker, 2)["CUDA_VISIBLE_DEVICES"] for worker in range(3)]
    assert dealt == ["0,1", "2,3", "0,1"]


def test_a_worker_whose_processes_are_on_several_machines_has_all_gpus_of_this_one_in_order():
    assert gpu_environment(["0", "1"], 0, 16) == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_without_gpus_nothing_is_said_of_them():
    assert gpu_environment([], 3, 1) == {}


def test_only_the_gpus_that_the_environment_names_are_dealt(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8d1f")
    assert local.visible_gpus() == ["5", "GPU-8d1f"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert local.visible_gpus() == ["0", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_where_memory_runs_out_the_kernel_ends_workers_before_the_run_that_can_tell_it():
    process = start_process(time.sleep, (60,), "worker", start_variables(1))

    preference, mine = (Path(f"/proc/{pid}/oom_score_adj") for pid in (process.pid, "self"))
    end = time.monotonic() + 30
    while int(preference.read_text()) <= int(mine.read_text()):  # the process is starting
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.join()
