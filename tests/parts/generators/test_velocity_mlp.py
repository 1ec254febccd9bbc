"""The per-token velocity field: its size, what it learns of a Gaussian, and that tokens don't meet."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.generators.velocity_mlp import VelocityMLP

MEAN, STD = 1.0, 0.5


@pytest.mark.parametrize("channels, count", [(32, 34_978_848), (8, 34_929_672), (2, 34_917_378)])
def test_it_has_as_many_parameters_as_flow_priors_network(channels, count):
    with torch.device("meta"):
        model = VelocityMLP(LatentSpec(64, channels), 0, width=1024, depth=6)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.fixture(scope="module")
def learned():
    """A tiny network after 500 steps on N(1, 0.5^2) in each of two channels."""
    torch.manual_seed(0)
    model = VelocityMLP(LatentSpec(1, 2), 0, width=32, depth=2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    generator = torch.Generator().manual_seed(1)
    for index in range(500):
        z = MEAN + STD * torch.randn(128, 1, 2, generator=generator)
        optimizer.zero_grad()
        model.loss(z, None, Noise(0).fork(index))["velocity"].backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def test_it_learns_the_velocity_of_a_gaussian(learned):
    t = torch.linspace(0.05, 0.95, 19).repeat_interleave(500)
    noise = torch.randn(len(t), 1, 2, generator=torch.Generator().manual_seed(2))
    path = t[:, None, None]
    x = path * MEAN + (path**2 * STD**2 + (1 - path) ** 2).sqrt() * noise  # x_t of the data
    slope = (path * STD**2 - (1 - path)) / (path**2 * STD**2 + (1 - path) ** 2)
    expected = MEAN + slope * (x - path * MEAN)
    with torch.no_grad():
        found = learned.velocity(x, t, None)
    error = (found - expected).square().mean().sqrt()
    assert error < 0.1, "the velocity itself has a root mean square of 1.2"


def test_its_samples_have_the_gaussians_moments(learned):
    with torch.no_grad():
        z = learned.sample(torch.full((4000,), -1), 1.0, Noise(0), steps=50)
    # Standard errors are 0.008 and 0.006; the rest is the network's.
    assert z.mean((0, 1)).tolist() == pytest.approx([MEAN, MEAN], abs=0.05)
    assert z.std((0, 1)).tolist() == pytest.approx([STD, STD], abs=0.05)


def awake(**options):
    """A model whose layers that start at zero say something."""
    torch.manual_seed(0)
    model = VelocityMLP(LatentSpec(5, 3), 10, width=16, depth=2, **options)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.double().eval()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_token_does_not_see_the_others_nor_its_position():
    model, x, t = awake(), randn(4, 5, 3), torch.rand(4, 5, dtype=torch.float64)
    with torch.no_grad():
        together = model.velocity(x, t, None)
        alone = model.velocity(x.reshape(20, 1, 3), t.flatten(), None)
        shuffled = model.velocity(x.flip(1), t.flip(1), None)
    torch.testing.assert_close(alone.reshape(4, 5, 3), together, atol=1e-12, rtol=0)
    torch.testing.assert_close(shuffled.flip(1), together, atol=1e-12, rtol=0)


def test_one_time_a_row_is_the_same_time_for_each_token():
    model, x, t = awake(), randn(4, 5, 3), torch.rand(4, dtype=torch.float64)
    with torch.no_grad():
        found = model.velocity(x, t, None), model.velocity(x, t[:, None].expand(4, 5), None)
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)


def test_every_draw_of_a_token_has_a_time_of_its_own(monkeypatch):
    model, seen = awake(draws=3), []
    monkeypatch.setattr(model.network, "tapped", lambda x, t, *_: (seen.append(t), (x, x))[1])
    model.loss(randn(4, 5, 3), None, Noise(0))
    assert seen[0].shape == (12, 5) and len(seen[0].unique()) == 60


@pytest.mark.parametrize("conditional", [False, True])
def test_only_a_conditional_one_listens_to_labels(conditional):
    model, x, t = awake(conditional=conditional), randn(4, 5, 3), torch.rand(4, dtype=torch.float64)
    with torch.no_grad():
        one, two, none, dropped = (
            model.velocity(x, t, labels)
            for labels in (torch.tensor([1, 1, 1, 1]), torch.tensor([1, 2, 1, 1]), None, torch.full((4,), -1))
        )
    assert torch.equal(one[1], two[1]) != conditional
    torch.testing.assert_close(one[0], two[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(none, dropped, atol=1e-12, rtol=0)


def test_guidance_extrapolates_from_the_unconditional_field():
    model, labels = awake(conditional=True), torch.tensor([1, 2])
    like = randn(2, 5, 3)
    start = Noise(0).normal(like, "noise")
    t = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        found = model.sample(labels, 3.0, Noise(0), steps=1)
        with_class, without = model.velocity(start, t, labels), model.velocity(start, t, None)
    torch.testing.assert_close(found, start + without + 3 * (with_class - without), atol=1e-12, rtol=0)


@pytest.mark.parametrize("tap", [0, 3])
def test_a_tap_beyond_the_blocks_is_named(tap):
    with pytest.raises(ValueError, match="blocks 1 to 2"):
        awake().velocity(randn(4, 5, 3), torch.rand(4, dtype=torch.float64), None, tap=tap)
