"""Learning rates, groups and averages of weights, against closed forms and torch's own schedulers."""

import math
from dataclasses import fields

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from latentbench.bench.api import Generator, LatentSpec
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.settings import Optimizer
from latentbench.bench.registry import get
from latentbench.bench.runtime.processes import ALONE
from latentbench.bench.training.context import Context
from latentbench.bench.training.ema import Average
from latentbench.bench.training.generator import _groups, train_generator
from latentbench.bench.training.optimizers import DEFAULTS, adamw, last_steps, rate, step_optimizer

PLAIN = DEFAULTS | {"lr": 1.0, "warmup": 0, "schedule": "constant"}


def rates(settings, total, steps=None):
    return [rate(settings, step, total) for step in range(steps or total)]


def test_every_setting_that_a_matrix_may_write_has_a_default():
    assert set(DEFAULTS) == {field.name for field in fields(Optimizer)}


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_a_cosine_ends_at_its_floor_as_torch_s_does(floor):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=floor)
    expected = []
    for _ in range(21):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    settings = PLAIN | {"schedule": "cosine", "floor": floor}
    assert rates(settings, 20, 21) == pytest.approx(expected)
    assert rates(settings, 20, 30)[-1] == pytest.approx(floor)


def test_a_rate_is_held_and_then_falls_by_a_cosine_over_the_rest():
    settings = PLAIN | {"schedule": "cosine", "lr": 1e-4, "hold": 10, "floor": 1e-6}
    found = rates(settings, 30, 31)
    assert found[:11] == [pytest.approx(1e-4)] * 11
    assert found[20] == pytest.approx((1e-4 + 1e-6) / 2)
    assert found[30] == pytest.approx(1e-6) and found == sorted(found, reverse=True)


def test_a_floor_lifts_no_rate_and_without_one_nothing_is_rounded_otherwise():
    settings = PLAIN | {"schedule": "cosine", "lr": 1e-6, "floor": 1e-5}
    assert max(rates(settings, 10)) <= 1e-6
    for step in range(50):
        plain = 1e-3 * min(1.0, (step + 1) / 7) * 0.5 * (1 + math.cos(math.pi * step / 50))
        found = rate(DEFAULTS | {"lr": 1e-3, "warmup": 7}, step, 50)
        assert found == pytest.approx(plain, rel=1e-15)


def step_of(optimizer, parameters, index, clip=0.0):
    accelerator = Accelerator(cpu=True)
    step_optimizer(optimizer, parameters, index, 10, clip, accelerator, ALONE)


def test_a_group_whose_updates_are_over_stays_and_others_are_clipped_without_it():
    still, moving = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))
    optimizer = adamw([(PLAIN | {"steps": 2, "weight_decay": 0.1}, [still]), (PLAIN, [moving])])
    seen = []
    for index in range(4):
        still.grad, moving.grad = torch.full((3,), 100.0), torch.full((1,), 0.5)
        step_of(optimizer, [still, moving], index, clip=1.0)
        seen.append(still.detach().clone())
        # Alone it is shorter than the clip's norm; beside a gradient of 173 it is 0.5 / 173.
        assert moving.grad.item() == pytest.approx(0.5 / 173.2 if index < 2 else 0.5, rel=1e-3)
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[3])


@pytest.mark.parametrize("decayed", ["all", "matrices"])
def test_weight_decay_spares_biases_and_gains_where_it_is_told_to(decayed):
    layer = nn.Linear(2, 2)
    before = [p.detach().clone() for p in layer.parameters()]
    settings = PLAIN | {"weight_decay": 0.5, "decayed": decayed}
    optimizer = adamw([(settings, list(layer.parameters()))])
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step_of(optimizer, list(layer.parameters()), 0)
    torch.testing.assert_close(layer.weight.detach(), 0.5 * before[0])
    torch.testing.assert_close(layer.bias.detach(), (0.5 if decayed == "all" else 1.0) * before[1])


class Two(Generator):
    """Two modules that are pulled alike."""

    def __init__(self, spec, classes):
        super().__init__(spec, classes)
        self.body, self.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for module in (self.body, self.head):
            nn.init.ones_(module.weight)

    def loss(self, z, labels, noise):
        return {"pull": self.body.weight.sum() + self.head.weight.sum()}


def test_a_generator_s_modules_have_settings_of_their_own(tmp_path):
    model = Two(LatentSpec(1, 1), 0)
    optimizer = {
        "lr": 0.01,
        "warmup": 0,
        "schedule": "constant",
        "ema": 0.0,
        "clip": 0.0,
        "modules": {"head": {"steps": 3}},
    }
    draw = lambda index, step: torch.zeros(len(index), 1, 1)  # noqa: E731
    train_generator(
        model, draw, 8, None, steps=10, batch=2, seed="0", optimizer=optimizer, context=Context(tmp_path)
    )
    # With a constant gradient each update of Adam is as long as the learning rate.
    assert model.body.weight.item() == pytest.approx(1 - 10 * 0.01, abs=1e-5)
    assert model.head.weight.item() == pytest.approx(1 - 3 * 0.01, abs=1e-5)


@pytest.mark.parametrize("name", ["imagenet256", "imagenet256-flow-priors"])
def test_presets_decay_of_mar_what_its_code_decays(name):
    (row,) = (row for row in load_matrix(name).generators if row.part == "mar")
    model = get("generators", "mar")(
        LatentSpec(4, 2), 3, width=8, depth=1, heads=2, head_width=8, head_depth=1
    )
    decay = {}
    for settings, parameters in _groups(model, row.optimizer):
        for group in adamw([(settings, parameters)]).param_groups:
            decay |= {id(p): group["weight_decay"] for p in group["params"]}
    for path, parameter in model.named_parameters():  # misc.add_weight_decay, whose `diffloss` is the head
        free = parameter.dim() == 1 or path.endswith(".bias") or path.startswith("head.")
        assert decay[id(parameter)] == (0.0 if free else 0.02), path


def test_an_average_s_decay_rises_to_its_own_and_is_exact():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average, expected = Average(module, 0.5), 0.0
    for k in range(20):
        nn.init.constant_(module.weight, float(k))
        average.update(module, k)
        decay = min(0.5, (1 + k) / (10 + k))
        expected = decay * expected + (1 - decay) * k
    assert average.weights(module)["weight"].item() == pytest.approx(expected)


def test_the_average_of_parameters_whose_updates_are_over_stays_too():
    module, short = nn.Linear(1, 1), []
    optimizer = adamw([(PLAIN | {"steps": 3}, [module.weight]), (PLAIN, [module.bias])])
    average = Average(module, 0.5)
    for k in range(6):
        module.weight.grad, module.bias.grad = torch.ones(1, 1), torch.ones(1)
        step_of(optimizer, [module.weight, module.bias], k)
        average.update(module, k, last_steps(optimizer))
        short.append({name: tensor.clone() for name, tensor in average.weights(module).items()})
    assert all(torch.equal(later["weight"], short[2]["weight"]) for later in short[3:])
    assert (short[5]["weight"] - module.weight).abs() > 0.1
    assert not torch.equal(short[4]["bias"], short[5]["bias"])


def test_statistics_of_batch_norms_are_averaged_and_what_counts_is_copied():
    norm = nn.BatchNorm1d(1, affine=False)
    average, mean = Average(norm, 0.9), 0.0
    for k in range(5):
        norm(torch.randn(8, 1) + 3)
        average.update(norm, k)
        decay = min(0.9, (1 + k) / (10 + k))
        mean = decay * mean + (1 - decay) * norm.running_mean.item()
    shadow = average.weights(norm)
    assert shadow["running_mean"].item() == pytest.approx(mean) and shadow["num_batches_tracked"] == 5
