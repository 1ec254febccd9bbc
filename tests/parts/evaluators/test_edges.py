import math

import numpy as np
import pytest
import torch
from helpers.fake_subject import FakeSubject
from scipy.ndimage import gaussian_filter, sobel

from latentbench.bench.api import to_uint8
from latentbench.bench.data.images import psnr
from latentbench.bench.metrics.edges import edge_strength, edges, psnr_at
from latentbench.bench.registry import create

SQUARE = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
SQUARE[..., 4:12, 4:12] = 200


def random_images(n=3, channels=3, side=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, side, side), generator=generator).to(torch.uint8)


def blurred(images, sigma):
    floats = gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="nearest")
    return torch.from_numpy(floats).round().to(torch.uint8)


def with_noise(images, amplitude):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + amplitude * noise).round().clamp(0, 255).to(torch.uint8)


def at_edges(reconstructions, images, share=0.1):
    return psnr_at(reconstructions, images, edges(images, share))


def test_gradients_are_scipys():
    images = random_images()
    for image, strength in zip(images.double().numpy(), edge_strength(images).numpy(), strict=True):
        slopes = [sobel(channel, axis=axis, mode="nearest") for channel in image for axis in (0, 1)]
        assert np.array_equal(strength, sum(slope**2 for slope in slopes))


def test_the_strongest_pixels_and_their_ties_are_edges():
    found = edges(random_images(2, 1, 10), 0.1)
    assert found.sum((1, 2)).tolist() == [10, 10]  # a tenth of random pixels, without ties
    mask = edges(SQUARE, 0.02)[0]
    assert (
        mask.sum() > math.ceil(0.02 * 256) and torch.equal(mask, mask.T) and torch.equal(mask, mask.flip(0))
    )
    assert not edges(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8), 0.5).any()
    step = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    step[..., 4:] = 9
    assert edges(step, 1.0)[0].any(0).tolist() == [False] * 3 + [True] * 2 + [False] * 3


def test_an_error_away_from_edges_leaves_the_value_of_an_exact_image():
    wrong = SQUARE.clone()
    wrong[..., 8, 8] = 0
    count = int(edges(SQUARE, 0.1).sum())
    assert at_edges(wrong, SQUARE) == pytest.approx(10 * math.log10(255**2 * count))
    assert psnr(wrong, SQUARE) < 45


def test_an_error_on_edges_is_divided_by_their_number_alone():
    mask = edges(SQUARE, 0.1)
    wrong = torch.where(mask[:, None], SQUARE.int() + 10, SQUARE.int()).to(torch.uint8)
    assert at_edges(wrong, SQUARE) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(wrong, SQUARE) == pytest.approx(20 * math.log10(255 / 10) + 10 * math.log10(256 / mask.sum()))


def test_every_pixel_as_an_edge_gives_psnr():
    images = random_images(4, 3, 6)  # random, so that each pixel has a gradient
    other = with_noise(images, 5)
    assert torch.allclose(at_edges(other, images, 1.0), psnr(other, images))


def test_blur_lowers_it_more_than_psnr():
    soft = blurred(SQUARE, 1.0)
    assert at_edges(soft, SQUARE) < psnr(soft, SQUARE) - 3


def of_equal_psnr(images):
    """The images blurred, and with as much noise as lowers their mean PSNR alike."""
    soft, low, high = blurred(images, 0.6), 0.0, 255.0
    for _ in range(20):
        middle = (low + high) / 2
        too_much = psnr(with_noise(images, middle), images).mean() < psnr(soft, images).mean()
        low, high = (low, middle) if too_much else (middle, high)
    noisy = with_noise(images, low)
    assert psnr(noisy, images).mean() == pytest.approx(psnr(soft, images).mean().item(), abs=0.05)
    return soft, noisy


def test_it_tells_blur_from_noise_of_equal_psnr_on_images_with_smooth_regions():
    dataset = create("datasets", "shapes", size=32, count={"train": 1, "val": 64})
    images = to_uint8(dataset.images("val", torch.arange(64)))
    soft, noisy = of_equal_psnr(images)
    assert at_edges(noisy, images).mean() > at_edges(soft, images).mean() + 3


def test_it_hardly_differs_from_psnr_on_digits_of_few_pixels():
    dataset = create("datasets", "digits")
    images = to_uint8(dataset.images("val", torch.arange(100)))
    for other in of_equal_psnr(images):
        assert at_edges(other, images).mean() == pytest.approx(psnr(other, images).mean().item(), abs=1)


def test_the_mean_is_over_images_that_have_edges():
    subject = FakeSubject(scope="tokenizer", val=20)
    subject.sets["val"][3] = 0.5
    found = create("evaluators", "edges").run(subject)["PSNR_edges"]
    a, b = subject.reconstructions(), subject.images("val")
    values = at_edges(a, b)
    assert values.isnan().sum() == 1
    assert found == pytest.approx(values.nanmean().item()) and len(found.replicates) == 100
    assert found.classes["3"] == pytest.approx(values[13].item())  # the other one of its class
    assert create("evaluators", "edges").protocol("PSNR_edges", subject)["n"] == 19


def test_images_of_one_colour_have_no_value():
    subject = FakeSubject(scope="tokenizer", val=5)
    subject.sets["val"] = torch.zeros(5, 1, 8, 8)
    assert create("evaluators", "edges").run(subject) == {}
    assert subject.left_out == {"PSNR_edges": "no held-out image has an edge"}
