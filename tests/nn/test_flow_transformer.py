"""What transformers of flow matching share: prediction of data, guidance, alignment with a teacher."""

import numpy as np
import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Unfit
from latentbench.bench.flow import euler, velocity_to
from latentbench.bench.nn.flow_transformer import standardised_over_tokens
from latentbench.bench.registry import create, get

SPEC = LatentSpec(4, 3, (2, 2))
TEACHER = LatentSpec(4, 5, (2, 2))
LABELS = torch.tensor([0, 1, 2, -1])
NAMES = ["lightningdit", "sit", "ddt"]


def make(name, randomise=True, classes=3, seed=0, depth=3, **options):
    torch.manual_seed(seed)
    options = {"spec": SPEC, "width": 16, "heads": 2, "depth": depth} | options
    model = create("generators", name, classes=classes, **options)
    if randomise:  # past adaLN-Zero, where nothing depends on anything
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_with_prediction_of_data_all_is_as_with_the_velocity_that_follows(name):
    """Loss, velocity and samples of a network whose output is the data."""
    model, z = make(name, prediction="x", label_dropout=0.0).double(), torch.randn(4, 4, 3).double()
    x, t = torch.randn(4, 4, 3).double(), torch.tensor([0.0, 0.5, 0.9, 0.99]).double()
    data = model.network(x, t, LABELS, 0)[0]
    expected = (data - x) / (1 - t).clamp(min=0.05)[:, None, None]
    torch.testing.assert_close(model.velocity(x, t, LABELS), expected)
    seen = []
    network = model.network
    model.network = lambda *args: (seen.append((args, network(*args))), seen[-1][1])[1]
    loss = model.loss(z, LABELS, Noise(0))["velocity"]
    (_, t, _, _), (data, _) = seen[0]
    expected = ((data - z) ** 2 / (1 - t).clamp(min=0.05)[:, None, None] ** 2).mean()
    torch.testing.assert_close(loss, expected)


def test_the_cosine_of_predicted_data_is_of_velocities():
    model, z = make("lightningdit", prediction="x", label_dropout=0.0).double(), torch.randn(4, 4, 3).double()
    seen, network = [], model.network
    model.network = lambda *args: (seen.append((args, network(*args))), seen[-1][1])[1]
    loss = model.loss(z, LABELS, Noise(0))["cosine"]
    (x, t, _, _), (data, _) = seen[0]
    v, target = velocity_to(data, x, t), z - Noise(0).normal(z, "noise")
    expected = 1 - (v * target).sum(-1) / v.norm(dim=-1) / target.norm(dim=-1)
    torch.testing.assert_close(loss, expected.mean())


def sample(model, guidance, weak=None, labels=LABELS, **options):
    with torch.no_grad():
        return model.sample(labels, guidance, Noise(0), weak, steps=5, **options)


@pytest.mark.parametrize("name", NAMES)
def test_guidance_from_0_to_1_is_guidance_everywhere_and_of_1_is_none(name):
    model = make(name)
    everywhere = sample(model, 2.0)
    assert torch.equal(sample(model, 2.0, guidance_start=0.0, guidance_end=1.0), everywhere)
    assert torch.equal(sample(model, 1.0, guidance_end=0.5), sample(model, 1.0))
    assert not torch.allclose(everywhere, sample(model, 1.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.3, 0.7), (0.2, 0.6), (0.5, 0.1)])
def test_velocities_are_guided_between_both_ends_inclusively(name, start, end):
    model = make(name)

    def field(x, t):
        c, u = model.velocity(x, t, LABELS), model.velocity(x, t, None)
        return u + 2.5 * (c - u) if start <= t[0] <= end else c

    with torch.no_grad():
        times = torch.linspace(0, 1, 6)
        expected = euler(field, Noise(0).normal(torch.empty(4, 4, 3), "noise"), times)
    drawn = sample(model, 2.5, guidance_start=times[times >= start][0].item(), guidance_end=end)
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [3, 0])
def test_autoguidance_is_away_from_a_weak_model_for_the_same_label(name, classes):
    model, weak = make(name, classes=classes), make("sit", classes=classes, seed=1, depth=1)

    def field(x, t):
        v, other = model.velocity(x, t, LABELS), weak.velocity(x, t, LABELS)
        guided = other + 1.5 * (v - other)
        return torch.cat([guided[..., :2], v[..., 2:]], dim=-1) if 0.2 <= t[0] <= 0.6 else v

    with torch.no_grad():
        start = Noise(0).normal(torch.empty(4, 4, 3), "noise")
        expected = euler(field, start, torch.linspace(0, 1, 6))
    options = {"guidance_start": 0.2, "guidance_end": 0.6001, "guidance_channels": 2}
    torch.testing.assert_close(sample(model, 1.5, weak, **options), expected)
    assert not torch.allclose(sample(model, 1.5, weak, **options), sample(model, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_its_own_weak_one_without_effect_and_guidance_of_1_asks_none(name):
    model = make(name)
    torch.testing.assert_close(sample(model, 3.0, model), sample(model, 1.0))
    weak = make("sit")
    weak.velocity = None  # a call would fail
    assert torch.equal(sample(model, 1.0, weak), sample(model, 1.0))
    with pytest.raises(TypeError):
        sample(model, 2.0, weak)


def test_the_times_of_sampling_are_shifted_by_both_shifts():
    model = make("lightningdit", time_shift=2.0)
    level = 1 - torch.linspace(0, 1, 6).double()
    for s in (2.0, 0.5):  # the option, then the sampler's of s = 2 towards data
        level = s * level / (1 + (s - 1) * level)
    torch.testing.assert_close(model.grid_of_times(5, shift=2.0).double(), 1 - level, rtol=1e-6, atol=1e-7)


def test_the_times_of_training_are_shifted_towards_noise():
    model, seen = make("sit", time_shift=3.0), []
    network = model.network
    model.network = lambda *args: (seen.append(args[1]), network(*args))[1]
    model.loss(torch.randn(4, 4, 3), LABELS, Noise(0))
    level = 1 - Noise(0).uniform(torch.empty(4), "t")
    torch.testing.assert_close(seen[0], 1 - 3 * level / (1 + 2 * level))


# --- alignment with a teacher -----------------------------------------------------------------------------


def aligned(name, teacher=TEACHER, randomise=True, **options):
    return make(name, randomise, repa=0.5, teacher_spec=teacher, **options)


@pytest.mark.parametrize("name", NAMES)
def test_alignment_is_complete_where_projected_tokens_are_multiples_of_features(name):
    model, hidden = aligned(name), torch.randn(4, 4, 16)
    features = 2.5 * model.projector(hidden)
    assert model.alignment(hidden, features).item() == pytest.approx(-1)
    assert model.alignment(hidden, -features).item() == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_its_gradient_reaches_the_blocks_up_to_its_depth_alone(name, depth):
    model = aligned(name, randomise=False, repa_depth=depth)
    model.loss(torch.randn(4, 4, 3), LABELS, Noise(0), torch.randn(4, 4, 5))["repa"].backward()
    for index, block in enumerate(model.blocks, start=1):
        learns = block.modulation.weight.grad is not None and bool(block.modulation.weight.grad.any())
        assert learns == (index <= depth)
    assert model.embed.weight.grad.any() and model.projector[0].weight.grad.any()
    assert model.output.weight.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_it_is_in_the_loss_by_its_factor_and_changes_no_other_term(name):
    z, features = torch.randn(4, 4, 3), torch.randn(4, 4, 5)
    model = aligned(name, randomise=False)
    plain = make(name, randomise=False)
    losses, others = model.loss(z, LABELS, Noise(0), features), plain.loss(z, LABELS, Noise(0))
    assert losses.keys() - others.keys() == {"repa"} and model.teacher_spec is not None
    assert all(torch.equal(losses[term], others[term]) for term in others)
    model.repa = 1.0
    doubled = model.loss(z, LABELS, Noise(0), features)["repa"]
    torch.testing.assert_close(doubled, 2 * losses["repa"])


@pytest.mark.parametrize("name", NAMES)
def test_without_it_or_with_it_the_network_starts_the_same(name):
    plain, none, with_it = (
        make(name, randomise=False, **options)
        for options in ({}, {"repa": 0.0, "teacher_spec": TEACHER}, {"repa": 0.5, "teacher_spec": TEACHER})
    )
    assert plain.state_dict().keys() == none.state_dict().keys() and none.teacher_spec is None
    for state in (none.state_dict(), with_it.state_dict()):
        assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    z = torch.randn(4, 4, 3)
    losses = [model.loss(z, LABELS, Noise(0)) for model in (plain, none)]
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][term], losses[1][term]) for term in losses[0])
    for model in (none, with_it):
        assert torch.equal(sample(model, 2.0), sample(plain, 2.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("projector", ["mlp", "conv"])
def test_a_teacher_of_another_grid_is_pooled_onto_the_latent_s(name, projector):
    teacher = LatentSpec(16, 5, (4, 4))
    model, same = (aligned(name, spec, repa_projector=projector) for spec in (teacher, TEACHER))
    hidden, features = torch.randn(4, 4, 16), torch.randn(4, 16, 5)
    # Rows of 4 x 4 tokens; each latent token has four of them.
    pooled = features.view(4, 2, 2, 2, 2, 5).mean(dim=(2, 4)).flatten(1, 2)
    torch.testing.assert_close(model.alignment(hidden, features), same.alignment(hidden, pooled))


def test_the_convolution_sees_the_latent_s_grid():
    spec, teacher = LatentSpec(6, 3, (2, 3)), LatentSpec(6, 5, (2, 3))
    model = aligned("sit", teacher, spec=spec, repa_projector="conv")
    hidden, features = torch.randn(2, 6, 16), torch.randn(2, 6, 5)
    padded = torch.zeros(2, 4, 5, 16)
    padded[:, 1:3, 1:4] = hidden.view(2, 2, 3, 16)
    weight, bias = model.projector.weight, model.projector.bias
    tokens = [
        torch.einsum("bhwd,fdhw->bf", padded[:, i : i + 3, j : j + 3], weight) + bias
        for i in range(2)
        for j in range(3)
    ]
    wanted = standardised_over_tokens(features)
    cosines = torch.cosine_similarity(torch.stack(tokens, dim=1), wanted, dim=-1)
    torch.testing.assert_close(model.alignment(hidden, features), -cosines.mean())


def test_features_are_standardised_over_the_tokens_of_each_image():
    features = np.random.default_rng(0).normal(2, 3, (3, 8, 5))
    expected = (features - features.mean(1, keepdims=True)) / (features.std(1, ddof=1, keepdims=True) + 1e-6)
    torch.testing.assert_close(
        standardised_over_tokens(torch.from_numpy(features)), torch.from_numpy(expected)
    )


@pytest.mark.parametrize(
    ("size", "projector", "total"),
    [
        ("B", "mlp", 7_344_896),
        ("L", "mlp", 7_869_184),
        ("XL", "mlp", 8_131_328),
        ("XL", "conv", 7_963_392),
    ],
)
def test_projectors_have_the_published_numbers_of_parameters(size, projector, total):
    spec, cls = LatentSpec(256, 16, (16, 16)), get("generators", "sit")
    options = {"repa": 0.5, "repa_width": 2048, "repa_projector": projector}
    with torch.device("meta"):
        model = cls(spec, 1000, teacher_spec=LatentSpec(256, 768, (16, 16)), **options, **cls.sizes[size])
    assert sum(p.numel() for p in model.projector.parameters()) == total
    assert model.repa_depth == {"B": 4, "L": 8, "XL": 8}[size]


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(ValueError, match="repa_depth = 4 is none of the blocks 1 to 3"):
        aligned("sit", repa_depth=4)
    with pytest.raises(ValueError, match="nothing else is given a teacher's features"):
        make("sit", repa=0.5)
    with pytest.raises(Unfit, match="4 latent tokens cannot be aligned with 9 teacher tokens"):
        aligned("sit", LatentSpec(9, 5))
    with pytest.raises(Unfit, match="conv needs latent tokens on a grid"):
        aligned("sit", LatentSpec(4, 5), spec=LatentSpec(4, 3), repa_projector="conv")
