"""The memory in a plan: tensors that grow with a square, against closed forms and real allocations."""

import json

import pytest
import torch
from typer.testing import CliRunner

from latentbench.bench.api import LatentSpec, Noise, Regularizer
from latentbench.bench.cli import app
from latentbench.bench.models.activations import forward_memory, step_cost
from latentbench.bench.models.live_tensors import GAPS, LiveTensors
from latentbench.bench.plan import passes
from latentbench.bench.plan.cost import Accelerator, Cost
from latentbench.bench.plan.fit import Memory, shortages
from latentbench.bench.registry import create
from latentbench.bench.store.stage import Stage
from latentbench.bench.training.one_step import backward

# 225 tokens of 256 images: 57,600 anchors, and 26.5 GB for a float64 of every pair.
ZONES = """\
name: mem
dataset: {use: shapes, size: 30, count: {train: 64, val: 16}}
budget: {tokenizer_steps: 4, generator_steps: 4, batch: 256}
features: {use: effnet_lite0, resolution: 32}
samples: 12
tokenizers: {vit: {width: 16, depth: 1, heads: 2, patch: 2, channels: 1}}
regularizers: {lzn: {steps: 2}}
generators: {gaussian: {}}
evaluators: [generation]
"""
PAIRS = 8 * 57_600**2


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Runs `bench plan` on the text of a matrix; returns stages by kind, and what is printed."""
    monkeypatch.chdir(tmp_path)

    def run(text, *options):
        (tmp_path / "matrix.yaml").write_text(text)
        shown = CliRunner().invoke(app, ["plan", "--json", *options], catch_exceptions=False)
        stages = {stage["kind"]: stage for stage in json.loads(shown.output)["stages"]}
        return stages, CliRunner().invoke(app, ["plan", *options], catch_exceptions=False).output

    return run


def test_the_zones_of_a_minibatch_take_a_square_of_its_tokens(plan):
    stages, said = plan(ZONES)
    # Distances, logits, softmax and weights of every pair are alive at a time.
    assert 3 * PAIRS < stages["tokenizer"]["memory_bytes"] < 5 * PAIRS
    assert (
        "warning: tokenizer vit · lzn · seed 0 and 1 more: " in said and " do not fit this machine's " in said
    )
    assert "`budget: {batch: 256}` now" in said
    assert "do not fit h100's 80 GB" in plan(ZONES, "--accelerator", "h100")[1]
    smaller, said = plan(ZONES.replace("batch: 256", "batch: 8"))
    assert smaller["tokenizer"]["memory_bytes"] < 5 * PAIRS / 32**2 + 20e6
    assert "warning: tokenizer" not in said


@pytest.mark.parametrize(
    ("method", "pairs"),
    [
        ("lzn: {steps: 2, anchors: image}", 8 * 256**2),
        ("mmd: {target: gaussian, tokens: 100}", 4 * 25_600**2),
        ("mmd: {target: gaussian, samples: image}", 4 * 256**2),
    ],
)
def test_every_loss_of_pairs_counts_its_pairs(method, pairs, plan):
    text = ZONES.replace("lzn: {steps: 2}", method)
    none, _ = plan(ZONES.replace("lzn: {steps: 2}", "none: {}"))
    added = plan(text)[0]["tokenizer"]["memory_bytes"] - none["tokenizer"]["memory_bytes"]
    # An autograd loss keeps some of its values of every pair; both have other tensors of 57,600 numbers.
    assert pairs < added + 4e6 < 40 * pairs + 8e6


def test_a_loss_of_an_images_pairs_of_tokens_counts_them(plan):
    """VA-VAE's: similarities of latents and of features, 225 x 225 each, for every image."""
    teacher = "{use: effnet_lite0, resolution: 480}"  # 30 x 30 tokens
    text = ZONES.replace("size: 30", "size: 60").replace("{use: effnet_lite0, resolution: 32}", teacher)
    text = text.replace("batch: 256", "batch: 16")
    none, _ = plan(text.replace("lzn: {steps: 2}", "none: {}"))
    vf, _ = plan(text.replace("lzn: {steps: 2}", "vf: {}"))
    pairs = 4 * 16 * 900**2
    added = vf["tokenizer"]["memory_bytes"] - none["tokenizer"]["memory_bytes"]
    assert 2 * pairs < added < 8 * pairs


def test_living_tensors_are_those_that_something_refers_to():
    with LiveTensors() as alive:
        a = torch.empty(1000, device="meta")
        b = a * 2  # 8,000 bytes
        del a
        c = b.view(10, 100) + 1  # a view takes no memory, its sum does
        assert alive.bytes == 8000 == alive.peak
        b.add_(1)
        del b, c
        assert alive.bytes == 0
    assert alive.peak == 8000


def test_a_heap_keeps_what_small_tensors_once_took_while_large_ones_come_and_go():
    with LiveTensors() as alive:
        small = torch.empty(2**20, device="meta")  # 4 MB
        assert alive.gaps == round(GAPS * 2**22)
        del small
        large = torch.empty(2**23, device="meta")  # 32 MB, which glibc always maps on its own
        assert alive.peak == 2**25 and alive.gaps == 2**22 + round(GAPS * 2**22)
        del large
    assert alive.small == alive.bytes == 0


def test_a_heaps_gaps_count_on_a_cpu_alone():
    step = {"activation_memory_bytes": 200, "temporary_memory_bytes": 100}
    assert Cost(**step).cpu_memory_bytes == 300
    assert Cost(**step, gap_memory_bytes=40).cpu_memory_bytes == 340
    assert Cost(**step, gap_memory_bytes=40).memory_bytes == 300


@pytest.mark.parametrize("recompute", [True, False])
def test_a_steps_peak_is_that_of_the_same_tensors_with_values(recompute):
    """The meta device's tensors live as long as real ones: counted there and here alike."""
    from latentbench.bench.nn.zones import zones

    def step(anchors, noise):
        backward(zones(anchors.requires_grad_(), noise, 1e-3, 4, recompute=recompute).square().sum())

    anchors, noise = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    anchors = anchors / 10  # so near that every step has a pull
    with LiveTensors() as alive:
        step(anchors.clone(), noise)
    planned = step_cost(step, torch.empty(40, 3), torch.empty(40, 3)).peak
    assert planned == pytest.approx(alive.peak, rel=0.1)


def test_attention_has_no_weights_of_every_pair_of_tokens_alive():
    def attend(qkv):
        backward(torch.nn.functional.scaled_dot_product_attention(*qkv.requires_grad_().unbind()).sum())

    short, long = (step_cost(attend, torch.empty(3, 2, 4, tokens, 16)) for tokens in (256, 512))
    assert long.peak == pytest.approx(2 * short.peak, rel=0.01)


def test_a_plugins_pairs_are_counted_without_its_help():
    class Pairs(Regularizer):
        def loss(self, z, h, step):
            flat = z.flatten(0, 1)
            return {"pairs": torch.cdist(flat, flat).mean()}

    spec = LatentSpec(64, 4)
    memory = forward_memory(lambda z: Pairs(spec).loss(z, z, None), torch.empty(10, 64, 4))
    assert 4 * 640**2 <= memory < 3 * 4 * 640**2


def test_samples_of_a_generator_count_its_cache_and_its_chunk():
    model = create("generators", "tarflow", spec=LatentSpec(16, 4, (4, 4)), classes=3).to("meta")
    labels = torch.zeros(8, dtype=torch.int64)

    def sample(labels):
        return model.sample(labels, 1.0, Noise(0), denoise=False)

    cache = 4 * 2 * 8 * 15 * 64  # keys and values of a block's layer
    assert cache < forward_memory(sample, labels) < 5 * cache
    assert forward_memory(sample, labels, calls=100) >= cache  # made at the start


def shortage(cost, device=None, main=None, **config):
    stage = Stage("tokenizer", "vit", config, {}, "tokenizer:1", True)
    return shortages([stage], {stage.id: cost}, device, main)


def test_a_stage_is_short_of_one_of_two_memories():
    cost = Cost(weights_memory_bytes=10, temporary_memory_bytes=30, set_memory_bytes=40)
    here = Memory("this machine", 79)
    assert [one.needed for one in shortage(cost, None, here)] == [80]
    assert not shortage(cost, None, Memory("this machine", 80))
    gpu = Memory("a GPU", 39)
    assert [(one.needed, one.memory.owner) for one in shortage(cost, gpu, here)] == [(40, "a GPU")]
    assert [one.needed for one in shortage(cost, None, None)] == []
    unknown = Cost(activation_memory_bytes=None, set_memory_bytes=100)
    assert unknown.memory_bytes is None and [one.needed for one in shortage(unknown, None, here)] == [100]


def test_copies_between_steps_and_a_steps_own_tensors_are_not_alive_together():
    step = {"activation_memory_bytes": 20, "temporary_memory_bytes": 10}
    assert Cost(**step, passing_memory_bytes=25).cpu_memory_bytes == 30
    assert Cost(**step, passing_memory_bytes=35).cpu_memory_bytes == 35
    assert Cost(**step, passing_memory_bytes=35).memory_bytes == 30


@pytest.mark.parametrize(
    ("cost", "config", "words"),
    [
        ({"activation_memory_bytes": 99}, {"batch": 7}, ["{batch: 7}", "checkpointing: true"]),
        ({"activation_memory_bytes": 99}, {"batch": 7, "checkpointing": True}, ["{batch: 7}"]),
        ({"temporary_memory_bytes": 99}, {"batch": 7}, ["smaller batch"]),
        ({"optimizer_memory_bytes": 99}, {"batch": 7}, ["smaller networks"]),
        ({"set_memory_bytes": 99}, {"batch": 7}, ["fewer images"]),
        ({"set_memory_bytes": 99, "memory_advice": "fewer points do"}, {}, ["fewer points do"]),
    ],
)
def test_the_advice_is_about_what_takes_most(cost, config, words):
    [found] = shortage(Cost(**cost), None, Memory("this machine", 1), **config)
    assert all(word in found.advice for word in words)
    assert ("checkpointing" in found.advice) == ("checkpointing: true" in words)


def test_an_accelerator_without_memory_of_its_own_is_this_machine():
    assert Accelerator("cpu core", {}, None).memory is None


@pytest.mark.parametrize("name, sampler", [("lightningdit", {}), ("tarflow", {"denoise": True})])
def test_a_cpu_samples_a_part_of_the_batch_at_a_time_and_a_gpu_all_of_the_batch(name, sampler):
    with torch.device("meta"):
        generator = create("generators", name, spec=LatentSpec(256, 4), classes=10, width=32)
    on_cpu, on_gpu = (passes.sampling(generator, 10, True, sampler, 128, on_cpu=cpu) for cpu in (True, False))
    assert 4 * on_cpu.peak < on_gpu.peak
