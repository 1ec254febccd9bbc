"""Augmentations against torchvision's, image by image, and the laws of their draws."""

import math

import pytest
import torch
from scipy.stats import kstest
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as theirs

from latentbench.bench.api import Noise
from latentbench.bench.data.augment import (
    TRIES,
    Augmentation,
    augmented,
    blurred,
    crop_sides,
    cropped,
    hue_turned,
    jittered,
    to_grey,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_colours_are_torchvisions():
    levels, turns = rand(8, 3, 6, 5), torch.linspace(-0.5, 0.5, 8)
    levels[0] = levels[0, :1]  # grey, which has no hue
    expected = torch.stack([theirs.adjust_hue(x, f.item()) for x, f in zip(levels, turns, strict=True)])
    torch.testing.assert_close(hue_turned(levels, turns), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(to_grey(levels), theirs.rgb_to_grayscale(levels, 3))


def test_jitter_does_each_change_in_the_images_own_order():
    levels, amounts = rand(3, 3, 6, 5), 2 * rand(3, 4, seed=1) - 1
    order = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
    steps = (theirs.adjust_brightness, theirs.adjust_contrast, theirs.adjust_saturation, theirs.adjust_hue)
    for x, its, amount, found in zip(levels, order, amounts, jittered(levels, order, amounts), strict=True):
        for which in its.tolist():
            factor = 0.2 * amount[3] if which == 3 else 1 + 0.8 * amount[which]
            x = steps[which](x, factor.item())
        torch.testing.assert_close(found, x, atol=1e-5, rtol=0)


def test_a_crop_is_torchvisions_with_cubic_interpolation():
    images = 2 * rand(2, 3, 16, 16) - 1
    height, width = torch.tensor([0.5, 1.0]), torch.tensor([0.75, 1.0])
    # 8 rows from the 4th of 8 left over, 12 columns from the last of 4.
    found = cropped(images, height, width, torch.tensor([0.5, 0.3]), torch.tensor([1.0, 0.8]))
    torch.testing.assert_close(found[1], images[1], atol=1e-5, rtol=0)
    part = theirs.resized_crop(images[0], 4, 4, 8, 12, [16, 16], antialias=False, interpolation=3).clamp(
        -1, 1
    )
    # Beyond its edges the crop sees the image, torchvision's the crop.
    torch.testing.assert_close(found[0][:, 4:-4, 3:-3], part[:, 4:-4, 3:-3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_crops_have_the_sizes_of_torchvisions(aspect):
    height, width = crop_sides(rand(2000, TRIES, 2), 0.08, aspect)
    assert max(height.max(), width.max()) <= 1
    torch.manual_seed(0)
    whole = torch.zeros(1, 1000, int(1000 * aspect))
    boxes = [RandomResizedCrop.get_params(whole, [0.08, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(2000)]
    rows, columns = (torch.tensor(side) for side in zip(*boxes, strict=True))
    for ours, other in (
        (height * width, rows * columns / 1e6 / aspect),
        (width * aspect / height, columns / rows),
    ):
        ours, other = ours[height < 1], other[rows < 1000]
        assert kstest(ours.numpy(), other.numpy()).pvalue > 0.01


def test_the_blur_is_torchvisions():
    levels, sigma = rand(2, 3, 64, 40), torch.tensor([0.4, 1.7])
    for x, s, found in zip(levels, sigma.tolist(), blurred(levels, sigma), strict=True):
        torch.testing.assert_close(found, theirs.gaussian_blur(x, [5, 7], [s, s]), atol=1e-5, rtol=0)
    assert torch.equal(blurred(levels[..., :12, :12], sigma), levels[..., :12, :12])  # too small for one


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_s_augmentation_depends_on_its_place_and_the_noise_alone(channels):
    images, noise, options = 2 * rand(8, channels, 32, 32) - 1, Noise(3), Augmentation()
    found = augmented(images, noise, options)
    assert found.shape == images.shape and -1 <= found.min() and found.max() <= 1
    assert torch.equal(augmented(images, noise, options), found)
    assert not torch.equal(augmented(images, Noise(4), options), found)
    halves = [augmented(half, Noise(3, (), rank, 2), options) for rank, half in enumerate(images.chunk(2))]
    torch.testing.assert_close(torch.cat(halves), found)


def test_without_chances_images_stay_as_they_are():
    images = 2 * rand(4, 3, 32, 32) - 1
    same = Augmentation(crop=1.0, flip=0.0, jitter=0.0, grey=0.0, blur=0.0)
    torch.testing.assert_close(augmented(images, Noise(0), same), images, atol=1e-6, rtol=0)
    flipped = augmented(images, Noise(0), Augmentation(crop=1.0, flip=1.0, jitter=0.0, grey=0.0, blur=0.0))
    torch.testing.assert_close(flipped, images.flip(3), atol=1e-6, rtol=0)


def test_each_is_done_as_often_as_it_says():
    images = 2 * rand(1, 3, 8, 8).expand(4000, -1, -1, -1) - 1
    none = {"crop": 1.0, "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
    for name, share in (("flip", 0.5), ("jitter", 0.8), ("grey", 0.2)):
        found = augmented(images, Noise(1), Augmentation(**none | {name: share}))
        changed = ((found - images).abs().flatten(1).amax(1) > 1e-3).double().mean().item()
        assert abs(changed - share) < 4 * math.sqrt(share * (1 - share) / 4000), name
