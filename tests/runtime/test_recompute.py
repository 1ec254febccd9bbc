"""Gradient checkpointing and compilation of repeated layers: the same numbers, for less memory."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentbench.bench.api import ImageSpec, LatentSpec, Noise
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.models.activations import step_cost
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import create
from latentbench.bench.runtime.onednn import by_onednn
from latentbench.bench.runtime.recompute import prepare, segments
from latentbench.bench.stages.table import STAGES
from latentbench.bench.training.context import Context
from latentbench.bench.training.one_step import generator_step

SPEC = LatentSpec(16, 4, (4, 4))
LABELS = torch.arange(8) % 3
GENERATORS = {
    "lightningdit": {"depth": 4},
    "sit": {"depth": 4},
    "ddt": {"depth": 4},
    "meanflow": {"depth": 4},
    "mar": {"depth": 4, "dropout": 0.1},
    "raster_ar": {"depth": 4},
    "tarflow": {"layers": 2, "conditioning": "adaln"},
    "starflow": {"use": "tarflow", "layers": 2, "conditioning": "prefix"},
    "velocity_mlp": {"depth": 4},
}


def generator(name):
    options = {"use": name, **GENERATORS[name]}
    torch.manual_seed(0)
    model = create("generators", options.pop("use"), spec=SPEC, classes=3, **options)
    for parameter in model.parameters():  # past layers that start at zero
        nn.init.normal_(parameter, std=0.1)
    return model


def tokenizer(name, **options):
    torch.manual_seed(0)
    return create("tokenizers", name, image=ImageSpec(3, 16, 16), expansion=1, **options)


def gradients(model, loss):
    """And the bytes of all storages that autograd keeps, parameters apart."""
    given, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with saved_tensors_hooks(pack, lambda tensor: tensor), by_onednn():  # as in training
        value = loss()
    value.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return value.detach(), found, sum(kept.values())


def same(model, loss, share, **close):
    """Before and after; afterwards no more than a share of the memory is kept."""
    value, plain, before = gradients(model, loss)
    names = list(model.state_dict())
    prepare({"checkpointing": True}, model)
    again, recomputed, after = gradients(model, loss)
    assert torch.equal(again, value) and list(model.state_dict()) == names
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, **close)
    assert after < share * before


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_s_gradients_are_those_of_plain_autograd_in_less_memory(name):
    model, z = generator(name).train(), torch.randn(8, 16, 4)
    loss = lambda: sum(model.loss(z, LABELS, Noise(0)).values())  # noqa: E731
    same(model, loss, 0.6, rtol=1e-5, atol=1e-6)


TOKENIZERS = [(name, {}) for name in ("vit", "conv", "vavae", "softvq", "dino", "frozen_encoder")]
TOKENIZERS += [("vit", {"style": "detok"})]


@pytest.mark.parametrize("name, options", TOKENIZERS)
def test_so_are_a_tokenizer_s(name, options):
    model, images = tokenizer(name, **options).train(), torch.randn(8, 3, 16, 16)
    loss = lambda: (model.decode(model.encode(images)) - images).square().mean()  # noqa: E731
    same(model, loss, 0.75, rtol=1e-5, atol=1e-6)


def test_segments_are_layers_and_residual_blocks():
    kinds = {
        "lightningdit": ("Block", 4),
        "mar": ("Block _ResidualMLP", 11),
        "raster_ar": ("PlacedLayer _ResidualMLP", 7),
        "tarflow": ("CausalLayer", 8),
        "velocity_mlp": ("_ResidualMLP", 4),
    }
    for name, (kind, count) in kinds.items():
        found = segments(generator(name))
        assert {type(one).__name__ for one in found} == set(kind.split()) and len(found) == count
    assert {type(one).__name__ for one in segments(tokenizer("conv"))} == {"ResBlock", "Attention"}
    found = segments(tokenizer("vit", style="detok", depth=2))
    assert [type(one).__name__ for one in found] == 4 * ["RotaryBlock"]


def test_a_batch_norm_sees_each_batch_once():
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model, x, other = nn.Sequential(Residual(inner), nn.Linear(4, 1)), torch.randn(8, 4), nn.BatchNorm1d(4)
    other(inner[0](x))
    prepare({"checkpointing": True}, model)
    model(x).sum().backward()
    assert torch.equal(inner[1].running_mean, other.running_mean)
    assert inner[1].num_batches_tracked == 1 and inner[0].weight.grad is not None
    model.eval()
    model(x).sum().backward()
    assert inner[1].num_batches_tracked == 1


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def test_gradients_of_gradients_pass_through_a_segment():
    model, z = generator("lightningdit"), torch.randn(8, 16, 4)

    def penalty():
        x = z.clone().requires_grad_()
        v = model.velocity(x, torch.full((8,), 0.5), LABELS)
        return torch.autograd.grad(v.square().sum(), x, create_graph=True)[0].square().mean()

    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        same(model, penalty, 2.0, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_follows_checkpointing(precision):
    model, z = generator("lightningdit").train(), torch.randn(8, 16, 4)
    plain = step_cost(generator_step, model, z, LABELS, precision=precision)
    less = step_cost(generator_step, model, z, LABELS, precision=precision, checkpointing=True)
    assert less.activations < 0.6 * plain.activations
    # A forward pass is a third of a step; what stands outside of blocks is not done again.
    assert 1.2 < less.flops / plain.flops < 4 / 3


def test_the_estimate_is_what_autograd_keeps_and_the_largest_segment():
    model, z = generator("lightningdit").train(), torch.randn(8, 16, 4)
    loss = lambda: sum(model.loss(z, LABELS, Noise(0)).values())  # noqa: E731
    plain = gradients(model, loss)[2]
    prepare({"checkpointing": True}, model)
    kept, of_inputs = gradients(model, loss)[2], z[0].numel() // 4 * 64 * 8 * 4
    one = (plain - kept) / 4 + of_inputs
    estimate = step_cost(generator_step, generator("lightningdit"), z, LABELS, checkpointing=True).activations
    assert estimate == pytest.approx(kept + one, rel=0.1)


MATRIX = """\
name: fast
dataset: {use: digits}
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 8}
features: effnet_lite0
samples: 8
tokenizers: {vit: {width: 16, depth: 1}}
regularizers: {none: {}}
generators: {lightningdit: {width: 16, depth: 2}}
evaluators: [reconstruction]
"""


def planned(tmp_path, more=""):
    (tmp_path / "matrix.yaml").write_text(MATRIX + more)
    return {stage.kind: stage for stage in make_plan(load_matrix(tmp_path / "matrix.yaml")).stages.values()}


def test_what_changes_rounding_alone_is_in_no_key_and_compiling_is_in_those_of_training(tmp_path):
    plain = planned(tmp_path)
    lean, fast = planned(tmp_path, "checkpointing: true\n"), planned(tmp_path, "compile: true\n")
    assert {kind: stage.key for kind, stage in lean.items()} == {k: stage.key for k, stage in plain.items()}
    assert lean["tokenizer"].config["checkpointing"] and "checkpointing" not in plain["tokenizer"].config
    assert fast["tokenizer"].key != plain["tokenizer"].key and fast["generator"].key != plain["generator"].key
    assert fast["features"].key == plain["features"].key


def test_a_stage_trains_as_its_config_says(tmp_path, monkeypatch):
    compiled, compile_ = [], torch.compile
    # Without a compiler: what it is given, and that it goes on with it.
    monkeypatch.setattr(
        torch, "compile", lambda f: compiled.append(f.__self__) or compile_(f, backend="eager")
    )
    found = {}
    for more in ("", "checkpointing: true\n", "compile: true\ncheckpointing: true\n"):
        stage = planned(tmp_path, more)["tokenizer"]
        (tmp_path / str(len(found))).mkdir()
        result = STAGES["tokenizer"](stage.config, {}, Context(tmp_path / str(len(found))))
        found[more] = result.tensors
    plain, *others = found.values()
    for tensors in others:
        assert tensors.keys() == plain.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, plain[name], rtol=1e-4, atol=1e-5)
    assert [type(module).__name__ for module in compiled] == ["Block", "Block"]
