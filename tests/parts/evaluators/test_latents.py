"""The evaluator `latents` on latents whose statistics are known in closed form or from brute force."""

import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.fake_subject import FakeSubject
from scipy.stats import entropy, kstest

from latentbench.bench.api import LatentSpec
from latentbench.bench.metrics.bootstrap import REPLICATES, counts
from latentbench.bench.registry import create

SPECTRAL = {"spectral_entropy", "high_frequency_ratio", "total_variation"}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cell(z, grid=None, mean_z=None):
    spec = LatentSpec(z.shape[1], z.shape[2], grid)
    mean_z = z if mean_z is None else mean_z
    sets = {"z": {"train": z, "val": z}, "mean_z": {"train": mean_z, "val": mean_z}}
    return FakeSubject(scope="tokenizer", val=len(z), tokenizer=SimpleNamespace(spec=spec), **sets)


def scores(z, grid=None, mean_z=None):
    return create("evaluators", "latents").run(cell(z, grid, mean_z))


def waves(n, side, down, right):
    """n plane waves of random phase, of whole cycles over a grid, in two channels."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = torch.rand(n, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    angle = 2 * math.pi * (down * y + right * x) / side
    return (angle[None, :, :, None] + phase).cos().flatten(1, 2)


def test_white_noise_has_a_flat_spectrum_full_rank_and_no_memory():
    found = scores(2 * randn(2000, 16, 3) + 5, (4, 4))
    assert found["latent_std"] == pytest.approx(2, rel=0.01)
    assert found["effective_rank"] == pytest.approx(3, abs=1e-3)
    assert found["spectral_entropy"] == pytest.approx(1, abs=1e-3)
    assert found["high_frequency_ratio"] == pytest.approx(11 / 15, abs=0.01)  # 4 of 15 are slow
    assert found["total_variation"] == pytest.approx(4 / math.pi**0.5, rel=0.01)  # E|a - b| = 2 / sqrt(pi)
    assert abs(found["autocorrelation"]) < 0.01 and abs(found["autocorrelation_1"]) < 0.01


@pytest.mark.parametrize(("down", "right", "high"), [(0, 1, 0), (2, 0, 0), (2, 2, 1), (0, 3, 1)])
def test_a_wave_has_the_power_of_two_frequencies(down, right, high):
    """A real one: at k and at -k, log 2 of the log 63 that an 8 x 8 grid can have."""
    found = scores(waves(400, 8, down, right), (8, 8))
    assert found["spectral_entropy"] == pytest.approx(math.log(2) / math.log(63))
    assert found["high_frequency_ratio"] == pytest.approx(high, abs=1e-9)


def test_the_correlation_of_waves_is_the_cosine_of_the_lag():
    phase = torch.arange(64) * 2 * math.pi / 64  # evenly spread, so that products are exact
    z = (torch.arange(12) * math.pi / 3 + phase[:, None]).cos()[..., None]
    found = scores(z)
    assert found["autocorrelation_1"] == pytest.approx(0.5, abs=1e-6)
    expected = statistics.mean(math.cos(lag * math.pi / 3) for lag in range(1, 12))
    assert found["autocorrelation"] == pytest.approx(expected, abs=1e-6)


def test_correlations_are_those_of_a_brute_force_loop():
    z = randn(20, 5, 3).cumsum(1) + 7
    x = (z.double() - z.double().mean((0, 1))).numpy()
    lags = [np.mean(x[:, lag:] * x[:, :-lag]) / np.mean(x**2) for lag in range(1, 5)]
    found = scores(z)
    assert found["autocorrelation_1"] == pytest.approx(lags[0])
    assert found["autocorrelation"] == pytest.approx(np.mean(lags))


def test_a_checkerboard_has_the_largest_differences():
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2).flatten()[None, :, None]
    signs = torch.tensor([1.0, -1.0])[:, None, None]
    found = scores(3 * signs * board, (4, 4))
    assert found["total_variation"] == pytest.approx(4)  # 2 down and 2 right, in units of the std
    assert found["spectral_entropy"] == pytest.approx(0) and found["high_frequency_ratio"] == pytest.approx(1)


def test_latents_that_are_the_same_at_all_positions_are_smooth():
    found = scores(randn(50, 1, 3).expand(-1, 16, -1), (4, 4))
    assert found["total_variation"] == found["spectral_entropy"] == found["high_frequency_ratio"] == 0
    assert found["autocorrelation"] == pytest.approx(1) and found["autocorrelation_1"] == pytest.approx(1)


def test_where_nothing_varies_numbers_are_zero_and_the_rank_one():
    found = scores(torch.full((7, 4, 3), 0.3), (2, 2))
    assert found["effective_rank"] == pytest.approx(1)
    assert all(found[name] == pytest.approx(0, abs=1e-6) for name in (*SPECTRAL, "autocorrelation"))
    assert all(math.isfinite(x) for value in found.values() for x in getattr(value, "replicates", None) or ())


@pytest.mark.parametrize("r", [1, 3, 6])
def test_equal_power_in_r_directions_is_rank_r(r):
    basis, _ = torch.linalg.qr(randn(6, 6).double())
    axes = torch.cat([torch.eye(r), -torch.eye(r)]).double() @ basis[:r]  # (2r, 6), mean 0
    assert scores(axes.float()[:, None] + 4)["effective_rank"] == pytest.approx(r, abs=1e-4)


def test_the_rank_is_that_of_numpy_s_singular_values():
    z = randn(30, 4, 5) * torch.tensor([3.0, 1.0, 0.3, 0.1, 0.0]) + 2
    tokens = z.flatten(0, 1).double().numpy()
    singular = np.linalg.svd(tokens - tokens.mean(0), compute_uv=False)
    assert scores(z)["effective_rank"] == pytest.approx(math.exp(entropy(singular)), rel=1e-6)


def test_spectral_numbers_need_a_grid_of_two_by_two():
    for grid in (None, (1, 4), (4, 1)):
        found = scores(randn(9, 4, 3), grid)
        assert not SPECTRAL & set(found) and "autocorrelation" in found
    assert set(scores(randn(9, 4, 3), (2, 2))) == set(create("evaluators", "latents").metrics)
    assert {name.removesuffix("_mean") for name in scores(randn(9, 1, 2))} == {
        "latent_std",
        "effective_rank",
        "active_channels",
        "KS_tokens",
    }


def test_noise_alone_and_position_alone_make_no_channel_active():
    mean_z = torch.zeros(200, 4, 4)
    mean_z[:, :, 0] = randn(200, 4)
    mean_z[:, :, 1] = 0.09 * randn(200, 4, seed=1)  # variance 0.0081
    mean_z[:, :, 2] = torch.arange(4.0)
    found = scores(mean_z + randn(200, 4, 4, seed=2), mean_z=mean_z)
    assert found["active_channels"] == 1
    assert found["effective_rank"] > 3 and found["effective_rank_mean"] < 3


def test_latents_without_noise_are_scored_apart():
    mean_z = waves(60, 4, 1, 0)
    z = mean_z + randn(60, 16, 2)
    found, clean = scores(z, (4, 4), mean_z), scores(mean_z, (4, 4))
    for name in clean:
        if name.endswith("_mean"):
            assert found[name] == clean[name] == clean[name.removesuffix("_mean")]
    assert found["spectral_entropy"] > found["spectral_entropy_mean"]


def test_the_distance_to_the_normal_is_of_latents_as_they_are():
    z = 2 * randn(300, 4, 1)
    expected = kstest(z.flatten().numpy(), "norm").statistic
    assert scores(z)["KS_tokens"] == pytest.approx(expected, abs=1e-6)
    assert scores(z / 2)["KS_tokens"] < 0.05 < 0.1 < expected


def test_a_replicate_is_the_statistic_of_resampled_images():
    """All but for the centre, which is that of the whole set; here it is zero in either."""
    half = randn(150, 4, 3)  # more images than are taken at a time
    z = torch.stack([half, -half], 1).flatten(0, 1)
    found = scores(z, (2, 2))
    for name in ("spectral_entropy", "high_frequency_ratio"):  # no centre at all
        times = counts(name, len(z))[7].long()
        again = scores(z.repeat_interleave(times, 0), (2, 2))
        assert found[name].replicates[7] == pytest.approx(again[name])
    for name in ("latent_std", "total_variation", "effective_rank", "autocorrelation_1"):
        times = counts(name, len(z))[7].long()
        again = scores(z.repeat_interleave(times, 0), (2, 2))
        assert found[name].replicates[7] == pytest.approx(again[name], abs=0.01)
        assert len(found[name].replicates) == REPLICATES


def test_replicates_spread_as_fresh_sets_of_images_do():
    # Of walks, not of white noise: near its maximum an entropy isn't linear, and resamples spread too far.
    sets = [randn(60, 4, 2, seed=s).cumsum(1) * torch.tensor([2.0, 1.0]) for s in range(30)]
    found = [scores(z, (2, 2)) for z in sets]
    for name in ("latent_std", "effective_rank", "autocorrelation", "spectral_entropy", "total_variation"):
        inside = statistics.mean(statistics.stdev(each[name].replicates) for each in found)
        assert inside == pytest.approx(statistics.stdev(each[name] for each in found), rel=0.4)


def test_every_value_has_its_protocol():
    evaluator, subject = create("evaluators", "latents"), cell(randn(9, 4, 3), (2, 2))
    for name in evaluator.run(subject):
        protocol = evaluator.protocol(name, subject)
        assert protocol["n"] == 9
        assert ("deterministic" in protocol["latents"]) == (name.endswith("_mean") or "active" in name)
