"""SiT against closed forms: its losses at the start, and the marginals of its samplers."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.generators.sit import SiT

SPEC = LatentSpec(4, 3, (2, 2))
LABELS = torch.tensor([0, 1, 2, -1])


def make(randomise=True, classes=3):
    torch.manual_seed(0)
    model = SiT(SPEC, classes, width=16, depth=2, heads=2)
    if randomise:  # past adaLN-Zero, where nothing depends on anything
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def test_the_loss_of_an_untrained_network_is_the_velocity_s_mean_square():
    z, noise = torch.randn(4, 4, 3), Noise(1)
    losses = make(randomise=False).loss(z, LABELS, noise)
    assert set(losses) == {"velocity"}
    assert losses["velocity"].item() == pytest.approx((z - noise.normal(z, "noise")).square().mean().item())


def test_positions_are_all_that_tells_tokens_apart():
    model = make()
    x, t = torch.randn(1, 1, 3).expand(2, 4, 3), torch.rand(2)
    v = model.velocity(x, t, None)
    assert not torch.isclose(v[:, :1], v[:, 1:]).all(-1).any()
    model.positions.zero_()
    v = model.velocity(x, t, None)
    torch.testing.assert_close(v, v[:, :1].expand_as(v))


class Gaussian(SiT):
    """The velocity field of N(mean, std^2), whatever the class."""

    mean, std = 1.5, 0.4

    def run(self, x, t, labels, tap=0):
        t = t[:, None, None]
        variance = (1 - t) ** 2 + t**2 * self.std**2
        return self.mean + (t * self.std**2 - (1 - t)) / variance * (x - t * self.mean), x


@pytest.mark.parametrize("diffusion", [0.0, 0.5, 1.0])
def test_the_ode_and_the_sdes_end_in_the_same_distribution(diffusion):
    model = Gaussian(LatentSpec(16, 8), 0, width=4, depth=1, heads=1)
    z = model.sample(torch.full((500,), -1), 1.0, Noise(0), steps=250, diffusion=diffusion)
    assert z.mean().item() == pytest.approx(1.5, abs=0.01)
    assert z.std().item() == pytest.approx(0.4, abs=0.02)


def test_an_sde_forgets_its_start_and_an_ode_keeps_it():
    model = Gaussian(LatentSpec(16, 8), 0, width=4, depth=1, heads=1)
    start = Noise(0).normal(torch.empty(500, 16, 8), "noise")
    kept = []
    for diffusion in (0.0, 1.0):
        z = model.sample(torch.full((500,), -1), 1.0, Noise(0), steps=50, diffusion=diffusion)
        kept.append(torch.corrcoef(torch.stack([z.flatten(), start.flatten()]))[0, 1].item())
    assert kept[0] == pytest.approx(1.0, abs=1e-4) and abs(kept[1]) < 0.5


@pytest.mark.parametrize("diffusion", [0.0, 1.0])
def test_steps_count_evaluations_of_the_velocity(diffusion, monkeypatch):
    model, times = make(), []
    run = model.run
    monkeypatch.setattr(model, "run", lambda x, t, *rest: (times.append(t[0].item()), run(x, t, *rest))[1])
    model.sample(LABELS, 1.0, Noise(0), steps=5, diffusion=diffusion)
    last = 0.96 if diffusion else 0.8
    assert times == pytest.approx([i * last / 4 for i in range(5)], abs=1e-6)


def test_guidance_starts_where_it_is_told():
    model = make()
    plain, guided, late = (
        model.sample(LABELS, w, Noise(0), steps=4, guidance_start=start)
        for w, start in ((1.0, 0.0), (2.0, 0.0), (2.0, 1.0))
    )
    assert torch.equal(plain, late)
    assert not torch.isclose(plain[:3], guided[:3]).all(-1).any()
    torch.testing.assert_close(plain[3], guided[3])  # "no class" has nothing to be guided from
