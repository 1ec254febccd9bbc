import numpy as np
import pytest
import torch
from PIL import Image

from latentbench.bench.api import from_uint8, to_uint8
from latentbench.bench.data.images import RESIZINGS, prepared, resize, round_to_8_bits, to_rgb


def test_every_8_bit_level_survives_the_way_there_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


def test_rounding_clamps_and_goes_to_the_nearest_level():
    images = torch.tensor([-2.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 2.0])
    assert to_uint8(images).tolist() == [0, 0, 0, 1, 255, 255]
    assert torch.equal(round_to_8_bits(round_to_8_bits(images)), round_to_8_bits(images))


def test_grey_images_are_repeated_and_colours_stay():
    grey, colour = torch.rand(2, 1, 3, 3), torch.rand(2, 3, 3, 3)
    assert torch.equal(to_rgb(grey), torch.cat([grey] * 3, 1)) and torch.equal(to_rgb(colour), colour)
    with pytest.raises(ValueError, match="4 channels"):
        to_rgb(torch.rand(2, 4, 3, 3))


@pytest.mark.parametrize("side", [8, 32, 100])
def test_resizing_is_pillows_bicubic_filter_on_floats(side):
    levels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    expected = [
        [
            np.asarray(Image.fromarray(plane.numpy().astype("f4")).resize((32, 32), Image.BICUBIC))
            for plane in image
        ]
        for image in levels
    ]
    resized = resize(levels, 32)
    assert torch.equal(resized, torch.tensor(np.array(expected)).clamp(0, 255))
    assert resized.shape == (2, 3, 32, 32) and resized.dtype == torch.float32


def test_resizing_without_antialiasing_is_keys_cubic_convolution():
    levels = torch.rand(1, 3, 8, 8, dtype=torch.float64) * 255
    x = (torch.arange(12) + 0.5) * 8 / 12 - 0.5  # pixel centres in the source
    distance = (x[:, None] - torch.arange(-2, 10)).abs().double()
    near = 1.25 * distance**3 - 2.25 * distance**2 + 1  # with a = -0.75
    far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    kernel = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros(())))
    weights = torch.zeros(12, 8, dtype=torch.float64)
    weights.index_add_(1, torch.arange(-2, 10).clamp(0, 7), kernel)  # borders are repeated
    expected = torch.einsum("ih,jw,bchw->bcij", weights, weights, levels)
    torch.testing.assert_close(resize(levels, 12, "bicubic").double(), expected, atol=1e-3, rtol=0)


def test_shrinking_averages_a_fine_pattern_away():
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    small = resize(board.to(torch.uint8).expand(1, 3, 64, 64), 8)
    assert (small - 127.5).abs().max() < 1


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_grey_images_are_resized_as_their_copies_in_colour_are(count):
    grey = torch.rand(count, 1, 20, 24, generator=torch.Generator().manual_seed(count)) * 2 - 1
    for resizing in RESIZINGS:
        alike = prepared(grey.expand(-1, 3, -1, -1), 16, resizing)
        assert torch.equal(prepared(grey, 16, resizing), alike)
