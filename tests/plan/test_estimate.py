"""Estimates of a plan against closed forms, torch's own counters and the cost of real runs."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.run import TINY, bench_inline
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.cli import app
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.models.activations import step_cost
from latentbench.bench.models.flops import TooLong, forward_flops
from latentbench.bench.plan import dry_run, estimate
from latentbench.bench.plan.forecast import forecast, scaled, span
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import create
from latentbench.bench.training.one_step import backward, generator_step

SPEC = LatentSpec(16, 4, (4, 4))


def batch(device="meta"):
    return torch.zeros(6, 16, 4, device=device), torch.zeros(6, dtype=torch.int64, device=device)


def summed(module, x):
    backward(module(x).sum())


def planned(text, folder, **given):
    (folder / "matrix.yaml").write_text(text)
    made = make_plan(load_matrix(folder / "matrix.yaml", **given))
    return made, estimate.costs(made, made.stages.values())


def of_kind(kind, made, costs):
    return [costs[one] for one, stage in made.stages.items() if stage.kind == kind]


@pytest.mark.parametrize("name", ["lightningdit", "mar", "raster_ar", "tarflow"])
def test_a_training_step_has_the_operations_that_torch_counts_on_real_tensors(name):
    model = create("generators", name, spec=SPEC, classes=3)
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as real,
    ):
        generator_step(model, *batch("cpu"))
    assert step_cost(generator_step, model, *batch()).flops == real.get_total_flops() > 0


@pytest.mark.parametrize("name", ["lightningdit", "mar", "raster_ar", "tarflow"])
def test_kept_activations_are_those_of_a_real_step(name):
    model = create("generators", name, spec=SPEC, classes=3)
    given = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in given:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        generator_step(model, *batch("cpu"))
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert step_cost(generator_step, model, *batch()).activations == pytest.approx(real, rel=0.1)


def test_a_chain_of_layers_keeps_the_input_of_each_once():
    chain = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU())
    x = torch.empty(5, 8)
    assert step_cost(summed, chain, x).activations == 4 * 5 * (32 + 8)
    # In half precision also casts: of the input, and of weights that a gradient passes.
    half = step_cost(summed, chain, x, precision="bf16").activations
    assert half == 2 * 5 * (8 + 32 + 8) + 2 * 8 * 32


def test_attention_keeps_no_weights_of_every_pair_of_tokens():
    def attend(qkv):
        backward(scaled_dot_product_attention(*qkv.requires_grad_().unbind()).sum())

    short, long = (step_cost(attend, torch.empty(3, 2, 4, tokens, 16)) for tokens in (64, 128))
    assert long.activations == 2 * short.activations
    assert long.flops == 4 * short.flops == 6 * 2 * (2 * 4 * 128 * 128 * 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpoints_trade_operations_for_activations(precision):
    """The first of two layers is computed again: 7 passes in place of 2 forward and 4 backward."""
    blocks = [nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)) for _ in range(4)]

    class Segments(nn.Module):
        def __init__(self, again):
            super().__init__()
            self.blocks, self.again = nn.ModuleList(blocks), again

        def forward(self, x):
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
            return x

    x = torch.empty(256, 16)
    whole, again = (
        step_cost(lambda m, x: summed(m, x.requires_grad_()), Segments(again), x, precision=precision)
        for again in (False, True)
    )
    assert again.flops * 6 == whole.flops * 7
    assert again.activations < whole.activations / 3


def test_a_step_may_look_at_a_value_and_calls_can_be_limited():
    def branch(x):
        return x.relu_() if x.sum() > 1 else x @ x.mT

    assert forward_flops(branch, torch.empty(2, 3)) == 2 * 2 * 2 * 3
    assert step_cost(branch, torch.empty(2, 3)).flops == 2 * 2 * 2 * 3
    with pytest.raises(TooLong):
        forward_flops(lambda x: [x + 1 for _ in range(11)], torch.empty(1), calls=10)


def test_samplers_are_extrapolated_from_few_steps():
    model = create("generators", "lightningdit", spec=SPEC, classes=9)
    with FlopCounterMode(display=False) as real, torch.no_grad():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            model.sample(torch.zeros(1, dtype=torch.int64), 1.5, Noise(0), steps=12)
    assert dry_run.sample(model.to("meta"), 9, True, {"steps": 12}) == real.get_total_flops()
    mar = create("generators", "mar", spec=SPEC, classes=9)
    with FlopCounterMode(display=False) as real, torch.no_grad():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            mar.sample(torch.zeros(1, dtype=torch.int64), 1.5, Noise(0), steps=6)
    estimated = dry_run.sample(mar.to("meta"), 9, True, {"iterations": None, "steps": 6})
    assert estimated == pytest.approx(real.get_total_flops(), rel=0.25)


def test_groups_of_tokens_and_scores_are_counted_whether_a_sampler_is_followed_or_too_long(monkeypatch):
    flow = create("generators", "tarflow", spec=SPEC, classes=9).to("meta")
    options = {"denoise": True, "score_step": 0.1}
    sequential, grouped = (dry_run.sample(flow, 9, True, options | {"group": n}) for n in (1, 4))
    monkeypatch.setattr(dry_run, "MAX_CALLS", 10)
    short = [dry_run.sample(flow, 9, True, options | {"group": n}) for n in (1, 4)]
    assert [sequential, grouped] == [pytest.approx(n, rel=0.2) for n in short]
    without = dry_run.sample(flow, 9, True, {"denoise": False})
    density = forward_flops(flow.log_prob, torch.empty(1, 16, 4), torch.zeros(1, dtype=torch.int64))
    assert short[0] - without == 2 * 3 * density  # three scores, each forward and backward


def test_memory_is_weights_gradients_two_moments_and_the_average(tmp_path):
    made, costs = planned(TINY, tmp_path)
    bare = next(c for c in of_kind("tokenizer", made, costs))
    trained = next(c for c in of_kind("generator", made, costs) if c.parameters)
    assert bare.optimizer_memory_bytes == 12 * bare.parameters
    assert trained.optimizer_memory_bytes == 12 * trained.parameters + trained.weights_memory_bytes
    assert trained.images == 12 * 16 and trained.flops == trained.flops_per_image * trained.images


def test_a_fitted_generator_has_no_optimizer_and_no_operations(tmp_path):
    made, costs = planned(TINY, tmp_path)
    fitted = [c for c in of_kind("generator", made, costs) if not c.images]
    assert len(fitted) == 2 and all(c.optimizer_memory_bytes == 0 == c.flops for c in fitted)


def test_equal_modules_are_counted_once_whatever_the_seeds(tmp_path, monkeypatch):
    calls = []

    def spied(*arguments, **given):
        calls.append(arguments)
        return step_cost(*arguments, **given)

    monkeypatch.setattr(dry_run, "step_cost", spied)
    planned(TINY, tmp_path)
    one = len(calls)
    assert one > 0
    made, costs = planned(TINY, tmp_path, seeds=3)
    assert len(calls) == 2 * one
    assert len({cost for cost in of_kind("tokenizer", made, costs)}) == 2  # none and kl, of three seeds each


def test_what_is_shared_is_paid_once(tmp_path):
    (tmp_path / "matrix.yaml").write_text(TINY)
    made = make_plan(load_matrix(tmp_path / "matrix.yaml"))
    found = forecast(made, made.cells, [], "h100", "fp32", 0.5)
    total = found.totals()
    tokenizers = sum(c.flops for c in of_kind("tokenizer", made, found.costs))
    # Each tokenizer has two generators: without sharing it is trained and scored for both.
    latents = sum(c.flops for c in of_kind("latents", made, found.costs))
    assert total["unshared"]["flops"] - total["shared"]["flops"] == pytest.approx(tokenizers + latents)
    assert total["shared"]["accelerator_hours"] == pytest.approx(
        total["shared"]["flops"] / 67e12 / 0.5 / 3600
    )
    [halved] = [line for line in found.sentences(2) if "workers" in line]
    hours = found.totals()["to_do"]["accelerator_hours"]
    assert halved == f"with 2 workers that never wait: at least {span(hours / 2)}"
    assert not any("workers" in line for line in found.sentences())
    everything = forecast(made, made.cells, made.stages, "h100", "fp32", 0.5).totals()
    assert everything["to_do"]["accelerator_hours"] == 0


def test_a_model_of_675_million_parameters_is_planned_and_does_not_fit(tmp_path, monkeypatch):
    """LightningDiT-XL: 28 layers of width 1152 at 16 heads."""
    monkeypatch.chdir(tmp_path)
    text = TINY.replace("{width: 32, depth: 1, heads: 2,", "{width: 1152, depth: 28, heads: 16,")
    (tmp_path / "matrix.yaml").write_text(text.replace("batch: 16", "batch: 1024"))
    ran = CliRunner().invoke(app, ["plan", "--accelerator", "rtx4090", "--json"], catch_exceptions=False)
    shown = json.loads(ran.output)
    stage = max(shown["stages"], key=lambda s: s["parameters"])
    assert stage["parameters"] == pytest.approx(675e6, rel=0.01)
    assert {"flops_per_image", "flops", "memory_bytes", "disk_bytes", "accelerator_hours"} <= set(stage)
    assert stage["optimizer_memory_bytes"] + stage["weights_memory_bytes"] >= 20 * stage["parameters"]
    text = CliRunner().invoke(app, ["plan", "--accelerator", "rtx4090"], catch_exceptions=False).output
    assert "warning: generator vit · none · lightningdit · seed 0.0 and 1 more" in text
    assert "do not fit rtx4090's 24 GB" in text
    table = text.splitlines()[: text.splitlines().index(next(x for x in text.splitlines() if "total" in x))]
    assert max(map(len, table)) <= 100
    wrong = CliRunner().invoke(app, ["plan", "--accelerator", "h10"])
    assert wrong.exit_code == 2 and "h100" in wrong.output


def test_a_run_leaves_what_was_planned(tmp_path, monkeypatch):
    """Operations per image are the cost evaluator's, bytes on disk those of the artifacts, to a few kB."""
    text = TINY.replace("  none: {}\n", "").replace("  gaussian: {}\n", "")
    text = text.replace("[reconstruction, generation, density, cost]", "[cost]")
    (tmp_path / "matrix.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["plan", "--json"], catch_exceptions=False).output
    shown = json.loads(said)["stages"]
    ran = bench_inline("run", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for stage in shown:
        folder = tmp_path / ".bench/artifacts" / stage["kind"] / stage["key"]
        if stage["disk_bytes"] is not None and stage["kind"] != "scores":
            written = (folder / "tensors.safetensors").stat().st_size
            assert written == pytest.approx(stage["disk_bytes"], rel=0.02, abs=10_000), stage["label"]
    record = next((tmp_path / "results/tiny/records").glob("*lightningdit*.json"))
    cost = json.loads(record.read_text())["cost"]
    by_kind = {stage["kind"]: stage for stage in shown}
    of_tokenizer = cost["tokenizer_gflop_per_image"] + cost["regularizer_gflop_per_image"]
    assert by_kind["tokenizer"]["flops_per_image"] == pytest.approx(1e9 * of_tokenizer)
    of_latent = next(value for name, value in cost.items() if name.startswith("generator_gflop_per_latent"))
    assert by_kind["generator"]["flops_per_image"] == pytest.approx(1e9 * of_latent)
    # A process holds its libraries besides.
    assert cost["tokenizer_peak_mib"] * 2**20 > by_kind["tokenizer"]["memory_bytes"]


PEAK = """
import re, tempfile
from pathlib import Path
import torch
from latentbench.bench.models import activations
from latentbench.bench.training import one_step
from latentbench.bench.api import LatentSpec
from latentbench.bench.training.generator import train_generator
from latentbench.bench.registry import create
from latentbench.bench.training.context import Context

model = create("generators", "lightningdit", spec=LatentSpec(16, 8, (4, 4)), classes=9, width=128, depth=4)
z, labels = torch.randn(256, 16, 8), torch.zeros(256, dtype=torch.int64)
planned = activations.step_cost(one_step.generator_step, model, z, labels).activations

def peak(batch):
    with tempfile.TemporaryDirectory() as work:
        train_generator(model, lambda index, *_: z[index], 256, labels, steps=2, batch=batch, seed=0,
                        optimizer={}, context=Context(Path(work)))
    # Of this program alone: getrusage's peak is at first that of the process that started it.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

small = peak(1)
print(planned / (peak(256) - small))
"""


def test_activations_are_most_of_what_a_trainings_memory_grows_by():
    """The first small training makes weights, moments and libraries; the large one adds activations."""
    ran = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert 0.5 < float(ran.stdout) < 1.2


def test_numbers_are_short():
    assert [scaled(v) for v in (0, 999, 999.6, 1234567, 6.7e8)] == ["", "999", "1 k", "1.23 M", "670 M"]
    assert scaled(80e9, "B") == "80 GB"
    assert [span(h) for h in (1234, 2.5, 0.1, 1 / 3600, 1e-6)] == [
        "1,234 h",
        "2.5 h",
        "6 min",
        "1 s",
        "0.0036 s",
    ]
