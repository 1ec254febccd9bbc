"""Runs on a GPU: resumed, two at a time, with processes, and in the memory that was planned."""

import json
import math
import multiprocessing
import re

import pytest
import torch
from helpers.gpu import GPU, on_each_device
from helpers.run import TINY, bench, bench_inline, fields_of, killed_at_work
from torch import distributed, nn
from torch.distributed import HashStore

from latentbench.bench.contracts.common import NoiseDataset
from latentbench.bench.engine import companions
from latentbench.bench.registry import create
from latentbench.bench.runtime.processes import Group
from latentbench.bench.training.context import Context, Stopped
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.tokenizer import train_tokenizer

SAME = {"cpu": 0.0, "cuda": 1e-3}  # relative differences of two runs: a GPU may sum in any order
LONG = TINY.replace("tokenizer_steps: 12, generator_steps: 12", "tokenizer_steps: 3000, generator_steps: 12")
# Beside a step's tensors: the workspaces of cuBLAS and cuDNN, and torch's rounding of sizes.
BESIDE = 64 * 2**20
on_a_gpu_or_at_night = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.nightly), GPU]
)


def trained(folder, device, stop=None):
    """Losses and weights of six updates; with `stop`, interrupted once and taken up again."""
    data = NoiseDataset()
    folder.mkdir()
    for stopping in (None,) if stop is None else (stop, None):
        torch.manual_seed(0)
        tokenizer = create("tokenizers", "vit", image=data.image, expansion=2, width=16, depth=1, heads=2)
        regularizer = create("regularizers", "kl", spec=tokenizer.spec)
        asked = iter(range(100))
        try:
            state = train_tokenizer(
                tokenizer,
                regularizer,
                data,
                Objective({"l1": Term(1.0, l1)}),
                TrainingBudget(6, 8),
                seed=0,
                optimizer=({}, {}),
                context=Context(
                    folder, device, stopping=lambda s=stopping, a=asked: s is not None and next(a) >= s
                ),
            )
        except Stopped:
            assert stopping is not None
    return state.curves, torch.cat([p.detach().cpu().flatten() for p in tokenizer.parameters()])


@on_each_device
def test_a_training_that_was_interrupted_ends_as_one_that_was_not(device, tmp_path):
    curves, weights = trained(tmp_path / "straight", device)
    again, resumed = trained(tmp_path / "resumed", device, stop=2)
    assert again["step"] == curves["step"] == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(resumed, weights, rtol=SAME[device], atol=SAME[device])
    for name, values in curves.items():
        assert again[name] == pytest.approx(values, rel=SAME[device], abs=SAME[device]), name


def scores(folder):
    """The value of every metric by record and name, and the records' devices."""
    records = [fields_of(file) for file in sorted((folder / "records").glob("*.json"))]
    assert records and {record["status"] for record in records} == {"done"}
    # Throughputs and other costs are times.
    return {
        (*record["cell"].values(), name): metric["value"]
        for record in records
        for name, metric in record["metrics"].items()
        if metric["value"] is not None and "second" not in str(metric.get("unit", ""))
    }


def require_same(found, expected, device):
    assert found.keys() == expected.keys() != set()
    slack = max(SAME[device], 1e-12)
    far = {
        name: (value, expected[name])
        for name, value in found.items()
        if not math.isclose(value, expected[name], rel_tol=20 * slack, abs_tol=slack)
    }
    assert not far, far


@on_a_gpu_or_at_night
def test_a_run_that_was_killed_ends_with_the_scores_of_one_that_was_not(device, tmp_path):
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "matrix.yaml").write_text(LONG)
    asked = ("run", "-j", "1", "--device", device)
    killed_at_work(6, *asked, cwd=tmp_path / "killed")
    for name in ("straight", "killed"):
        done = bench(*asked, cwd=tmp_path / name, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
    straight, killed = (scores(tmp_path / name / "results" / "tiny") for name in ("straight", "killed"))
    require_same(killed, straight, device)


@on_a_gpu_or_at_night
def test_two_workers_share_one_device(device, tmp_path):
    found = []
    for jobs in ("1", "2"):
        folder = tmp_path / jobs
        folder.mkdir()
        (folder / "matrix.yaml").write_text(TINY)
        done = bench("run", "-j", jobs, "--device", device, cwd=folder, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(scores(folder / "results" / "tiny"))
    require_same(found[1], found[0], device)


@on_each_device
def test_one_rank_talks_by_the_backend_of_each_device(device):
    companions.join_group(HashStore(), 0, 0, 1, device, 0)
    try:
        expected = {"cpu": "gloo"} | ({"cuda": "nccl"} if device == "cuda" else {})
        for kind, backend in expected.items():
            value = torch.arange(4.0, device=kind)
            distributed.all_reduce(value)
            assert value.tolist() == [0, 1, 2, 3]
            assert re.search(rf"\b({kind}:)?{backend}\b", str(distributed.get_backend_config()))
        parts = [torch.empty(4, device=device)]
        distributed.all_gather(parts, torch.ones(4, device=device))
        assert parts[0].sum() == 4
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def averaged(rank, file, device, send):
    """One of two ranks, on one device: the mean of values and of gradients over both."""
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    net, group = nn.Linear(3, 1).to(device), Group(rank, 2)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, float(rank))
    group.average_gradients(net.parameters())
    mean = group.mean(torch.tensor([float(rank), 4.0], device=device))
    send.send([mean.tolist(), net.weight.grad.flatten().tolist(), net.bias.grad.tolist()])
    distributed.destroy_process_group()


@on_a_gpu_or_at_night
def test_two_ranks_on_one_device_average_by_gloo_as_nccl_refuses_a_gpu_that_is_taken(device, tmp_path):
    start = multiprocessing.get_context("spawn")
    ends = [start.Pipe() for _ in range(2)]
    ranks = [
        start.Process(target=averaged, args=(rank, str(tmp_path / "meet"), device, ends[rank][1]))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for receive, _ in ends:
        assert receive.poll(120)
        assert receive.recv() == [[0.5, 4.0], [0.5] * 3, [0.5]]
    for process in ranks:
        process.join(30)


@pytest.mark.gpu
def test_two_processes_share_each_stage_on_two_gpus(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU: nccl refuses two ranks on it (`Duplicate GPU detected`)")
    (tmp_path / "matrix.yaml").write_text(TINY)
    done = bench("run", "--processes", "2", "-j", "1", "--device", "cuda", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(tmp_path / "results" / "tiny")


def test_more_processes_than_gpus_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    (tmp_path / "matrix.yaml").write_text(TINY)
    done = bench_inline("run", "--processes", "2", "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert "2 processes for a stage need a GPU each, and there is 1 GPU: take --processes 1" in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stages_take_the_memory_that_was_planned(precision, tmp_path):
    """The peak that torch's allocator counts is between half of the plan's number and a tenth above it."""
    (tmp_path / "matrix.yaml").write_text(
        TINY.replace("width: 16", "width: 256") + f"precision: {precision}\n"
    )
    planned = bench("plan", "--json", "--device", "cuda", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    done = bench("run", "-j", "1", "--device", "cuda", cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    most = {"tokenizer": 0.0, "generator": 0.0}
    for stage in json.loads(planned.stdout)["stages"]:
        if stage["kind"] in most:
            most[stage["kind"]] = max(most[stage["kind"]], stage["memory_bytes"])
    records = [fields_of(file) for file in (tmp_path / "results/tiny/records").glob("*.json")]
    for kind, plan in most.items():
        peak = 2**20 * max(record["cost"].get(f"{kind}_peak_mib") or 0 for record in records)
        print(f"{kind}: planned {plan / 2**20:.0f} MiB, at the peak {peak / 2**20:.0f} MiB")
        assert 0.5 * plan < peak < 1.1 * plan + BESIDE, kind
