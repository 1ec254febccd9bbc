import pytest
import torch
from helpers.fake_subject import FakeSubject
from torch import nn

from latentbench.bench.api import Generator, ImageSpec, LatentSpec, Regularizer, Tokenizer
from latentbench.bench.models.flops import flops, parameters
from latentbench.bench.registry import create
from latentbench.evaluators.cost import stage_costs


class Linear(Tokenizer):
    """64 pixels to 4 tokens of 3 channels and back: products of 64 x 12."""

    def __init__(self):
        super().__init__(ImageSpec(1, 8, 8), expansion=1)
        self.spec = LatentSpec(4, 3)
        self.encoder, self.decoder = nn.Linear(64, 12), nn.Linear(12, 64)

    def encode(self, images):
        return self.encoder(images.flatten(1)).unflatten(1, (4, 3))

    def decode(self, z):
        return self.decoder(z.flatten(1)).reshape(-1, 1, 8, 8)


class Probe(Regularizer):
    """A loss with a layer of its own (12 x 12), and a critic (12 x 1) that learns twice."""

    critic_steps = 2

    def __init__(self, spec):
        super().__init__(spec)
        self.layer, self.critic = nn.Linear(12, 12), nn.Linear(12, 1)

    def loss(self, z, h, step):
        return {"probe": self.layer(z.flatten(1)).square().mean()}

    def critics(self):
        return {"critic": self.critic}

    def critic_loss(self, name, z, step):
        return self.critic(z.flatten(1)).mean()


class Broken(Regularizer):
    def loss(self, z, h, step):
        raise RuntimeError("shapes do not match")


class Attention(Generator):
    def __init__(self):
        super().__init__(LatentSpec(4, 3), classes=10)
        self.qkv = nn.Linear(3, 9)

    def loss(self, z, labels, noise):
        q, k, v = self.qkv(z)[:, None].chunk(3, -1)
        return {"loss": nn.functional.scaled_dot_product_attention(q, k, v).square().mean()}


class ReadsValues(Attention):
    """What a meta tensor cannot do."""

    def loss(self, z, labels, noise):
        return super().loss(z[: int(labels.min().item()) + len(z)], labels, noise)


class Fitted(Generator):
    def fit(self, batches):
        pass


def tokenizer_scores(regularizer, **given):
    tokenizer = Linear()
    cell = FakeSubject(
        scope="tokenizer", tokenizer=tokenizer, regularizer=regularizer(tokenizer.spec), **given
    )
    return create("evaluators", "cost").run(cell)


def test_parameters_are_counted_once():
    tokenizer = Linear()
    assert parameters(tokenizer.encoder, tokenizer.decoder) == 64 * 12 + 12 + 12 * 64 + 64
    assert parameters(tokenizer, tokenizer.encoder) == parameters(tokenizer)


def test_a_training_steps_products_are_those_counted_by_hand():
    scores = tokenizer_scores(Regularizer)
    # Encoder: forward and the weights' gradient; decoder: also the gradient of its input. 2 per multiply-add.
    assert scores["tokenizer_gflop_per_image"] * 1e9 == pytest.approx(2 * 64 * 12 * (2 + 3))
    assert scores["regularizer_gflop_per_image"] == 0 == scores["regularizer_parameters_million"]


def test_a_regularizers_loss_and_every_critic_step_are_its_own_cost():
    scores = tokenizer_scores(Probe)
    assert scores["tokenizer_gflop_per_image"] * 1e9 == pytest.approx(2 * 64 * 12 * 5)
    critics = 2 * (2 * 12 * 2) + 2 * 64 * 12  # two updates, and encoding the images of the second
    assert scores["regularizer_gflop_per_image"] * 1e9 == pytest.approx(2 * 12 * 12 * 3 + critics)


def test_priors_count_what_their_training_on_a_sample_takes():
    class Guided(Regularizer):
        def __init__(self, spec):
            super().__init__(spec)
            self.prior = Attention()

        def priors(self):
            return {"prior": self.prior}

    alone = create("evaluators", "cost").run(FakeSubject(generator=Attention(), tokenizer=Linear()))
    scores = tokenizer_scores(Guided)
    assert scores["prior_gflop_per_sample"] == alone["generator_gflop_per_latent"] > 0
    assert tokenizer_scores(Regularizer)["prior_gflop_per_sample"] == 0


def test_a_loss_that_does_not_run_goes_without_its_count():
    scores = tokenizer_scores(Broken)
    assert "regularizer_gflop_per_image" not in scores and scores["tokenizer_gflop_per_image"] > 0


@pytest.mark.parametrize("generator", [Attention, ReadsValues])
def test_attention_is_counted_on_meta_and_on_real_tensors_alike(generator):
    scores = create("evaluators", "cost").run(FakeSubject(generator=generator(), tokenizer=Linear()))
    layer, attention = 2 * 4 * 3 * 9, 2 * (2 * 4 * 4 * 3)
    assert scores["generator_gflop_per_latent"] * 1e9 == pytest.approx(layer * 2 + attention * 3)


def test_a_fitted_generator_has_parameters_but_no_steps_to_count():
    scores = create("evaluators", "cost").run(FakeSubject(generator=Fitted(LatentSpec(4, 3), 10)))
    assert set(scores) == {"generator_parameters_million"}


def test_counting_leaves_the_modules_as_they_were():
    layer = nn.Linear(2, 2).requires_grad_(False).eval()
    with torch.no_grad():
        assert (
            flops(lambda m: m.requires_grad_(True)(torch.empty(1, 2, device="meta")).sum().backward(), layer)
            > 0
        )
    assert layer.weight.device.type == "cpu" and layer.weight.grad is None and not layer.weight.requires_grad


def test_seconds_and_memory_go_to_the_scope_of_their_stage():
    costs = {
        "prior/score": {"seconds": 1.0, "peak_memory_bytes": 2**20},
        "prior/flow": {"seconds": 2.0, "peak_memory_bytes": 2**22},
        "tokenizer": {"seconds": 3.0, "steps": 10},
        "samples": {"seconds": 4.0},
    }
    assert stage_costs(costs, "tokenizer") == {
        "prior_seconds": 3,
        "prior_peak_mib": 4,
        "tokenizer_seconds": 3,
    }
    assert stage_costs(costs, "generator") == {"samples_seconds": 4}


def test_costs_are_filed_apart_from_scores():
    evaluator = create("evaluators", "cost")
    assert all(metric.cost for metric in evaluator.metrics.values())
    assert set(tokenizer_scores(Probe, costs={"tokenizer": {"seconds": 1.0}})) <= evaluator.metrics.keys()


def test_the_real_row_costs_nothing():
    assert create("evaluators", "cost").run(FakeSubject(real=True)) == {}


def test_every_value_has_a_protocol():
    evaluator, cell = create("evaluators", "cost"), FakeSubject()
    assert all(evaluator.protocol(name, cell)["n"] for name in evaluator.metrics)
