"""Distribution matching against hand-written gradients, closed-form velocities and a mixture of two modes."""

import pytest
import torch
from torch import nn

from latentbench.bench.api import LatentSpec, Noise, Reference, Step, Unfit
from latentbench.regularizers.dmvae import (
    DMVAE,
    Objective,
    independent_tokens,
    matching_direction,
    matching_loss,
    objective_loss,
)

SPEC = LatentSpec(4, 3, (2, 2))
REFERENCE = LatentSpec(9, 5, (3, 3))
TINY = {"use": "lightningdit", "width": 16, "depth": 1, "heads": 2, "time": "uniform", "cosine": False}
LOSSES = Objective.__args__


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(batch=3):
    """z, noise (B, 2, 3), t, and the path's point and velocity."""
    z, noise, t = draws(batch, 2, 3, seed=1).requires_grad_(), draws(batch, 2, 3, seed=2), times(batch)
    s = t[:, None, None]
    return z, noise, t, ((1 - s) * noise + s * z).detach(), (z - noise).detach()


def field(seed):
    """A smooth velocity field that mixes everything in a sample."""
    weights = draws(6, 6, seed=seed)
    return lambda x, t: ((x.flatten(1) @ weights).sin() + t[:, None]).reshape(x.shape)


REAL, FAKE = field(10), field(11)


def pulled_back(v, x, t, vector):
    """t J^T vector, J the Jacobian of v at x, one sample at a time: the gradient by the network's input."""
    rows = []
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda p, i=i: v(p[None], t[i : i + 1])[0], x[i])
        rows.append(t[i] * torch.einsum("abcd,ab->cd", jacobian, vector[i]))
    return torch.stack(rows)


def build(reference_spec=REFERENCE, classes=0, spec=SPEC, seed=0, **options):
    torch.manual_seed(seed)
    made = DMVAE(spec, reference_spec, classes, **({"score": TINY} | options))
    made.teacher.requires_grad_(False)
    with torch.no_grad():  # as if trained: fresh velocities are zero
        for index, p in enumerate(made.parameters()):
            p.add_(0.2 * draws(*p.shape, seed=index).float())
    return made


def step(batch=4, index=0, labels=None, critic=False):
    noise = Noise(3).fork(index).fork("critic" if critic else "loss")
    return Step(index, torch.zeros(batch, 1, 2, 2), labels, noise, lambda z: z)


# --- the direction ------------------------------------------------------------------------------------------


def test_the_gradient_is_the_weighted_difference_of_velocities_over_the_number_of_elements():
    z, noise, t, x, _ = scene()
    (gradient,) = torch.autograd.grad(matching_loss(REAL, FAKE, z, noise, t), z)
    v_real, v_fake = REAL(x, t), FAKE(x, t)
    for i in range(len(z)):
        a = (z[i] - (x[i] + (1 - t[i]) * v_real[i])).abs().mean()
        expected = (1 - t[i]) * (v_fake[i] - v_real[i]) / a / z.numel()
        torch.testing.assert_close(gradient[i], expected.detach(), atol=1e-12, rtol=0)


def test_the_direction_is_the_difference_of_scores():
    z, noise, t, x, _ = scene()
    v_real, v_fake = REAL(x, t), FAKE(x, t)
    s = t[:, None, None]
    s_real, s_fake = ((s * v - x) / (1 - s) for v in (v_real, v_fake))
    a = (z - x - (1 - s) * v_real).abs().mean((1, 2), keepdim=True)
    expected = (1 - s) ** 2 / s * (s_fake - s_real) / a
    torch.testing.assert_close(
        matching_direction(v_real, v_fake, z, noise, t), expected, atol=1e-12, rtol=1e-10
    )


def test_nothing_moves_where_the_networks_coincide():
    z, noise, t, _, _ = scene()
    for objective in ("matching", "matching_unweighted", "score_difference_both", "loss_difference"):
        (gradient,) = torch.autograd.grad(objective_loss(objective, REAL, REAL, z, noise, t), z)
        assert not gradient.any(), objective


def test_a_perfect_prediction_gives_zero_instead_of_zero_over_zero():
    z, noise = draws(2, 1, 2).float(), torch.zeros(2, 1, 2)
    v = z - noise  # at t = 0.5 and without rounding: the predicted data are z
    direction = matching_direction(v, v, z, noise, torch.tensor([0.5, 0.5]))
    assert torch.equal(direction, torch.zeros(2, 1, 2))
    assert matching_direction(v, v + 1, z, noise, torch.tensor([0.5, 0.5])).isfinite().all()


# --- the objectives of section 3.3 --------------------------------------------------------------------------


def expected_gradient(objective, z, noise, t, x, u):
    """Times the number of elements, from Jacobians."""
    v_real, v_fake, s = REAL(x, t), FAKE(x, t), t[:, None, None]
    whose, v = (FAKE, v_fake) if objective.startswith("fake") else (REAL, v_real)
    score = (s * v - x) / (1 - s)
    difference = v_real - v_fake
    by_real, by_fake = pulled_back(REAL, x, t, difference), pulled_back(FAKE, x, t, difference)
    weight = (z - x - (1 - s) * v_real).abs().mean((1, 2), keepdim=True)
    if objective.startswith("matching"):
        return -(1 - s) * difference / (1 if objective.endswith("unweighted") else weight)
    if objective == "loss_difference":
        return pulled_back(REAL, x, t, v_real - u) - pulled_back(FAKE, x, t, v_fake - u)
    if objective.startswith("score_difference"):
        return {"real": 2 * by_real, "fake": -2 * by_fake, "both": 2 * by_real - 2 * by_fake}[
            objective.split("_")[2]
        ]
    by_input = pulled_back(whose, x, t, v - u)
    ways = {"input": by_input, "target": u - v, "both": by_input + u - v, "ascent": -score, "descent": score}
    return ways[objective.split("_")[2]]


@pytest.mark.parametrize("objective", LOSSES)
def test_the_gradient_takes_the_path_that_its_name_says(objective):
    z, noise, t, x, u = scene()
    (gradient,) = torch.autograd.grad(objective_loss(objective, REAL, FAKE, z, noise, t), z)
    expected = expected_gradient(objective, z.detach(), noise, t, x, u)
    torch.testing.assert_close(gradient * z.numel(), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("objective", LOSSES)
def test_every_objective_reaches_the_latents_by_networks_that_are_frozen(objective):
    regularizer = build(objective=objective, weight=2.0)
    for critic in regularizer.critics().values():
        critic.requires_grad_(False)
    z = draws(4, 4, 3).float().requires_grad_()
    value = regularizer.loss(z, z, step())["match"]
    value.backward()
    assert value.isfinite() and z.grad.any()
    assert all(p.grad is None for p in regularizer.parameters())


def test_maximising_the_real_score_needs_no_critic():
    assert build(objective="real_score_both").critics() == {}
    assert set(build(objective="fake_score_both").critics()) == {"fake"}


# --- distributions with velocities in closed form -----------------------------------------------------------


def mixture(means, std):
    """The velocity of an equal mixture of N(mean, std^2 I), means (K, C); x (B, 1, C)."""

    def velocity(x, t):
        t = t[:, None]
        variance = t**2 * std**2 + (1 - t) ** 2  # (B, 1)
        offsets = x - t[:, :, None] * means  # (B, K, C)
        share = (-offsets.square().sum(-1) / (2 * variance)).softmax(1)[:, :, None]
        data = (share * (means + (t * std**2 / variance)[:, :, None] * offsets)).sum(1, keepdim=True)
        return (data - x) / (1 - t)[:, :, None]

    return velocity


def test_gaussians_are_matched_in_mean_and_spread():
    z, target = draws(256, 1, 4) * 0.3 - 2, mixture(torch.ones(1, 4, dtype=torch.float64), 0.5)
    for index in range(400):
        own = mixture(z.mean(0), (z - z.mean(0)).square().mean().sqrt())
        z.requires_grad_()
        loss = matching_loss(target, own, z, draws(256, 1, 4, seed=index), times(256, index))
        z = (z - 0.1 * z.numel() * torch.autograd.grad(loss, z)[0]).detach()
    torch.testing.assert_close(z.mean(0)[0], torch.ones(4, dtype=z.dtype), atol=1e-3, rtol=0)
    torch.testing.assert_close((z - 1).square().mean().sqrt().item(), 0.5, atol=1e-3, rtol=0)


def descend_two_modes(objective):
    """300 points that start at the left one of two modes; the fake is the points' own kernel density."""
    modes = torch.tensor([[-1.5, 0.0], [1.5, 0.0]], dtype=torch.float64)
    points = torch.nn.Parameter(draws(300, 1, 2) * 0.3 + torch.tensor([-0.7, 0.0]))
    optimizer = torch.optim.Adam([points], lr=0.05)
    for index in range(400):
        noise, t = draws(300, 1, 2, seed=2 * index), times(300, 2 * index + 1)
        fake = mixture(points.detach()[:, 0], 0.15)
        loss = objective_loss(objective, mixture(modes, 0.3), fake, points, noise, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return points.detach()[:, 0]


def test_matching_finds_both_modes_where_maximising_the_real_score_drops_one():
    matched, maximised = (descend_two_modes(name) for name in ("matching", "real_score_ascent"))
    assert 0.35 < (matched[:, 0] > 0).double().mean() < 0.65
    assert (maximised[:, 0] > 0).double().mean() < 0.1


# --- the networks -------------------------------------------------------------------------------------------


def test_the_fake_starts_as_the_teachers_copy_and_alone_moves():
    regularizer = build()
    z = draws(4, 4, 3).float().requires_grad_()
    regularizer.begin(z.detach())
    teacher, fake = regularizer.teacher, regularizer.critics()["fake"]
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    assert all(torch.equal(p, before[name]) for name, p in fake.named_parameters())
    assert not torch.autograd.grad(regularizer.loss(z, z, step())["match"], z)[0].any()
    optimizer = torch.optim.SGD(fake.parameters(), lr=0.1)
    regularizer.critic_loss("fake", z.detach(), step(critic=True)).backward()
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in teacher.named_parameters())
    assert all(not torch.equal(p, before[name]) for name, p in fake.named_parameters())
    assert torch.autograd.grad(regularizer.loss(z, z, step())["match"], z)[0].any()


def test_the_fake_learns_by_plain_flow_matching_uniform_in_time():
    regularizer, z, now = build(), draws(4, 4, 3).float(), step(critic=True)
    t, noise = now.noise.uniform(z[:, 0, 0], "t"), now.noise.normal(z, "noise")
    x = (1 - t[:, None, None]) * noise + t[:, None, None] * z
    expected = (regularizer.fake.velocity(x, t, None) - (z - noise)).square().mean()
    torch.testing.assert_close(regularizer.critic_loss("fake", z, now), expected)
    fresh = DMVAE(SPEC, REFERENCE, 10)  # with the options that it has unasked
    assert (fresh.fake.time_law, fresh.fake.cosine, fresh.fake.label_dropout) == ("uniform", False, 0.1)


def test_both_networks_are_guided_and_see_labels():
    regularizer, labels = build(classes=10, guidance=3.0), torch.tensor([1, 7, 0, 2])
    z = draws(4, 4, 3).float().requires_grad_()
    now = step(labels=labels)
    (gradient,) = torch.autograd.grad(regularizer.loss(z, z, now)["match"], z)
    t, noise = now.noise.uniform(z[:, 0, 0], "t"), now.noise.normal(z, "noise")
    x = ((1 - t[:, None, None]) * noise + t[:, None, None] * z).detach()
    guided = []
    for network in (regularizer.teacher, regularizer.fake):
        v, plain = network.velocity(x, t, labels), network.velocity(x, t, None)
        assert not torch.allclose(v, plain)
        guided.append(v + 2 * (v - plain))
    expected = regularizer.weight * matching_direction(*guided, z, noise, t) / z.numel()
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-6, rtol=1e-4)


def test_times_stay_in_their_range():
    regularizer, seen = build(times=(0.25, 0.5)), []
    velocity = regularizer.teacher.velocity
    regularizer.teacher.velocity = lambda x, t, labels: (seen.append(t), velocity(x, t, labels))[1]
    z = draws(64, 4, 3).float()
    regularizer.loss(z, z, step(64))
    assert 0.25 <= seen[0].min() < 0.27 and 0.48 < seen[0].max() < 0.5


def test_times_move_to_their_last_range():
    regularizer = build(times=(0.0, 1.0), last_times=(0.5, 1.0), anneal=10)
    seen = []
    regularizer.teacher.velocity = lambda x, t, labels: seen.append(t) or torch.zeros_like(x)
    regularizer.fake.velocity = lambda x, t, labels: torch.zeros_like(x)
    z = torch.randn(64, 4, 3)
    for index in (0, 5, 10, 99):
        regularizer.loss(z, z, step(64, index))
    lows = [float(t.min()) for t in seen]
    for low, bound in zip(lows, (0.0, 0.25, 0.5, 0.5), strict=True):
        assert bound <= low < bound + 0.1
    with pytest.raises(ValueError, match="both or neither"):
        build(anneal=10)


def test_rescaled_latents_are_seen_by_the_references_scalar_mean_and_deviation():
    regularizer = build(SPEC, rescale=True)
    plain = build(SPEC)
    train, val = 5 + 3 * torch.randn(400, 4, 3), 99 * torch.ones(8, 4, 3)
    made = regularizer.reference(Reference(torch.cat((train, val)), fit=400))
    assert torch.allclose(made.samples[:400], (train - train.mean()) / train.std(), atol=1e-5)
    z = 5 + 3 * torch.randn(4, 4, 3)
    assert torch.allclose(regularizer.aligned(z), (z - train.mean()) / train.std(), atol=1e-5)
    # The networks see what they would of latents that had been rescaled before.
    for given in (step(), step(critic=True)):
        own, others = (
            {"match": r.loss(x, x, given)["match"], "fake": r.critic_loss("fake", x, given)}
            for r, x in ((regularizer, z), (plain, regularizer.aligned(z)))
        )
        assert all(torch.allclose(own[name], others[name], rtol=1e-4) for name in own)
    with pytest.raises(Unfit, match="4 x 3, not 9 x 5"):
        build(REFERENCE, rescale=True)


def test_the_teachers_start_depends_on_the_options_that_a_prior_is_cached_by_alone():
    def start(**options):
        torch.manual_seed(0)
        return DMVAE(SPEC, REFERENCE, 0, score=TINY, **options).teacher.state_dict()

    base = start(head="mlp")
    for other in ({"head_width": 8}, {"objective": "real_score_both"}, {"critic_steps": 2}, {"weight": 1.0}):
        assert all(torch.equal(value, base[name]) for name, value in start(head="mlp", **other).items())
    assert DMVAE.prior_options == {"score", "head", "rescale"}


@pytest.mark.parametrize(
    "spec, reference_spec, options, error",
    [
        (SPEC, REFERENCE, {"guidance": 2.0}, "guidance = 2.0 needs a reference with labels"),
        (SPEC, REFERENCE, {"times": (0.5, 0.5)}, r"times = \[0.5, 0.5\] must be"),
        (SPEC, LatentSpec(1, 5), {"head": "mlp"}, "the reference has one and the latent 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_value(spec, reference_spec, options, error):
    with pytest.raises((Unfit, ValueError), match=error):
        build(reference_spec, spec=spec, **options)


def test_guidance_of_a_score_that_knows_no_classes_is_refused():
    with pytest.raises(ValueError, match="guidance = 3.0 needs a score with classes"):
        DMVAE(SPEC, REFERENCE, 10, score="velocity_mlp", guidance=3.0)
    DMVAE(SPEC, REFERENCE, 10, score={"use": "velocity_mlp", "conditional": True}, guidance=3.0)


# --- references and heads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head, reference_spec, space",
    [
        ("none", REFERENCE, (4, 3)),
        ("none", LatentSpec(1, 5), (4, 3)),
        ("mlp", REFERENCE, (4, 5)),
        ("transformer", REFERENCE, (9, 5)),
        ("transformer", LatentSpec(1, 5), (1, 5)),
    ],
)
def test_the_teacher_lives_where_the_reference_does(head, reference_spec, space):
    regularizer = build(reference_spec, head=head, head_width=8)
    samples = draws(50, reference_spec.tokens, reference_spec.channels) * 3 + 1
    own = regularizer.reference(Reference(samples, None, reference_spec.grid)).samples
    assert own.shape == (50, *space) and own.dtype == torch.float32
    assert (regularizer.space.tokens, regularizer.space.channels) == space
    assert own.mean().abs() < 0.2 and 0.6 < own.std() < 1.4
    regularizer.teacher.loss(own, None, Noise(0))
    z = draws(4, 4, 3).float().requires_grad_()
    regularizer.critic_loss("fake", z.detach(), step(critic=True)).backward()
    assert all(p.grad is None for p in regularizer.head.parameters())
    regularizer.loss(z, z, step())["match"].backward()
    assert z.grad.any() and all(p.grad.any() for p in regularizer.head.parameters())
    assert not {id(p) for p in regularizer.head.parameters()} & {id(p) for p in regularizer.fake.parameters()}


@pytest.mark.parametrize("head", ["none", "mlp"])
def test_scores_of_single_tokens_learn_tokens_and_scores_of_whole_latents_pooled_ones(head):
    samples = draws(50, 9, 3).float()
    reference, spec = Reference(samples, None, (3, 3)), LatentSpec(9, 3, (3, 3))
    for score, fit in (("velocity_mlp", Reference.thinned), (TINY, Reference.pooled)):
        own = build(spec, head=head, head_width=8, score=score).reference(reference)
        assert torch.equal(own.samples, fit(reference, SPEC).standardised().samples)


@pytest.mark.parametrize("head", ["mlp", "transformer"])
def test_a_sample_does_not_depend_on_its_batch_through_a_head(head):
    projected, z = build(head=head, head_width=8).head, draws(4, 4, 3).float()
    torch.testing.assert_close(projected(z[1:2]), projected(z)[1:2], atol=1e-5, rtol=1e-5)


def test_heads_build_on_meta():
    for head in ("mlp", "transformer"):
        with torch.device("meta"):
            meta = DMVAE(SPEC, REFERENCE, 10, head=head)
        assert all(value.is_meta for value in meta.state_dict().values())


def test_single_tokens_become_independent_ones_of_the_same_split_and_class():
    number = torch.arange(60)
    labels, split = number % 3, (number >= 40).long()
    own = independent_tokens(Reference(number[:, None, None].double(), labels, fit=40), 4)
    tokens = own.samples[..., 0].long()
    assert torch.equal(tokens[:, 0], number) and own.fit == 40 and own.labels is labels
    for column in tokens.T:
        assert torch.equal(column.sort().values, number)
        assert torch.equal(labels[column], labels) and torch.equal(split[column], split)
    assert sum((tokens[:, i] == tokens[:, j]).double().mean() for i in range(4) for j in range(i)) < 1


def test_a_velocity_mlp_is_the_cheap_score():
    regularizer = build(score={"use": "velocity_mlp", "width": 8, "depth": 1})
    z = draws(4, 4, 3).float().requires_grad_()
    assert torch.autograd.grad(regularizer.loss(z, z, step())["match"], z)[0].any()
    assert isinstance(regularizer.head, nn.Identity)
