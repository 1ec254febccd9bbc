"""SIGReg against quadrature, closed forms and a loop over directions, knots and values."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.nn.functional import normalize

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.regularizers.sigreg import SIGReg, sigreg

KNOTS = np.linspace(0, 3, 17)
WEIGHTS = np.full(17, 2 * 3 / 16) / np.where((KNOTS == 0) | (KNOTS == 3), 2, 1)
ONE = torch.ones(1, 1, dtype=torch.float64)  # the direction of a line
SPEC = LatentSpec(4, 2)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(channels, count, seed=9):
    return normalize(randn(channels, count, seed=seed), dim=0)


def step(index=0):
    return Step(index, torch.zeros(64, 1, 2, 2), None, Noise(0).fork(index), lambda z: z)


def test_its_expectation_over_standard_normal_values_is_the_same_for_every_number_of_them():
    phi = np.exp(-(KNOTS**2) / 2)
    assert (WEIGHTS * phi * (1 - phi**2)).sum() == pytest.approx(1.0524642, abs=1e-7)
    points, weights = np.polynomial.hermite_e.hermegauss(60)  # integrates over N(0, 1)
    y, p = torch.tensor(points), torch.tensor(weights / weights.sum())
    alone = torch.stack([sigreg(value.reshape(1, 1), ONE) for value in y])
    assert (p * alone).sum().item() == pytest.approx(1.0524642, abs=1e-7)
    pairs = torch.stack([sigreg(torch.stack([a, b])[:, None], ONE) for a in y for b in y]).reshape(60, 60)
    assert (p @ pairs @ p).item() == pytest.approx(1.0524642, abs=1e-7)


@pytest.mark.parametrize(
    "mean, std, known", [(0.5, 1, 0.118122), (0, 2, 0.236091), (1, 0.5, 0.817110), (0, 0, 0.402048)]
)
def test_divided_by_n_it_is_the_closed_form_of_other_normal_distributions(mean, std, known):
    count = 100_000
    quantiles = torch.tensor(norm.ppf((np.arange(count) + 0.5) / count))  # N(0, 1) without chance
    found = sigreg((mean + std * quantiles)[:, None], ONE).item() / count
    assert found == pytest.approx(known, abs=1e-6)
    fit = math.exp(-(mean**2) / (2 * (std**2 + 2))) / math.sqrt(std**2 + 2)
    whole_line = math.sqrt(2 * math.pi) * (1 / math.sqrt(2 * std**2 + 1) + 1 / math.sqrt(3) - 2 * fit)
    assert found == pytest.approx(whole_line, abs=0.01)  # of which [-3, 3] is almost all


def test_of_a_standard_normal_sample_it_is_as_small_as_chance_has_it():
    values = torch.stack([sigreg(randn(500, 3, seed=seed), unit(3, 32)) for seed in range(40)])
    assert values.mean().item() == pytest.approx(1.0524642, abs=4 * values.std().item() / 40**0.5)
    assert values.max() < 0.02 * 500 * 0.402048  # of a collapsed one


def test_it_is_a_loop_over_leading_axes_directions_and_knots():
    x, directions = randn(2, 7, 3), unit(3, 5)
    statistics = []
    for rows in x.numpy():
        for direction in directions.T.numpy():
            y, total = rows @ direction, 0.0
            for t, weight in zip(KNOTS, WEIGHTS, strict=True):
                phi = math.exp(-(t**2) / 2)
                difference = np.exp(1j * t * y).mean() - phi
                total += weight * phi * abs(difference) ** 2
            statistics.append(7 * total)
    assert sigreg(x, directions).item() == pytest.approx(np.mean(statistics), abs=1e-12)


def test_it_ignores_order_sign_and_a_turn_of_latents_and_directions_alike():
    x, directions = randn(20, 3) + 0.3, unit(3, 8)
    value = sigreg(x, directions)
    turn = torch.linalg.qr(randn(3, 3, seed=5)).Q
    torch.testing.assert_close(sigreg(x.flip(0), directions), value)
    torch.testing.assert_close(sigreg(-x, directions), value)
    torch.testing.assert_close(sigreg(x @ turn, turn.T @ directions), value)
    # With many directions, latents may be turned alone.
    many = unit(3, 5_000)
    torch.testing.assert_close(sigreg(x @ turn, many), sigreg(x, many), rtol=0.05, atol=0)


def test_its_gradient_is_that_of_finite_differences_and_finite_for_collapsed_latents():
    x = randn(2, 5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sigreg(x, unit(3, 4)), (x,))
    same = torch.full((64, 3), 0.7, requires_grad=True)
    value = sigreg(same, unit(3, 16).float())
    value.backward()
    assert value.isfinite() and same.grad.isfinite().all() and same.grad.norm() > 0.1


@pytest.mark.parametrize("per_position", [False, True])
def test_tokens_are_one_sample_or_one_of_each_position(per_position):
    regularizer = SIGReg(SPEC, weight=3.0, directions=16, per_position=per_position)
    z = randn(8, 4, 2)
    directions = normalize(Noise(0).fork(0).normal(z.new_empty(2, 16), "directions"), dim=0)
    x = torch.stack([z[:, t] for t in range(4)]) if per_position else z.reshape(32, 2)
    found = regularizer.loss(z, z, step())["sigreg"]
    torch.testing.assert_close(found, 3 * sigreg(x, directions))
    assert not torch.isclose(regularizer.loss(z, z, step(1))["sigreg"], found)  # other directions


def test_only_single_positions_tell_that_each_position_has_a_mean_of_its_own():
    quantiles = torch.tensor(norm.ppf((np.arange(1024) + 0.5) / 1024))
    z = quantiles.reshape(4, 256).T[..., None]  # (B, T, 1), a fourth of N(0, 1) at each position
    pooled, apart = (
        SIGReg(LatentSpec(4, 1), 1.0, 4, per_position).loss(z, z, step())["sigreg"].item()
        for per_position in (False, True)
    )
    assert pooled < 1e-3 and apart > 0.1 * 256


def test_descending_it_moves_latents_onto_n_0_i():
    regularizer = SIGReg(SPEC, weight=0.1, directions=32)
    scale, shift = torch.full((2,), 0.3, requires_grad=True), torch.full((2,), 2.0, requires_grad=True)
    optimizer = torch.optim.Adam([scale, shift], lr=0.1)
    for index in range(100):
        optimizer.zero_grad()
        z = scale * randn(64, 4, 2, seed=index).float() + shift
        regularizer.loss(z, z, step(index))["sigreg"].backward()
        optimizer.step()
    assert shift.abs().max() < 0.2 and (scale.abs() - 1).abs().max() < 0.2
