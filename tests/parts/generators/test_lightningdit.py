"""LightningDiT: its velocity at the start, and sampling by hand."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.flow import euler, guide, shift_time
from latentbench.generators.lightningdit import LightningDiT

SPEC = LatentSpec(4, 3, (2, 2))
LABELS = torch.tensor([0, 1, 2, -1])


def make(randomise=True, spec=SPEC, classes=3, **options):
    torch.manual_seed(0)
    model = LightningDiT(spec, classes, width=16, depth=2, heads=2, **options)
    if randomise:  # past adaLN-Zero, where nothing depends on anything
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("spec", [SPEC, LatentSpec(4, 3)])
def test_an_untrained_network_has_zero_velocity(spec):
    v = make(randomise=False, spec=spec).velocity(torch.randn(4, 4, 3), torch.rand(4), LABELS)
    assert v.shape == (4, 4, 3) and not v.any()


def test_its_loss_then_is_the_target_s_mean_square_and_a_cosine_of_zero():
    z, noise = torch.randn(4, 4, 3), Noise(1)
    losses = make(randomise=False).loss(z, LABELS, noise)
    assert losses["velocity"].item() == pytest.approx((z - noise.normal(z, "noise")).square().mean().item())
    assert losses["cosine"].item() == pytest.approx(1.0)
    assert set(make(cosine=False, time="uniform").loss(z, None, noise)) == {"velocity"}


def test_label_minus_one_is_no_label():
    model, x, t = make(), torch.randn(4, 4, 3), torch.rand(4)
    none = model.velocity(x, t, None)
    assert torch.equal(model.velocity(x, t, torch.full((4,), -1)), none)
    assert not torch.isclose(model.velocity(x, t, LABELS)[:3], none[:3]).all(dim=-1).any()


def test_a_model_without_classes_ignores_labels_and_guidance():
    model = make(classes=0)
    drawn = model.sample(LABELS, 1.0, Noise(0), steps=2)
    assert torch.equal(drawn, model.sample(torch.full((4,), -1), 4.0, Noise(0), steps=2))


def test_tap_gives_the_tokens_after_a_block_and_the_same_velocity():
    model, x, t = make(), torch.randn(4, 4, 3), torch.rand(4)
    v, first = model.velocity(x, t, LABELS, tap=1)
    _, last = model.velocity(x, t, LABELS, tap=2)
    assert first.shape == last.shape == (4, 4, 16) and not torch.equal(first, last)
    assert torch.equal(v, model.velocity(x, t, LABELS))
    with pytest.raises(ValueError, match="tap = 3"):
        model.velocity(x, t, LABELS, tap=3)


def test_tokens_are_told_apart_by_their_positions():
    model, x = make(), torch.randn(1, 1, 3).expand(1, 4, 3)
    v = model.velocity(x, torch.rand(1), None)[0]
    assert (torch.cdist(v, v) + torch.eye(4)).min() > 1e-3


def by_hand(model, guidance, steps=3, shift=1.0, start=0.0, channels=3):
    """Guided sampling with one evaluation per branch."""
    x = Noise(0).normal(torch.empty(4, 4, 3), "noise")

    def field(x, t):
        c, u = model.velocity(x, t, LABELS), model.velocity(x, t, None)
        guided = torch.cat([guide(c, u, guidance)[..., :channels], c[..., channels:]], dim=-1)
        return c if t[0] < start else guided

    return euler(field, x, shift_time(torch.linspace(0, 1, steps + 1), shift))


@torch.no_grad()
def test_guidance_of_one_is_conditional_sampling():
    model = make()
    torch.testing.assert_close(model.sample(LABELS, 1.0, Noise(0), steps=3), by_hand(model, 1.0))


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, {}),
        ({"shift": 0.3}, {"shift": 0.3}),
        ({"guidance_start": 0.5}, {"start": 0.5}),
        ({"guidance_channels": 1}, {"channels": 1}),
    ],
)
def test_guided_sampling_in_one_pass_equals_two_passes(options, same):
    model = make()
    drawn = model.sample(LABELS, 2.0, Noise(0), steps=3, **options)
    torch.testing.assert_close(drawn, by_hand(model, 2.0, **same))


def test_the_sde_ends_in_the_distribution_of_the_ode():
    """With the velocity of a Gaussian of deviation 2, which is linear in x."""
    spec = LatentSpec(4, 4, (2, 2))
    model = LightningDiT(spec, 0, width=16, depth=1, heads=2)

    def run(x, t, labels):
        return ((t * 4 - (1 - t)) / (4 * t**2 + (1 - t) ** 2))[:, None, None] * x, None

    model.run = run
    labels = torch.full((500,), -1)
    drawn = [model.sample(labels, 1.0, Noise(0), steps=100, diffusion=d) for d in (0.0, 1.0)]
    for z in drawn:
        assert z.mean().abs() < 0.1 and abs(z.std() - 2) < 0.06
    assert not torch.allclose(*drawn, atol=0.1)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"width = 60 is not divisible by 4 x heads = 16"):
        LightningDiT(SPEC, 3, width=60, heads=4)
