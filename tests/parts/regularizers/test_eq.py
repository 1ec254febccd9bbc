"""Scaled and turned pairs against numpy, PyTorch's own scaling, and a decoder that commutes with them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentbench.bench.api import LatentSpec, Noise, Step, Unfit
from latentbench.bench.registry import create
from latentbench.regularizers.eq import scales, transformed

SPEC = LatentSpec(16, 3, (4, 4))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(index=0, images=None):
    images = randn(5, 1, 8, 8, seed=1).float() if images is None else images
    return Step(index, images, None, Noise(0, (str(index),)), lambda z, grid=None: z)


def pairs(name, count=200, spec=SPEC, **options):
    part, z = create("regularizers", name, spec=spec, **options), randn(5, spec.tokens, spec.channels).float()
    return z, [part.shown(z, step(index)) for index in range(count)]


def nearest(z, grid, weight, patch=2):
    """A decoder of one linear map a token, whose pixels are equal within a patch."""
    maps = (z @ weight).mT.unflatten(2, grid)
    return F.interpolate(maps, scale_factor=patch, mode="nearest")


def test_one_turn_maps_rows_01_23_to_20_31():
    z = torch.arange(4.0).view(1, 4, 1)
    turned, grid, images = transformed(z, z.view(1, 1, 2, 2), (2, 2), 1, 1)
    assert grid == (2, 2)
    assert turned.flatten().tolist() == images.flatten().tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turns_are_numpys_and_swap_the_sides_of_a_grid(turns):
    z, images = randn(2, 6, 3), randn(2, 1, 4, 6)
    turned, grid, rotated = transformed(z, images, (2, 3), 1, turns)
    maps = z.mT.unflatten(2, (2, 3)).numpy()
    expected = np.rot90(maps, turns, (-1, -2))
    assert grid == expected.shape[2:]
    np.testing.assert_array_equal(turned.mT.unflatten(2, grid).numpy(), expected)
    np.testing.assert_array_equal(rotated.numpy(), np.rot90(images.numpy(), turns, (-1, -2)))
    back, first, whole = transformed(turned, rotated, grid, 1, (4 - turns) % 4)
    assert first == (2, 3) and torch.equal(back, z) and torch.equal(whole, images)


def test_scaling_is_pytorchs_by_a_factor_before_the_turn():
    z, images = randn(2, 64, 3), randn(2, 1, 16, 16)
    small, grid, smaller = transformed(z, images, (8, 8), 5 / 8, 1)

    def expected(maps):
        made = F.interpolate(maps, scale_factor=5 / 8, mode="bilinear", align_corners=False)
        return torch.rot90(made, 1, (-1, -2))

    assert grid == (5, 5)
    torch.testing.assert_close(small.mT.unflatten(2, grid), expected(z.mT.unflatten(2, (8, 8))))
    torch.testing.assert_close(smaller, expected(images))


def test_a_half_keeps_the_mean_and_constants_stay_constant():
    images = randn(2, 1, 16, 16)
    half = transformed(randn(2, 64, 3), images, (8, 8), 0.5, 0)[2]
    torch.testing.assert_close(half.mean((1, 2, 3)), images.mean((1, 2, 3)))
    latents, images = torch.full((1, 64, 2), 0.3), torch.full((1, 1, 16, 16), -0.7)
    for scale in scales((8, 8), 0.25):
        z, _, made = transformed(latents, images, (8, 8), scale, 2)
        torch.testing.assert_close(z, torch.full_like(z, 0.3))
        torch.testing.assert_close(made, torch.full_like(made, -0.7))


def test_scales_are_those_of_the_released_code_on_its_grid():
    assert scales((32, 32), 0.25) == [m / 32 for m in range(8, 32)]
    assert scales((4, 6), 0.25) == [0.5]  # 3 rows would have 4.5 columns
    assert scales((4, 4), 1) == []


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_decoder_of_single_tokens_makes_no_error_under_turns(turns):
    z, weight = randn(2, 16, 3), randn(3, 1, seed=2)
    images = nearest(z, (4, 4), weight)
    turned, grid, target = transformed(z, images, (4, 4), 1, turns)
    assert torch.equal(nearest(turned, grid, weight), target)


def test_a_decoder_of_single_tokens_makes_no_error_on_halves_of_latents_that_are_equal_in_blocks():
    coarse, weight = randn(2, 4, 3), randn(3, 1, seed=2)
    z = F.interpolate(coarse.mT.unflatten(2, (2, 2)), scale_factor=2.0).flatten(2).mT
    small, grid, target = transformed(z, nearest(z, (4, 4), weight), (4, 4), 0.5, 0)
    torch.testing.assert_close(small, coarse)  # a half is the mean of 2 x 2
    torch.testing.assert_close(nearest(small, grid, weight), target)


def test_the_share_of_transformed_updates_is_the_probability_and_all_of_them_occur():
    z, shown = pairs("eq", 400, probability=0.25)
    plain = [pair for (pair,) in shown if pair.z is z]
    assert abs(len(plain) / 400 - 0.75) < 0.07
    assert {pair.grid for (pair,) in shown} == {None, (1, 1), (2, 2), (3, 3)}
    _, turns = pairs("eq", 60, probability=1.0, least=1.0)
    found = {tuple(pair.z[0, :, 0].tolist()) for (pair,) in turns}
    assert len(found) == 3 and all(pair.grid is None for (pair,) in turns)


def test_expected_pixels_are_those_that_are_shown():
    for name, options in {"eq": {"probability": 0.7}, "scale_eq": {}}.items():
        part = create("regularizers", name, spec=SPEC, **options)
        shown = [[p.images[0].numel() / 64 for p in each] for each in pairs(name, 3000, **options)[1]]
        totals = np.array([sum(each) for each in shown])
        error = 4 * totals.std() / len(totals) ** 0.5
        assert abs(totals.mean() - part.shown_sizes.pixels) < error
        assert totals.max() <= part.shown_sizes.most
        assert min(each[0] for each in shown) == part.shown_sizes.side**2


def test_probability_0_and_weight_0_show_what_no_regularizer_shows():
    for name, options in {"eq": {"probability": 0.0}, "scale_eq": {"weight": 0.0}}.items():
        z, shown = pairs(name, 20, **options)
        assert all(len(each) == 1 and each[0].z is z for each in shown)


def test_scale_eq_adds_a_smaller_pair_with_its_weight():
    z, shown = pairs("scale_eq", 40, weight=0.5)
    assert {pair.grid for _, pair in shown} == {(2, 2), (1, 1)}
    for first, second in shown:
        assert first.z is z and first.weight == 1 and second.weight == 0.5
        factor = 4 // second.grid[0]
        maps = z.mT.unflatten(2, (4, 4))
        expected = F.interpolate(maps, scale_factor=1 / factor, mode="bilinear").flatten(2).mT
        torch.testing.assert_close(second.z, expected)
        assert second.images.shape[2:] == (8 // factor, 8 // factor)


def test_quarter_turns_alone_fit_decoders_of_one_grid_if_it_is_square():
    assert not create("regularizers", "eq", spec=SPEC, least=1.0).regrids
    assert create("regularizers", "eq", spec=LatentSpec(8, 3, (2, 4)), least=1.0).regrids
    assert create("regularizers", "eq", spec=SPEC).regrids


@pytest.mark.parametrize("name", ["eq", "scale_eq"])
def test_latents_without_a_grid_are_refused(name):
    with pytest.raises(Unfit, match="take a tokenizer with a grid"):
        create("regularizers", name, spec=LatentSpec(16, 3))


def test_options_that_change_nothing_are_refused():
    with pytest.raises(ValueError, match="nothing is transformed"):
        create("regularizers", "eq", spec=SPEC, least=1.0, turns=False)
    with pytest.raises(Unfit, match="no factor of 3 divides the grid 4 x 4"):
        create("regularizers", "scale_eq", spec=SPEC, factors=(3,))
