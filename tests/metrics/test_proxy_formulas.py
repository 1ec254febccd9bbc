"""Formulas of proxies against closed forms, brute force and exactly separable samples."""

import itertools
import math

import pytest
import torch
from scipy import fft
from scipy.integrate import quad
from torch.nn.functional import cosine_similarity

from latentbench.bench.metrics import proxies
from latentbench.bench.metrics.proxies import (
    interpolation_neighbours,
    label_consistency,
    local_similarity,
    path_efficiency,
    path_straightness,
    rms_contrast,
    similarity_decay,
    slerp,
    sliced_distance,
    spatial_energy_share,
    viv,
)

GRID = (3, 4)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def separable(n, tokens, channels, seed=0):
    """Latents whose sample covariance is exactly a Kronecker product, and its eigenvalues."""
    white = normal(n, tokens * channels, seed=seed)
    white, _ = torch.linalg.qr(white - white.mean(0))
    spatial, channel = normal(tokens, tokens, seed=seed + 1), normal(channels, channels, seed=seed + 2)
    z = spatial @ (white * math.sqrt(n)).view(n, tokens, channels) @ channel.T
    values = (torch.linalg.eigvalsh(m @ m.T) for m in (spatial, channel))
    return z, torch.outer(*values).flatten()


def images(n=5, seed=0):
    return normal(n, math.prod(GRID), 6, seed=seed)


# --- VIV ----------------------------------------------------------------------------------------------------


def test_viv_of_exactly_separable_latents_is_the_true_integral():
    z, eigenvalues = separable(200, 4, 3)
    integrals = [quad(lambda t, v=v: v / ((1 - t) ** 2 + t**2 * v), 0, 1)[0] for v in eigenvalues.tolist()]
    assert viv(z, None, normalise=False).item() == pytest.approx(sum(integrals) / 12, rel=1e-10)
    assert viv(z, None, rounds=1, normalise=False).item() == pytest.approx(sum(integrals) / 12, rel=1e-10)


def test_viv_is_a_mean_over_classes_and_does_not_depend_on_their_means():
    one, two = separable(100, 4, 3)[0], separable(60, 4, 3, seed=7)[0] + 5.0
    labels = torch.tensor([3] * 100 + [8] * 60)
    both = viv(torch.cat([one, two]), labels, normalise=False)
    assert both.item() == pytest.approx(
        (viv(one, None, normalise=False) + viv(two, None, normalise=False)).item() / 2, rel=1e-10
    )


def test_viv_skips_classes_of_three_and_needs_one_of_four():
    z = normal(23, 4, 3)
    labels = torch.tensor([0] * 20 + [1] * 3)
    assert viv(z, labels, normalise=False) == viv(z[:20], None, normalise=False)
    with pytest.raises(ValueError, match="no class has 4 of the 3 latents"):
        viv(z[:3], None)


def test_viv_of_white_latents_is_half_of_pi_and_normalised_latents_have_no_scale():
    z = normal(4000, 4, 3)
    assert viv(z, None).item() == pytest.approx(math.pi / 2, abs=0.003)
    assert viv(z * torch.tensor([0.1, 3.0, 9.0]) + 2, None).item() == pytest.approx(
        viv(z, None).item(), rel=1e-12
    )
    assert viv(torch.ones(10, 4, 3), None).item() == pytest.approx(0, abs=1e-12)


def test_viv_of_latents_that_fill_a_subspace_uses_pseudo_inverses():
    z, eigenvalues = separable(200, 4, 3)
    flat = torch.cat([z, torch.zeros(200, 4, 1).double()], 2)
    assert viv(flat, None, normalise=False).item() == pytest.approx(
        math.pi / 2 * eigenvalues.sqrt().sum().item() / 16, rel=1e-10
    )


# --- similarity of tokens -----------------------------------------------------------------------------------


def mean_cosine(z, keep):
    """The mean cosine of pairs of different tokens of one image whose distance is kept."""
    places = list(itertools.product(range(GRID[0]), range(GRID[1])))
    return sum(
        values := [
            cosine_similarity(z[i], z[j], dim=0).item()
            for (i, a), (j, b) in itertools.combinations(enumerate(places), 2)
            if keep(abs(a[0] - b[0]) + abs(a[1] - b[1]))
        ]
    ) / len(values)


def test_local_similarity_is_that_of_all_pairs_counted_one_by_one():
    z = images()
    expected = [mean_cosine(x, lambda d: d == 1) - mean_cosine(x, lambda d: d >= 3) for x in z]
    assert local_similarity(z, GRID, 3).item() == pytest.approx(sum(expected) / 5, abs=1e-12)


def test_similarity_decay_is_minus_the_slope_of_the_mean_cosines():
    z = images()
    slopes = []
    for x in z:
        means = torch.tensor([mean_cosine(x, lambda d, at=at: d == at) for at in (1, 2, 3, 4)])
        slopes.append(
            -torch.linalg.lstsq(torch.tensor([[1.0, d] for d in (1, 2, 3, 4)]), means[:, None])[0][1]
        )
    assert similarity_decay(z, GRID, 4).item() == pytest.approx(sum(slopes).item() / 5, abs=1e-6)


def test_constant_tokens_are_all_alike():
    z = normal(5, 1, 6).expand(5, 12, 6)
    for value in (local_similarity(z, GRID, 2), similarity_decay(z, GRID, 3), rms_contrast(z)):
        assert value.item() == pytest.approx(0, abs=1e-7)
    assert spatial_energy_share(z, GRID, 0.25).item() == pytest.approx(0, abs=1e-12)
    assert spatial_energy_share(torch.zeros(5, 12, 6), GRID, 0.25) == 0


def test_contrast_of_opposite_tokens_is_one():
    token = normal(6)
    assert rms_contrast(torch.stack([token, -token])[None]).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("far", [0, 1, 6])
def test_distances_that_a_grid_does_not_have_are_refused(far):
    with pytest.raises(ValueError, match="a grid of 3 x 4 has distances from 1 to 5"):
        local_similarity(images(), GRID, far)


# --- frequencies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.25, 0.4, 0.5, 1.0])
def test_spatial_energy_share_is_that_of_scipys_cosine_transform(rho):
    z = images()
    maps = z.mT.reshape(5, 6, *GRID).numpy()
    energies = (fft.dctn(maps, type=2, norm="ortho", axes=(2, 3)) ** 2).mean((0, 1))
    beyond = sum(energies[u, v] for u in range(3) for v in range(4) if u + v > rho * 5 + 1e-9)
    assert spatial_energy_share(z, GRID, rho).item() == pytest.approx(beyond / energies.sum(), abs=1e-12)


def test_white_latents_have_the_share_of_cells():
    share = spatial_energy_share(normal(4000, 16, 3), (4, 4), 0.5).item()
    assert share == pytest.approx(sum(u + v > 3 for u in range(4) for v in range(4)) / 16, abs=0.006)


# --- neighbours ---------------------------------------------------------------------------------------------


def test_label_consistency_counts_the_labels_of_the_nearest_others():
    z, labels = normal(300, 2, 3), torch.arange(300) % 7
    unit = torch.nn.functional.normalize(z.mean(1), dim=1)
    shares = []
    for i in range(300):
        order = sorted((j for j in range(300) if j != i), key=lambda j: -(unit[i] @ unit[j]).item())
        shares.append(sum(labels[j].item() == labels[i].item() for j in order[:5]) / 5)
    assert label_consistency(z, labels, 5).item() == pytest.approx(sum(shares) / 300, abs=1e-12)
    with pytest.raises(ValueError, match="k = 300 neighbours are asked for, and there are 299 other"):
        label_consistency(z, labels, 300)


def test_interpolation_neighbours_are_those_of_brute_force_whatever_the_blocks(monkeypatch):
    train, val = normal(400, 4, 3), normal(30, 4, 3, seed=1)
    train[7] = train[3] * (1 + 1e-9)  # float32 doesn't tell these apart from copies
    expected = cosine_similarity(val.flatten(1)[:, None], train.flatten(1), dim=2)
    whole = interpolation_neighbours(train, val, 10)
    near = expected.gather(1, whole)
    assert torch.allclose(near, expected.topk(10).values, atol=1e-12, rtol=0)
    monkeypatch.setattr(proxies, "BLOCK", 12 * 50)
    assert torch.equal(interpolation_neighbours(train, val, 10), whole)
    assert torch.equal(
        interpolation_neighbours(train[:4], val, 4).sort().values, torch.arange(4).expand(30, 4)
    )
    with pytest.raises(ValueError, match="k = 401 neighbours are asked for among 400"):
        interpolation_neighbours(train, val, 401)


# --- slerp --------------------------------------------------------------------------------------------------


def test_slerp_of_unit_vectors_is_the_point_on_the_great_circle():
    a, b = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    expected = torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6), 0]).double()
    assert torch.allclose(slerp(a, b, 1 / 3), expected, atol=1e-15)


def test_slerp_interpolates_vectors_of_any_length_by_the_formula_and_ends_at_them():
    a, b = 3 * normal(6, 4, 3), normal(6, 4, 3, seed=1)
    theta = torch.acos(cosine_similarity(a.flatten(1), b.flatten(1)))[:, None, None]
    expected = (((1 - 0.3) * theta).sin() * a + (0.3 * theta).sin() * b) / theta.sin()
    assert torch.allclose(slerp(a, b, 0.3), expected, atol=1e-12)
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b)


def test_slerp_is_linear_where_two_vectors_have_one_direction_or_opposite_ones():
    a = normal(4, 5)
    assert torch.equal(slerp(a, a, 0.5), a)
    assert torch.allclose(slerp(a, 3 * a, 0.25), 1.5 * a, atol=1e-14)
    assert torch.allclose(slerp(a, -a, 0.25), 0.5 * a, atol=1e-14)


# --- paths --------------------------------------------------------------------------------------------------


def test_a_straight_path_at_any_speed_is_straight_and_efficient():
    times = torch.tensor([0, 0.1, 0.15, 0.7, 1.0]).double()
    start, end = normal(6, 4, 3), normal(6, 4, 3, seed=1)
    states = start + times[:, None, None, None] * (end - start)
    assert path_straightness(states).item() == pytest.approx(1, abs=1e-12)
    assert path_efficiency(states).item() == pytest.approx(1, abs=1e-12)
    assert path_straightness(states[:2]) == 1 and path_efficiency(states[[0, 0]]) == 1


def test_a_half_circle_turns_by_a_constant_angle_and_has_two_over_pi():
    angles = torch.linspace(0, math.pi, 201, dtype=torch.float64)
    states = torch.stack([angles.cos(), angles.sin()], 1)[:, None, None]
    assert path_straightness(states).item() == pytest.approx(math.cos(math.pi / 200), abs=1e-12)
    assert path_efficiency(states).item() == pytest.approx(2 / math.pi, abs=1e-4)


def test_paths_are_means_over_images_with_norms_over_tokens_and_channels():
    states = normal(9, 5, 4, 3)
    steps = states.diff(dim=0).flatten(2)
    cosines = [cosine_similarity(steps[i], steps[i + 1], dim=1) for i in range(7)]
    assert path_straightness(states).item() == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-12)
    ratios = (states[-1] - states[0]).flatten(1).norm(dim=1) / steps.norm(dim=2).sum(0)
    assert path_efficiency(states).item() == pytest.approx(ratios.mean().item(), abs=1e-12)


# --- MIND ---------------------------------------------------------------------------------------------------


def directions(count, width):
    return torch.nn.functional.normalize(normal(count, width, seed=9), dim=1)


def test_a_shift_has_three_times_its_square_and_equal_sets_have_zero():
    x, axes, shift = normal(200, 16), directions(20_000, 16), normal(16, seed=3)
    assert sliced_distance(x, x + shift, axes).item() == pytest.approx(
        3 * shift.square().sum().item(), rel=0.02
    )
    exact = 3 * 16 * (axes @ shift).square().mean()
    assert sliced_distance(x, x + shift, axes).item() == pytest.approx(exact.item(), rel=1e-10)
    assert sliced_distance(x, x[torch.randperm(200)], axes).item() == pytest.approx(0, abs=1e-20)


def test_sliced_distance_is_symmetric_scales_and_is_the_same_in_blocks(monkeypatch):
    x, axes = normal(4000, 8), directions(64, 8)
    assert sliced_distance(x, 2 * x, axes).item() == pytest.approx(3 * 8, rel=0.05)
    y = normal(4000, 8, seed=1)
    both = sliced_distance(x, y, axes)
    assert both.item() == pytest.approx(sliced_distance(y, x, axes).item(), rel=1e-12)
    monkeypatch.setattr(proxies, "BLOCK", 4000 * 4 * 5)
    assert sliced_distance(x, y, axes).item() == pytest.approx(both.item(), rel=1e-12)
    with pytest.raises(ValueError, match="take equally many of both"):
        sliced_distance(x, y[:100], axes)
