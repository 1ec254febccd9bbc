"""SimFlow: what its loss is and cannot go below, which gradients it has, and when it says collapsed."""

import dataclasses
import math

import pytest
import torch

from latentbench.bench.api import Diverged, LatentSpec, Likelihood, Noise, Step, Unfit
from latentbench.bench.nn.blocks import drop_labels
from latentbench.bench.options.options import check_options
from latentbench.regularizers.simflow import SimFlow, SimFlowREPAE, capacity, entropy, perturb

SPEC = LatentSpec(4, 4)
LABELS = torch.tensor([0, 1, 2, 1, 0, 2, 2, 0])
TINY = {"use": "tarflow", "width": 8, "blocks": 2, "heads": 1}


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(prior=TINY, spec=SPEC, classes=3, **options):
    """In float64, with a prior that isn't the identity."""
    torch.manual_seed(0)
    regularizer = SimFlow(spec, classes, prior=prior, **options).double()
    for name, parameter in regularizer.named_parameters():
        if "output" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return regularizer


def step(index=0, labels=LABELS):
    return Step(index, torch.zeros(1), labels, Noise(1).fork(index).fork("loss"), torch.nn.Identity())


def run(regularizer, h, index=0, labels=LABELS):
    """The latents and the loss of one update."""
    z = regularizer.latent(h, Noise(1).fork(index).fork("latent"), labels)
    return z, regularizer.loss(z, h, step(index, labels))["prior"]


class Normal(Likelihood):
    """A prior N(mean, scale^2) of independent elements."""

    def __init__(self, mean, scale):
        super().__init__(SPEC, 0)
        self.mean, self.scale = mean, scale

    def log_prob(self, z, labels):
        return torch.distributions.Normal(self.mean, self.scale).log_prob(z).sum((1, 2))


def with_prior(prior, **options):
    regularizer = make(**{"layer_norm": False, **options})
    regularizer.prior = prior
    return regularizer


def test_the_loss_is_half_the_mean_square_of_the_noise_and_the_log_scales_per_element():
    regularizer, h = make({**TINY, "label_dropout": 0.0}, weight=0.3), randn(8, 4, 4)
    z, loss = run(regularizer, h)
    noise, logdet = regularizer.prior(z, LABELS)
    expected = 0.5 * noise.square().mean() - logdet.mean() / 16
    assert loss.item() == pytest.approx(0.3 * expected.item(), abs=1e-12)


def test_labels_are_dropped_as_the_prior_says():
    regularizer, h = make({**TINY, "label_dropout": 1.0}), randn(8, 4, 4)
    dropped = run(regularizer, h)[1]
    assert dropped.item() == run(regularizer, h, labels=None)[1].item()
    regularizer.prior.label_dropout = 0.0
    assert dropped.item() != run(regularizer, h)[1].item()


def test_the_posterior_s_entropy_is_that_of_a_normal():
    expected = torch.distributions.Normal(torch.zeros(7, 3), 0.4).entropy().sum().item()
    assert entropy(0.4, 21) == pytest.approx(expected, rel=1e-6)
    assert entropy(0.4, 21) == pytest.approx(0.5 * 21 * math.log(2 * math.pi * 0.16) + 21 / 2, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_coinciding_means_and_a_perfect_prior_attain_the_floor(sigma):
    h = randn(1, 4, 4).expand(4000, 4, 4)
    regularizer = with_prior(Normal(h[0], sigma), sigma=sigma).eval()
    error = math.sqrt(0.5 / h.numel())  # of the mean of half a chi square with one degree of freedom
    assert regularizer.floor() == pytest.approx(0.5 + math.log(sigma), abs=1e-12)
    assert run(regularizer, h, labels=None)[1].item() == pytest.approx(regularizer.floor(), abs=4 * error)


@pytest.mark.parametrize("scale, shift, spread", [(0.4, 0, 0), (0.7, 0, 0), (0.5, 0.2, 0), (0.6, 0, 0.3)])
def test_nothing_else_reaches_the_floor(scale, shift, spread):
    h = spread * randn(4000, 4, 4)
    regularizer = with_prior(Normal(shift, scale)).eval()
    loss = run(regularizer, h, labels=None)[1].item()
    closed = 0.5 * (0.25 + shift**2 + spread**2) / scale**2 + math.log(scale)
    assert loss == pytest.approx(closed, abs=0.02)
    assert closed > regularizer.floor() and loss > regularizer.floor() + 0.01


def test_the_gradient_reaches_the_encoder_whole_and_the_prior():
    regularizer, h = make(), randn(8, 4, 4).requires_grad_()
    loss = run(regularizer, h)[1]
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in regularizer.parameters())
    direction, epsilon = randn(8, 4, 4, seed=1), 1e-5
    ahead, behind = (run(regularizer, h.detach() + e * direction)[1].item() for e in (epsilon, -epsilon))
    slope = (h.grad * direction).sum().item()
    assert slope == pytest.approx((ahead - behind) / (2 * epsilon), abs=1e-8)


def test_a_flow_as_prior_brings_its_own_loss_and_nothing_is_stopped():
    regularizer = make({"use": "velocity_mlp", "width": 8, "depth": 1}, weight=0.5)
    h = randn(8, 4, 4).requires_grad_()
    z, loss = run(regularizer, h)
    expected = regularizer.prior.loss(z, LABELS, step().noise)["velocity"]
    assert loss.item() == pytest.approx(0.5 * expected.item(), abs=1e-12)
    loss.backward()
    assert h.grad.any() and regularizer.prior.network.output.weight.grad.any()


@pytest.mark.parametrize(
    "kind, mean, variance",
    [
        ("additive", 2.0, 0.25),
        ("linear", 1.0, 4 / 12 + 0.25 / 3),  # Var t = 1/12, E (1 - t)^2 = 1/3
        ("slerp", 1.0, 4 / 12 + 0.25 * 2 / 3),  # E (1 - t^2) = 2/3
        ("none", 2.0, 0.0),
    ],
)
def test_perturbed_latents_have_their_moments(kind, mean, variance):
    spec = LatentSpec(2, 1)
    regularizer = make(TINY, spec, 0, perturbation=kind, layer_norm=False)
    h = torch.full((40_000, 2, 1), 2.0, dtype=torch.float64)
    z = regularizer.latent(h, Noise(0))
    assert z.mean().item() == pytest.approx(mean, abs=0.015)
    assert z.var().item() == pytest.approx(variance, abs=0.015)
    assert torch.equal(regularizer.latent(h, None), h)


def test_a_perturbation_goes_from_noise_to_the_bare_mean_with_one_time_per_image():
    mean, noise = randn(3, 4, 4), randn(3, 4, 4, seed=1)
    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    for kind in ("linear", "slerp"):
        assert torch.equal(perturb(mean, noise, zero, kind), noise)
        assert torch.equal(perturb(mean, noise, one, kind), mean)
    # Without noise of its own only t is left, and it is the same in every element.
    regularizer = make(perturbation="linear", layer_norm=False, sigma=1e-12)
    t = regularizer.latent(mean, Noise(0)) / mean
    torch.testing.assert_close(t, t[:, :1, :1].expand_as(t), atol=1e-9, rtol=0)
    assert t[:, 0, 0].unique().numel() == 3 and 0 < t.min() and t.max() < 1


def test_the_capacity_is_that_of_gaussian_channels_and_bounds_what_latents_tell():
    # Two images, of which each element's mean says which: at most log 2 nats in all, here two elements.
    mean = torch.tensor([-1.0, 1.0])[:, None, None].expand(2, 2, 1)
    assert capacity(mean, 0.5).item() == pytest.approx(0.5 * math.log(1 + 1 / 0.25))
    assert 2 * capacity(mean, 0.5) > math.log(2)
    assert capacity(mean[:1].expand(5, 2, 1), 0.5).item() == 0


def collapse(regularizer, h, updates=400):
    """The update at which it is reported, or None."""
    for index in range(updates):
        try:
            run(regularizer, h, index, labels=None)
        except Diverged as reason:
            assert str(reason).startswith("collapsed: ")
            return index, str(reason)
    return None


def test_staying_at_the_floor_is_reported_as_collapsed_after_some_200_updates():
    h = randn(1, 4, 4).expand(64, 4, 4)
    index, reason = collapse(with_prior(Normal(h[0], 0.5)), h)
    assert 150 < index < 250
    assert "0.5 + log(0.5) = -0.193" in reason and "at most 0.0000 nats per element" in reason


def test_a_resumed_run_collapses_at_the_same_update():
    h = randn(1, 4, 4).expand(64, 4, 4)
    whole, first, second = (with_prior(Normal(h[0], 0.5)) for _ in range(3))
    for index in range(100):
        run(first, h, index, labels=None)
    second.load_state_dict(first.state_dict())
    for index in range(100, 400):
        try:
            run(second, h, index, labels=None)
        except Diverged:
            break
    assert index == collapse(whole, h)[0]


def test_a_healthy_run_is_not_reported():
    h = randn(64, 4, 4)
    assert collapse(with_prior(Normal(0.0, math.sqrt(1.25))), h) is None


def test_a_prior_that_knows_every_image_by_heart_is_not_reported():
    h = randn(64, 4, 4)
    regularizer = with_prior(Normal(h, 0.5))  # as near the floor as a small data set lets it come
    assert collapse(regularizer, h) is None and regularizer.surplus < 0.02


def test_bare_means_are_reported_when_the_prior_knows_them_better_than_pixels_are_rounded():
    h = 1e-3 * randn(64, 4, 4)
    assert "bare means" in collapse(with_prior(Normal(0.0, 1e-3), perturbation="none"), h)[1]
    h = 0.1 * randn(64, 4, 4)
    assert collapse(with_prior(Normal(0.0, 0.1), perturbation="none"), h) is None


def test_evaluation_is_not_watched():
    h = randn(1, 4, 4).expand(64, 4, 4)
    regularizer = with_prior(Normal(h[0], 0.5)).eval()
    assert collapse(regularizer, h) is None and regularizer.surplus == 1


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_trained_jointly_latents_collapse_without_a_reconstruction_and_not_with_one(weight):
    torch.manual_seed(0)
    regularizer = SimFlow(SPEC, 0, prior={**TINY, "width": 16})
    images, encoder, decoder = torch.randn(128, 8), torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
    modules = torch.nn.ModuleList([regularizer, encoder, decoder])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    collapsed = False
    for index in range(350):
        h = encoder(images).unflatten(1, (4, 4))
        z = regularizer.latent(h, Noise(index))
        try:
            prior = regularizer.loss(z, h, step(index, None))["prior"]
        except Diverged:
            collapsed = True
            break
        optimizer.zero_grad()
        (prior + weight * (decoder(z.flatten(1)) - images).square().mean()).backward()
        optimizer.step()
    assert collapsed == (weight == 0)
    assert (capacity(regularizer.mean(h), 0.5) > 0.3) != collapsed


def test_the_joint_prior_adds_no_noise_and_is_the_sampler():
    for prior in ("tarflow", {"use": "tarflow", "width": 16}):
        regularizer = make(prior)
        assert regularizer.prior.noise_std == 0
        assert regularizer.generator() is regularizer.prior
        assert not regularizer.critics() and not regularizer.priors()
    with pytest.raises(ValueError, match="noise_std = 0.3 of the prior"):
        make({**TINY, "noise_std": 0.3})


def test_a_matrix_may_name_any_likelihood_or_flow_as_its_prior():
    clean, faults = check_options(SimFlow, {"prior": {"width": 16}})
    assert not faults and clean["prior"]["width"] == 16 and clean["prior"]["noise_std"] == 0
    for prior in ("tarflow", "lightningdit", "velocity_mlp"):
        clean, faults = check_options(SimFlow, {"prior": prior})
        assert not faults
        regularizer = SimFlow(SPEC, 3, **clean).double()
        assert run(regularizer, randn(8, 4, 4))[1].isfinite()
    assert check_options(SimFlow, {"prior": "mar"})[1]


def test_a_prior_that_is_fitted_once_is_refused():
    with pytest.raises(ValueError, match="the prior gaussian is fitted once"):
        SimFlow(SPEC, 3, prior="gaussian")


def make_aligned(**options):
    torch.manual_seed(0)
    spec, teacher = LatentSpec(4, 4, (2, 2)), LatentSpec(16, 5, (4, 4))
    options = {"prior": TINY, "tap": 2, "width": 8, **options}
    regularizer = SimFlowREPAE(spec, 3, teacher, **options).double()
    for parameter in regularizer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    features = randn(8, 16, 5, seed=2)
    return regularizer, dataclasses.replace(step(), features=features)


def test_alignment_joins_simflow_s_loss_and_reaches_encoder_prior_and_projector():
    regularizer, given = make_aligned(align=0.7, weight=0.0)
    plain, h = make(weight=1.0), randn(8, 4, 4).requires_grad_()
    plain.prior.load_state_dict(regularizer.prior.state_dict())
    regularizer.weight = 1.0
    z = regularizer.latent(h, given.noise, LABELS)
    losses = regularizer.loss(z, h, given)
    assert losses["prior"].item() == plain.loss(z, h, given)["prior"].item()
    # The teacher's four tokens of each quadrant against the hidden token of that quadrant.
    labels = drop_labels(LABELS, plain.prior.label_dropout, given.noise)
    hidden = regularizer.prior.tapped(z, labels, 2)[1]
    pooled = torch.nn.functional.avg_pool2d(given.features.mT.unflatten(2, (4, 4)), 2).flatten(2).mT
    cosine = torch.cosine_similarity(regularizer.projector(hidden), pooled, dim=-1)
    assert losses["align"].item() == pytest.approx(-0.7 * cosine.mean().item(), abs=1e-12)
    losses["align"].backward()
    assert h.grad.any() and regularizer.prior.blocks[0].embed.weight.grad.any()
    assert all(p.grad.any() for p in regularizer.projector.parameters())


def test_alignment_needs_a_prior_with_that_layer_and_a_place_for_each_token():
    with pytest.raises(ValueError, match="tap = 3 is none of tarflow's layers 1 to 2"):
        make_aligned(tap=3)
    with pytest.raises(Unfit, match="the latent has no grid"):
        SimFlowREPAE(SPEC, 3, LatentSpec(16, 5, (4, 4)), prior=TINY)


def test_all_of_simflow_s_options_are_options_with_alignment():
    clean, faults = check_options(SimFlowREPAE, {"sigma": 0.3, "perturbation": "slerp", "align": 2.0})
    assert not faults and (clean["sigma"], clean["perturbation"]) == (0.3, "slerp")
    assert check_options(SimFlowREPAE, {"prior": "sit"})[1]
