"""Latent zones against closed forms, brute force in float64, and what the paper promises of them."""

import math
import re
from dataclasses import replace

import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm
from torch.autograd import gradcheck

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.bench.nn.zones import zones
from latentbench.regularizers.lzn import (
    LZN,
    LZNViews,
    ZoneSampler,
    alignment_loss,
    decode_labels,
    frequencies,
    own_assigned,
    posterior,
    transport,
    velocity,
)

PAIR = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
each_solver = pytest.mark.parametrize("solver", ["euler", "dpm"])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def step_with(labels):
    return Step(0, torch.zeros(len(labels), 1, 2, 2), labels, Noise(0), lambda z: z)


def assignment(latents, anchors, steps, weights=None):
    """Probabilities (steps, n, m) of each anchor at the start of each Euler step."""
    return transport(latents, anchors, steps, weights)[1].exp()


def released(s, tau, anchors, weights=1.0):
    """The released code's velocity: its time tau runs from the anchors to the noise."""
    noise = (s[:, None] - (1 - tau) * anchors) / tau  # (n, m, q)
    density = -0.5 * noise.square().sum(2)
    density = (density - density.amax(1, keepdim=True)).exp() * weights
    return (density[:, :, None] * (noise - anchors)).sum(1) / density.sum(1, keepdim=True)


def euler_by_hand(anchors, noise, g, steps):
    """s from 1 - g to 0 with the full (n, n, q) tensors of the released code."""
    s = (1 - g) * anchors + g * noise
    for k in range(steps):
        s = s + (1 - g) / steps * released(s, g + k * (1 - g) / steps, anchors)
    return s


# --- the velocity and its weights ---------------------------------------------------------------------------


def test_the_velocity_between_two_anchors_on_a_line_is_a_tanh():
    s = torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None]
    for t in (0.0, 0.3, 0.7, 0.95, 0.9999):
        expected = ((t * s / (1 - t) ** 2).tanh() - s) / (1 - t)
        # (E[anchor | s] - s) / (1 - t): the numerator has 1e-8.
        torch.testing.assert_close(velocity(s, t, PAIR), expected, atol=1e-8 / (1 - t), rtol=0)


def test_the_velocity_is_minus_the_released_code_s_in_the_opposite_time():
    s, anchors, weights = randn(7, 3), randn(5, 3, seed=1), torch.rand(5, dtype=torch.float64) + 0.1
    for t in (0.0, 0.4, 0.9):
        torch.testing.assert_close(
            velocity(s, t, anchors, weights), -released(s, 1 - t, anchors, weights), atol=1e-10, rtol=1e-10
        )


def test_every_state_may_have_a_time_of_its_own():
    s, t = randn(3, 2), torch.tensor([0.1, 0.5, 0.9])
    each = torch.cat([velocity(s[i : i + 1], t[i], PAIR.expand(2, 2)) for i in range(3)])
    torch.testing.assert_close(velocity(s, t, PAIR.expand(2, 2)), each)


def test_float32_inputs_lose_nothing_near_the_anchors():
    anchors = randn(20, 50, dtype=torch.float32) + 5
    for t in (0.5, 0.99, 0.9999):
        s = t * anchors + (1 - t) * randn(20, 50, seed=1, dtype=torch.float32)
        expected = -released(s.double(), 1 - t, anchors.double())
        torch.testing.assert_close(velocity(s, t, anchors).double(), expected, atol=1e-5, rtol=1e-6)


def test_probabilities_sum_to_one_and_start_as_the_weights():
    latents, anchors = randn(6, 3), 2 * randn(4, 3, seed=1)
    weights = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=torch.float64)
    p = assignment(latents, anchors, 12, weights)
    assert p.shape == (12, 6, 4)
    torch.testing.assert_close(p.sum(2), torch.ones(12, 6, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(p[0], weights.expand(6, 4), atol=1e-12, rtol=0)
    assert not p[:, :, 1].any()
    torch.testing.assert_close(assignment(latents, anchors, 2)[0], torch.full((6, 4), 0.25).double())


def test_probabilities_are_those_of_a_brute_force_walk():
    s, anchors, weights = randn(6, 3), randn(4, 3, seed=1), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    p = assignment(s, anchors, 10, weights)
    for k in range(10):
        t = k / 10
        density = weights * (-(s[:, None] - t * anchors).square().sum(2) / (2 * (1 - t) ** 2)).exp()
        torch.testing.assert_close(p[k], density / density.sum(1, keepdim=True), atol=1e-10, rtol=1e-10)
        s = s - 0.1 * released(s, 1 - t, anchors, weights)
    torch.testing.assert_close(transport(randn(6, 3), anchors, 10, weights)[0], s, atol=1e-10, rtol=1e-10)


# --- zones --------------------------------------------------------------------------------------------------


def test_zones_are_the_released_code_s_steps():
    anchors, noise = randn(12, 5), randn(12, 5, seed=1)
    for g, steps in ((1e-4, 20), (0.1, 3)):
        by_hand = euler_by_hand(anchors, noise, g, steps)
        torch.testing.assert_close(zones(anchors, noise, g, steps), by_hand, atol=1e-8, rtol=1e-8)


def test_an_anchor_alone_gives_back_its_noise():
    noise = randn(1, 6, dtype=torch.float32)
    for g in (1e-4, 0.3):
        assert torch.equal(zones(10 * randn(1, 6, dtype=torch.float32), noise, g, 20), noise)


def test_float32_zones_are_those_of_float64_also_for_anchors_far_away_or_next_to_each_other():
    anchors = 0.3 * randn(60, 40)
    anchors[1] = anchors[0] + 1e-3 * randn(40, seed=2)
    anchors += 20  # a float32 keeps 1e-6 of it, and 1e-4 of the noise is of the size 1e-4
    anchors, noise = anchors.float(), randn(60, 40, seed=1, dtype=torch.float32)
    exact = euler_by_hand(anchors.double(), noise.double(), 1e-4, 50)
    assert (exact - noise).abs().max() > 0.5  # the others do pull
    torch.testing.assert_close(zones(anchors, noise, 1e-4, 50).double(), exact, atol=2e-4, rtol=0)
    in_place_of_it = euler_by_hand(anchors, noise, 1e-4, 50)
    assert (in_place_of_it - exact).abs().max() > 0.01  # what the plain formula makes of it


def test_moving_all_anchors_moves_no_zone():
    anchors, noise = randn(9, 4), randn(9, 4, seed=1)
    moved = zones(anchors + 7, noise, 1e-3, 15)
    torch.testing.assert_close(moved, zones(anchors, noise, 1e-3, 15), atol=1e-9, rtol=1e-9)


@each_solver
def test_gradients_are_right(solver):
    anchors, noise = 0.5 * randn(5, 3).requires_grad_(), randn(5, 3, seed=1).requires_grad_()
    assert gradcheck(lambda a, e: zones(a, e, 1e-2, 7, solver=solver), (anchors, noise))


@each_solver
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_recomputed_gradients_are_those_of_autograd(solver, dtype, tolerance):
    anchors, noise = (randn(24, 6, seed=i, dtype=dtype).requires_grad_() for i in range(2))
    pairs = []
    for recompute in (True, False):
        z = zones(0.3 * anchors, noise, 1e-4, 20, solver=solver, recompute=recompute)
        pairs.append((z, *torch.autograd.grad((z * z.detach().roll(1, 0)).mean(), (anchors, noise))))
    for one, two in zip(*pairs, strict=True):
        torch.testing.assert_close(one, two, atol=tolerance, rtol=tolerance)


def test_the_higher_order_solver_is_nearer_to_the_flow_than_euler():
    anchors, noise, g, stop = 0.5 * randn(4, 2), randn(4, 2, seed=1), 0.02, 1e-3

    def field(t, s):
        return velocity(torch.from_numpy(s).view(4, 2), t, anchors).flatten().numpy()

    start = ((1 - g) * anchors + g * noise).flatten().numpy()
    flow = solve_ivp(field, (1 - g, stop), start, rtol=1e-11, atol=1e-11).y[:, -1]
    flow = torch.from_numpy(flow).view(4, 2)
    errors = {
        steps: (zones(anchors, noise, g, steps, solver="dpm") - flow).abs().max() for steps in (50, 100, 400)
    }
    euler = (zones(anchors, noise, g, 400) - flow).abs().max()  # goes on to 0, by a thousandth
    assert errors[400] < 1e-4 < 1e-3 < euler
    assert errors[50] > 4 * errors[100] > 16 * errors[400]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20])
def test_the_higher_order_solver_is_exact_where_the_prediction_does_not_change(steps):
    # One anchor: the data prediction is constant, and u = noise all along.
    z = zones(randn(1, 3), randn(1, 3, seed=1), 1e-3, steps, solver="dpm")
    expected = 1e-3 * randn(1, 3) + (1 - 1e-3) * randn(1, 3, seed=1)
    torch.testing.assert_close(z, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("g", [0.9, 0.75, 0.5, 0.35, 0.25])
def test_the_wrong_zone_is_as_likely_as_theorem_1_says(g):
    # Two anchors at -1 and 1; 20,000 draws and 200 steps. A draw of 2 anchors is a minibatch of its own, so
    # the flow is taken through `velocity`, whose rows don't meet.
    n, steps = 20_000, 200
    s = -(1 - g) + g * randn(n, 1, seed=int(100 * g))
    for k in range(steps):
        t = (1 - g) * (1 - k / steps)
        s = s - (1 - g) / steps * velocity(s, t, PAIR)
    wrong = norm.cdf((g - 1) / g)
    error = 4 * math.sqrt(wrong * (1 - wrong) / n)  # four standard errors
    assert abs((s > 0).double().mean().item() - wrong) < error
    assert wrong == pytest.approx(
        {0.9: 0.455764, 0.75: 0.369441, 0.5: 0.158655, 0.35: 0.031645, 0.25: 0.001350}[g], abs=1e-6
    )


def test_zones_fill_the_gaussian():
    z = zones(2 * randn(512, 8), randn(512, 8, seed=1), 1e-4, 100)
    directions = torch.nn.functional.normalize(randn(20, 8, seed=2))
    # 95 % of 512 true normal draws stay under 0.06; sampling noise of a variance is 0.06.
    assert max(kstest(z @ direction, "norm").statistic for direction in directions) < 0.06
    assert (torch.cov(z.mT) - torch.eye(8)).abs().max() < 0.2
    assert (torch.cov((2 * randn(512, 8)).mT) - torch.eye(8)).abs().max() > 2  # which the anchors don't


def test_latents_find_back_to_their_anchors_the_better_the_finer_the_steps():
    anchors, noise, found = 2 * randn(64, 8), randn(64, 8, seed=1), []
    for steps in (20, 100, 1000):
        z = zones(anchors, noise, 1e-4, steps)
        arrived, log_p = transport(z, anchors, steps)
        found.append((decode_labels(arrived, anchors) == torch.arange(64)).double().mean().item())
        assert (log_p[-1].argmax(1) == decode_labels(arrived, anchors)).double().mean() > 0.95
    assert found[0] > 0.6 and found[1] > 0.88 and found[2] > 0.95
    assert found == sorted(found)


# --- alignment ----------------------------------------------------------------------------------------------


def test_the_alignment_takes_the_best_step_after_the_skipped_ones():
    p = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]], [[0.3, 0.7]], [[0.6, 0.4]], [[0.2, 0.8]]]).double()
    zero, one = torch.tensor([0]), torch.tensor([1])
    assert alignment_loss(p.log(), zero).item() == pytest.approx(-0.6)  # 0.9 is in the first fifth
    assert alignment_loss(p.log(), zero, skip=0.0).item() == pytest.approx(-0.9)
    assert alignment_loss(p.log(), one).item() == pytest.approx(-0.8)
    assert alignment_loss(p.log(), one, "log").item() == pytest.approx(-math.log(0.8))


def test_absent_classes_weigh_nothing():
    weights = frequencies(torch.tensor([0, 3, 3, 1]), 5)
    assert weights.tolist() == [0.25, 0.25, 0.0, 0.5, 0.0]
    p = posterior(randn(4, 2), 0.5, randn(5, 2, seed=1), weights).exp()
    assert not p[:, [2, 4]].any() and p.isfinite().all()


@pytest.mark.parametrize("form", ["probability", "log"])
def test_the_alignment_s_gradient_reaches_both_sets_of_anchors(form):
    lzn = LZN(LatentSpec(2, 3), 4, align=0.5, align_form=form, align_steps=15)
    h = randn(6, 2, 3, dtype=torch.float32).requires_grad_()
    z = lzn.latent(h, Noise(0))
    loss = lzn.loss(z, h, step_with(torch.tensor([0, 1, 1, 0, -1, 3])))["align"]
    of_h, of_labels = torch.autograd.grad(loss, (h, lzn.labels))
    assert of_h.isfinite().all() and of_h.flatten(1).any(1).all()
    assert of_labels.isfinite().all() and of_labels[[0, 1, 3]].any(1).all() and not of_labels[2].any()


def test_images_without_a_label_are_left_out_of_the_alignment():
    lzn = LZN(LatentSpec(2, 3), 4, align=1.0, align_steps=15)
    z, labels = randn(6, 2, 3, dtype=torch.float32), torch.tensor([0, -1, 1, 0, -1, 3])
    among = lzn.loss(z, z, step_with(labels))["align"]
    alone = lzn.loss(z[labels >= 0], z, step_with(labels[labels >= 0]))["align"]
    assert torch.equal(among, alone)
    assert lzn.loss(z, z, step_with(torch.full((6,), -1)))["align"] == 0
    assert lzn.loss(z, z, Step(0, z, None, Noise(0), lambda z: z)) == {}


def test_descending_the_alignment_puts_latents_into_their_labels_zones():
    torch.manual_seed(0)
    lzn = LZN(LatentSpec(2, 8), 3, "image", alpha=0.3, align=1.0, align_steps=20)
    h = randn(24, 2, 8, dtype=torch.float32).requires_grad_()
    labels = torch.arange(24) % 3
    optimizer = torch.optim.Adam([h, lzn.labels], lr=0.1)
    accuracies = []
    for index in range(25):
        optimizer.zero_grad()
        z = lzn.latent(h, Noise(0).fork(index))
        accuracies.append((lzn.classify(z) == labels).float().mean().item())
        lzn.loss(z, h, step_with(labels))["align"].backward()
        optimizer.step()
    assert sum(accuracies[:2]) / 2 < 0.7 and sum(accuracies[-3:]) / 3 > 0.9, accuracies


def test_two_views_are_aligned_as_the_released_code_does_it():
    """View-1 latents, view-2 anchors: minus the mean log of the own one's largest P after 4 of 20 steps."""
    spec = LatentSpec(1, 5)
    h, views = randn(9, 1, 5, dtype=torch.float32), randn(9, 1, 5, seed=1, dtype=torch.float32)
    lzn = LZNViews(spec, align_steps=20)
    z = lzn.latent(h, Noise(3))
    by_hand = euler_by_hand(h[:, 0].double(), 0.45 * Noise(3).normal(h, "zone")[:, 0].double(), 1e-4, 20)
    torch.testing.assert_close(z[:, 0].double(), by_hand, atol=1e-4, rtol=0)
    p = assignment(z[:, 0].double(), views[:, 0].double(), 20)[4:].amax(0).diag()
    step = replace(step_with(torch.zeros(9)), views=views)
    torch.testing.assert_close(lzn.loss(z, h, step)["align"].double(), -p.log().mean(), atol=1e-5, rtol=0)
    assert lzn.loss(z, h, replace(step, views=None)) == {}
    assert lzn.classify(z) is None


def test_a_latent_s_own_anchor_may_be_any_of_those_of_all_processes():
    s, anchors = randn(3, 4), randn(8, 4, seed=1)
    whole = transport(s, anchors, 10)[1]
    found = own_assigned(s, anchors, 5, 10)
    torch.testing.assert_close(found, whole[:, torch.arange(3), torch.arange(5, 8)])


def test_the_alignment_of_views_computed_anew_has_the_gradients_of_autograd():
    s, anchors = randn(6, 3).requires_grad_(), randn(6, 3, seed=1).requires_grad_()
    ours = own_assigned(s, anchors, 0, 8)
    theirs = transport(s, anchors, 8)[1].diagonal(dim1=1, dim2=2)
    weights = torch.rand(8, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(ours, theirs)
    pairs = [torch.autograd.grad((way * weights).sum(), (s, anchors)) for way in (ours, theirs)]
    for one, two in zip(*pairs, strict=True):
        torch.testing.assert_close(one, two)
        assert one.any()


# --- the regularizer and its sampler ------------------------------------------------------------------------


def test_latents_are_the_zones_of_images_or_of_tokens():
    h, spec, e = randn(5, 4, 3, dtype=torch.float32), LatentSpec(4, 3), Noise(1)
    drawn = 0.7 * e.normal(h, "zone")
    whole = LZN(spec, 0, "image", g=1e-4, alpha=0.7, solver="euler").latent(h, e)
    assert torch.equal(whole, zones(h.flatten(1), drawn.flatten(1), 1e-4, 20).view(5, 4, 3))
    single = LZN(spec, 0, alpha=0.7).latent(h, e)
    expected = zones(h.flatten(0, 1), drawn.flatten(0, 1), 1e-3, 20, solver="dpm")
    assert torch.equal(single, expected.view(5, 4, 3))


def test_without_noise_latents_are_the_centres_of_their_zones():
    h = randn(5, 4, 3, dtype=torch.float32)
    centres = LZN(LatentSpec(4, 3), 0).latent(h, None)
    assert torch.equal(centres, LZN(LatentSpec(4, 3), 0, alpha=0.0).latent(h, Noise(0)))


def test_half_precision_is_taken_up_to_single():
    h = randn(8, 2, 3, dtype=torch.float32).bfloat16()
    lzn = LZN(LatentSpec(2, 3), 0)
    with torch.autocast("cpu", torch.bfloat16):
        z = lzn.latent(h, Noise(0))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, lzn.latent(h.float(), Noise(0)))


def test_samples_of_no_class_are_standard_normal():
    spec, labels = LatentSpec(4, 3), torch.full((2000,), -1)
    with torch.no_grad():
        z = LZN(spec, 10, align=1.0).generator().sample(labels, 1.0, Noise(0))
    assert torch.equal(z, LZN(spec, 10).generator().sample(labels, 2.0, Noise(0)))
    assert kstest(z.flatten().numpy(), "norm").statistic < 0.015


def test_samples_of_a_class_land_in_its_zone_and_zones_together_fill_the_gaussian():
    torch.manual_seed(0)
    lzn, labels = LZN(LatentSpec(2, 4), 5, align=1.0), torch.arange(1000) % 5
    sampler = lzn.generator()
    assert isinstance(sampler, ZoneSampler)
    with torch.no_grad():
        z = sampler.sample(labels, 1.0, Noise(0))
        assert (lzn.classify(z) == labels).float().mean() > 0.95
        assert kstest(z.flatten().numpy(), "norm").statistic < 0.03
        assert (torch.cov(z.flatten(1).mT) - torch.eye(8)).abs().max() < 0.2
        alike = sampler.sample(torch.tensor([0, -1, 2]), 1.0, Noise(0))
        assert torch.equal(alike[1], sampler.sample(torch.full((3,), -1), 1.0, Noise(0))[1])


def test_there_is_nothing_to_classify_by_without_alignment():
    assert LZN(LatentSpec(2, 4), 5).classify(torch.zeros(1, 2, 4)) is None


def test_a_smaller_alpha_makes_latents_neither_standard_normal_nor_alpha_times_that():
    def spread(alpha):
        lzn, anchors = LZN(LatentSpec(1, 4), 0, alpha=alpha), randn(256, 1, 4, dtype=torch.float32)
        return torch.cat([lzn.latent(anchors, Noise(seed)) for seed in range(4)]).std().item()

    assert spread(1.0) == pytest.approx(1, abs=0.02)
    assert 0.5 < spread(0.25) < 0.93


@pytest.mark.parametrize(
    "tokens, options, fault",
    [
        (1, {}, None),
        (4, {"anchors": "image"}, None),
        (4, {"anchors": "image", "alpha": 0.5}, "alpha = 0.5 .* centres of zones"),
        (4, {}, "each of their 4 tokens has a zone"),
        (4, {"align": 1.0}, "each of their 4 tokens has a zone"),
    ],
)
def test_the_generator_says_where_its_samples_do_not_follow_the_latents(tokens, options, fault):
    found = LZN(LatentSpec(tokens, 3), 10, **options).generator_fault()
    assert found is None if fault is None else re.search(fault, found)
