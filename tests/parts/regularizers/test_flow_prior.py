"""Flow Priors' loss against its closed form for Gaussians, the paths of its gradient, and the projections."""

import inspect
import math

import pytest
import sklearn.decomposition
import torch

from latentbench.bench.api import LatentSpec, Noise, Reference, Step, Unfit
from latentbench.bench.flow import interpolate
from latentbench.regularizers.flow_prior import FlowPrior, alignment_loss

SPEC, TEACHER = LatentSpec(4, 3, (2, 2)), LatentSpec(4, 7, (2, 2))
TINY = {"use": "velocity_mlp", "width": 16, "depth": 1}
DIT = {"use": "lightningdit", "width": 32, "depth": 1, "heads": 2}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def optimal_field(s):
    """The velocity that minimises the flow loss on N(0, s^2)."""

    def velocity(x, t):
        t = t.reshape(-1, 1, 1)
        return (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2) * x

    return velocity


def expected_loss(velocity, z, nodes=100_000):
    """E over t by the midpoint rule, error about 1e-11, and over noise by its two values of equal moments.

    The loss is quadratic in the noise of a linear field, so that noise of +1 and -1 has the expectation of a
    standard normal.
    """
    t = (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(nodes)
    noise = sign[:, None, None].expand(-1, *z.shape)
    return alignment_loss(velocity, z.expand_as(noise), noise, t.repeat(2))


def nonlinear(x, t):
    """Some smooth field that mixes no tokens; t (B,) or (B, T)."""
    t = t.reshape(*t.shape, *(1,) * (x.dim() - t.dim()))
    return torch.sin(2 * x) + t * x.roll(1, -1) + t**2


def built(reference_spec=TEACHER, seed=0, **options):
    """A regularizer whose prior is as after training: no layer is zero, everything is frozen."""
    torch.manual_seed(seed)
    regularizer = FlowPrior(SPEC, reference_spec, **{"prior": TINY, **options}).double()
    for p in regularizer.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return regularizer.eval().requires_grad_(False)


def step(noise=0):
    return Step(0, torch.zeros(1), None, Noise(noise), lambda z: z)


def gradient(regularizer, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(regularizer.loss(z, z, step())["flow_prior"], z)[0]


@pytest.mark.parametrize("s", [0.3, 1.0, 2.0])
def test_for_a_gaussian_prior_the_loss_is_quadratic_in_the_latent(s):
    for value in (0.0, 0.5, -3.0):
        z = torch.full((1, 1), value, dtype=torch.float64)
        expected = math.pi / 4 * (value**2 / s + s)
        assert expected_loss(optimal_field(s), z).item() == pytest.approx(expected, abs=1e-8)


def test_on_the_standard_normal_itself_the_loss_is_half_pi_an_element():
    # A value of +-1 has the second moment of the standard normal, on which alone the expectation depends.
    z = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    assert expected_loss(optimal_field(1.0), z, 50_000).item() == pytest.approx(math.pi / 2, abs=1e-8)


def test_the_loss_is_a_mean_over_all_elements():
    z, noise, t = randn(5, 3, 2), randn(5, 3, 2, seed=1), torch.rand(5, 3, dtype=torch.float64)
    found = alignment_loss(nonlinear, z, noise, t).item()
    each = [
        alignment_loss(nonlinear, *(value[b : b + 1, i : i + 1] for value in (z, noise, t))).item()
        for b in range(5)
        for i in range(3)
    ]
    assert found == pytest.approx(sum(each) / 15, abs=1e-12)
    repeated = (value.repeat_interleave(2, 0) for value in (z, noise, t))
    assert found == pytest.approx(alignment_loss(nonlinear, *repeated).item(), abs=1e-12)
    one, both = randn(1, 1, 1), randn(1, 1, 1, seed=1)
    assert alignment_loss(lambda x, t: 0 * x, one, both, t[:1, 0]).item() == pytest.approx(
        (one - both).item() ** 2
    )
    wide = alignment_loss(lambda x, t: 0 * x, one.expand(1, 1, 7), both.expand(1, 1, 7), t[:1, 0])
    assert wide.item() == pytest.approx((one - both).item() ** 2)


def test_one_time_a_row_is_the_same_time_for_each_of_its_tokens():
    z, noise, t = randn(5, 3, 2), randn(5, 3, 2, seed=1), torch.rand(5, dtype=torch.float64)
    one = alignment_loss(nonlinear, z, noise, t)
    assert one.item() == pytest.approx(alignment_loss(nonlinear, z, noise, t[:, None].expand(5, 3)).item())


def test_reversed_time_as_in_the_released_code_gives_the_same_loss():
    z, noise, t = randn(5, 3, 2), randn(5, 3, 2, seed=1), torch.rand(5, dtype=torch.float64)
    reversed_t = (1 - t)[:, None, None]
    x = (1 - reversed_t) * z + reversed_t * noise
    theirs = (-nonlinear(x, 1 - reversed_t[:, 0, 0]) - (noise - z)).square().mean()
    assert alignment_loss(nonlinear, z, noise, t).item() == pytest.approx(theirs.item(), abs=1e-12)


def test_the_gradient_has_the_target_and_the_networks_input():
    z, noise, t = randn(2, 3, 2), randn(2, 3, 2, seed=1), torch.rand(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: alignment_loss(nonlinear, z, noise, t), z.requires_grad_())
    (found,) = torch.autograd.grad(alignment_loss(nonlinear, z, noise, t), z)
    z = z.detach()
    x = interpolate(z, noise, t)
    residual = (nonlinear(x, t) - (z - noise)).flatten()
    jacobian = torch.autograd.functional.jacobian(lambda x: nonlinear(x, t), x).reshape(12, 12)
    times = t.repeat_interleave(6)
    expected = 2 / 12 * (times * (jacobian.T @ residual) - residual)
    torch.testing.assert_close(found.flatten(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("detached", [False, True])
def test_a_detached_velocity_leaves_the_gradient_of_the_target_alone(detached):
    regularizer, z = built(draws=1, weight=1.0, detach_velocity=detached), randn(6, 4, 3)
    noise, t = Noise(0).normal(z[:, None], "noise")[:, 0], Noise(0).uniform(z[:, None, :, 0], "t")[:, 0]
    moving = z.clone().requires_grad_()
    predicted = regularizer.prior.velocity(interpolate(moving, noise, t), t, None)
    if detached:
        predicted = predicted.detach()
    (expected,) = torch.autograd.grad((predicted - (moving - noise)).square().mean(), moving)
    found = gradient(regularizer, z)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    other = gradient(built(draws=1, weight=1.0, detach_velocity=not detached), z)
    assert (found - other).norm() > 0.1 * found.norm()


def test_the_loss_is_differentiated_right_through_a_frozen_prior():
    regularizer, z = built(), randn(2, 4, 3)
    assert torch.autograd.gradcheck(
        lambda z: regularizer.loss(z, z, step())["flow_prior"], z.requires_grad_()
    )
    regularizer.loss(z, z, step())["flow_prior"].backward()
    assert z.grad.any() and all(p.grad is None for p in regularizer.parameters())


def test_every_token_and_draw_has_a_time_of_its_own(monkeypatch):
    regularizer, seen = built(draws=4), []
    monkeypatch.setattr(regularizer.prior, "velocity", lambda x, t, labels: (seen.append((x, t)), x)[1])
    regularizer.loss(torch.zeros(6, 4, 3), None, step())
    ((x, t),) = seen
    assert x.shape == (6 * 4 * 4, 1, 3) and len(t.unique()) == 6 * 4 * 4
    assert len(x.unique()) == x.numel()


def test_a_prior_of_whole_latents_has_one_time_a_draw(monkeypatch):
    regularizer, seen = built(prior=DIT, draws=2), []
    monkeypatch.setattr(regularizer.prior, "velocity", lambda x, t, labels: (seen.append((x, t)), x)[1])
    regularizer.loss(torch.zeros(6, 4, 3), None, step())
    ((x, t),) = seen
    assert x.shape == (12, 4, 3) and t.shape == (12,) and len(t.unique()) == 12


@pytest.mark.parametrize(
    "prior, reference_spec, alone",
    [(TINY, TEACHER, True), (DIT, LatentSpec(1, 7), True), (DIT, TEACHER, False)],
    ids=["per-token network", "single-token reference", "whole latents"],
)
def test_whether_a_tokens_gradient_depends_on_the_others(prior, reference_spec, alone):
    regularizer, z = built(reference_spec, prior=prior), randn(6, 4, 3)
    changed = z.clone()
    changed[:, 1:] += 1
    difference = gradient(regularizer, z)[:, 0] - gradient(regularizer, changed)[:, 0]
    assert (difference.abs().max() < 1e-12) == alone


@pytest.mark.parametrize("prior", [TINY, DIT], ids=["velocity_mlp", "lightningdit"])
@pytest.mark.parametrize("count", [1, 4, 16])
def test_the_prior_learns_from_references_of_any_token_count(prior, count):
    reference_spec = LatentSpec(count, 7, {1: None, 4: (2, 2), 16: (4, 4)}[count])
    regularizer = built(reference_spec, prior=prior)
    labels = torch.arange(5)
    own = regularizer.reference(Reference(randn(5, count, 7).float(), labels, reference_spec.grid))
    terms = regularizer.priors()["flow"].double().loss(own.samples.double(), own.labels, Noise(0))
    assert sum(terms.values()).isfinite()


def test_only_the_options_named_change_the_prior_or_the_reference():
    reference = Reference(randn(50, 4, 7).float(), None, (2, 2))
    named = FlowPrior.prior_options
    options = {"weight": 1.0, "draws": 2, "detach_velocity": True, "projection": "pca", "prior": DIT}
    assert set(options) == set(inspect.signature(FlowPrior).parameters) - {"spec", "reference_spec"}

    def outcome(**options):
        regularizer = built(**options)
        state = regularizer.priors()["flow"].state_dict()
        return regularizer.reference(reference).samples.tolist(), {k: v.tolist() for k, v in state.items()}

    changing = {name for name, value in options.items() if outcome(**{name: value}) != outcome()}
    assert changing == named


def test_the_random_projection_is_the_suites_own():
    reference = Reference(randn(40, 16, 7), None, (4, 4), fit=30)
    assert torch.equal(built().reference(reference).samples, reference.projected(SPEC).samples)


@pytest.mark.parametrize("projection", ["random", "average", "pca"])
def test_a_prior_of_single_tokens_learns_tokens_and_a_prior_of_whole_latents_means_at_their_positions(
    projection,
):
    """Means of four skewed tokens are much less skewed than tokens are."""
    spec, samples = LatentSpec(16, 4), randn(300, 64, 4).exp().float()  # no grid: along the raster
    reference = Reference(samples, None, (8, 8))

    def skewness(prior):
        made = FlowPrior(spec, LatentSpec(64, 4, (8, 8)), prior=prior, projection=projection).reference(
            reference
        )
        assert made.samples.shape == (300, 16, 4)
        centred = made.samples - made.samples.mean((0, 1))
        return (centred**3).mean((0, 1)).abs().mean().item() / centred.std().item() ** 3

    of_tokens = ((samples - samples.mean()) ** 3).mean().item() / samples.std().item() ** 3
    assert skewness(TINY) == pytest.approx(of_tokens, rel=0.25)
    assert skewness(DIT) == pytest.approx(of_tokens / 2, rel=0.25)  # by the central limit theorem


def test_pca_finds_scikit_learns_components_of_the_fitted_samples():
    mixing = randn(7, 7, seed=5)
    reference = Reference(randn(200, 4, 7) @ mixing + 3, torch.arange(200), (2, 2), fit=150)
    own = built(projection="pca").reference(reference)
    tokens = reference.samples.float().double()
    theirs = sklearn.decomposition.PCA(3).fit(tokens[:150].flatten(0, 1).numpy())
    expected = torch.from_numpy(theirs.transform(tokens.flatten(0, 1).numpy())).reshape(200, 4, 3)
    ratio = own.samples.double() / expected  # one scalar, up to each axis's sign
    signs = ratio.sign()[0, 0]
    torch.testing.assert_close(
        own.samples.double() * signs, expected * ratio.abs()[0, 0, 0], atol=1e-4, rtol=1e-4
    )
    variances = own.samples[:150].flatten(0, 1).var(0, correction=0)
    assert (
        variances.mean().item() == pytest.approx(1, abs=1e-5) and variances[0] > variances[1] > variances[2]
    )
    assert torch.equal(own.labels, reference.labels) and own.fit == 150


def test_averaging_pools_channels_as_torch_does():
    reference = Reference(randn(200, 4, 7) + 3, None, (2, 2), fit=150)
    own = built(projection="average").reference(reference)
    centred = reference.samples - reference.samples[:150].mean((0, 1))
    bins = [(0, 3), (2, 5), (4, 7)]  # torch's adaptive bins of 7 in 3: they overlap
    pooled = torch.stack([centred[..., a:b].mean(-1) for a, b in bins], -1)
    expected = pooled / pooled[:150].square().mean().sqrt()
    torch.testing.assert_close(own.samples.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("projection", ["average", "pca"])
def test_projections_that_only_lose_channels_refuse_to_make_some(projection):
    with pytest.raises(Unfit, match="3 channels"):
        FlowPrior(SPEC, LatentSpec(4, 2), projection=projection)
    FlowPrior(SPEC, LatentSpec(4, 2))
    FlowPrior(SPEC, LatentSpec(4, 3), projection=projection)


def test_the_weight_multiplies_the_loss():
    z = randn(6, 4, 3)
    light, heavy = (built(weight=w).loss(z, z, step())["flow_prior"].item() for w in (0.01, 1.0))
    assert heavy == pytest.approx(100 * light)
