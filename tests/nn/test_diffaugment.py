"""DiffAugment against what each change does to an image of known content, and against autograd."""

import pytest
import torch

from latentbench.bench.api import Noise
from latentbench.bench.nn.diffaugment import augmented, recoloured, resized, translated, without_rectangle


def pictures(n=3, side=16, channels=3, **given):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0), **given) * 2 - 1


@pytest.mark.parametrize(("share", "shift"), [(0.0, -2), (0.5, 0), (0.999, 2)])
def test_a_translation_moves_by_whole_pixels_and_fills_with_grey(share, shift):
    x = pictures()
    moved = translated(x, torch.full((3,), share), torch.full((3,), 0.5))
    expected = torch.zeros_like(x)
    for row in range(16):
        if 0 <= row + shift < 16:
            expected[:, :, row] = x[:, :, row + shift]
    assert torch.equal(moved, expected)
    turned = translated(x.mT, torch.full((3,), 0.5), torch.full((3,), share)).mT
    assert torch.equal(turned, expected)


def test_each_image_moves_its_own_way():
    x = pictures()
    moved = translated(x, torch.tensor([0.0, 0.5, 0.999]), torch.full((3,), 0.5))
    assert torch.equal(moved[1], x[1]) and torch.equal(moved[0, :, 2:], x[0, :, :-2])
    assert torch.equal(moved[2, :, :-2], x[2, :, 2:])


def test_colours_move_as_the_formula_says_and_the_middle_of_each_range_is_no_change():
    x, half = pictures(), torch.full((3,), 0.5)
    assert torch.allclose(recoloured(x, half, half, half), x, atol=1e-6)
    brighter = recoloured(x, torch.full((3,), 0.75), half, half)
    assert torch.allclose(brighter, x + 0.25, atol=1e-6)
    grey = recoloured(x, half, torch.zeros(3), half)
    assert torch.allclose(grey, x.mean(1, keepdim=True).expand_as(x), atol=1e-6)
    flat = recoloured(x, half, half, torch.zeros(3))
    assert torch.allclose(flat.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)
    assert torch.allclose(flat.std((1, 2, 3)), 0.5 * x.std((1, 2, 3)), atol=1e-6)


def test_a_rectangle_has_its_share_of_a_side_and_is_cut_at_the_edge():
    x = torch.ones(3, 1, 10, 10)
    centres = torch.tensor([0.0, 0.5, 0.999])  # of a rectangle of 4: at rows 0, 5 and 10
    hidden = (without_rectangle(x, centres, torch.full((3,), 0.5), 0.4) == 0)[:, 0]
    assert [rows.any(1).nonzero().flatten().tolist() for rows in hidden] == [[0, 1], [3, 4, 5, 6], [8, 9]]
    assert all(rows.any(0).sum() == 4 for rows in hidden)
    assert torch.equal(without_rectangle(x, centres, centres, 0.0), x)


def test_the_gradient_is_that_of_finite_differences():
    x = pictures(2, 8, dtype=torch.float64).requires_grad_()
    noise = Noise(1)
    assert torch.autograd.gradcheck(lambda x: augmented(x, noise), (x,))


def test_draws_depend_on_the_noise_alone_and_not_on_the_number_of_processes():
    x = pictures(4)
    torch.manual_seed(0)
    whole = augmented(x, Noise(3))
    torch.manual_seed(1)
    parts = [augmented(x[2 * rank :][:2], Noise(3, rank=rank, world=2)) for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, augmented(x, Noise(4)))


def test_each_change_comes_with_its_probability():
    x = pictures(2, 8)
    assert augmented(x, Noise(0), probability=0.0) is x
    assert not any(torch.equal(augmented(x, Noise(seed)), x) for seed in range(20))
    untouched = sum(torch.equal(augmented(x, Noise(seed), 0.5), x) for seed in range(400))
    assert 25 <= untouched <= 78  # none of three, a half each: 50 of 400, four deviations


def test_an_image_is_cropped_every_other_time_or_shrunk_by_means():
    x = pictures(1, 32)
    cropped = 0
    for seed in range(20):
        small = resized(x, 16, Noise(seed))
        means = torch.nn.functional.avg_pool2d(x, 2)
        if not torch.allclose(small, means):
            cropped += 1
            windows = x.unfold(2, 16, 1).unfold(3, 16, 1)
            assert (windows == small[:, :, None, None]).flatten(4).all(-1).all(1).any()
    assert 3 <= cropped <= 17
    assert resized(x, 32, Noise(0)) is x and resized(x, 64, Noise(0)).shape == (1, 3, 64, 64)
