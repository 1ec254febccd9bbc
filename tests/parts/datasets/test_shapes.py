import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from latentbench.bench.datasets.shapes import SHAPES, mixed
from latentbench.bench.registry import PartError, create


def test_an_image_is_a_function_of_seed_split_and_number_alone():
    shapes = create("datasets", "shapes", size=16)
    many = shapes.images("train", torch.arange(32))
    assert torch.equal(shapes.images("train", torch.tensor([9, 4, 9])), many[[9, 4, 9]])
    longer = create("datasets", "shapes", size=16, count={"train": 10**7, "val": 1})
    assert torch.equal(longer.images("train", torch.arange(32)), many)
    for other in (
        shapes.images("val", torch.arange(32)),
        create("datasets", "shapes", size=16, seed=1).images("train", torch.arange(32)),
    ):
        assert (other - many).abs().flatten(1).mean(1).min() > 0.05


def test_images_are_8_bit_colours_of_their_size_and_no_two_are_alike():
    shapes = create("datasets", "shapes", size=24)
    images, levels = (read("val", torch.arange(500)) for read in (shapes.images, shapes.levels))
    assert images.shape == (500, 3, 24, 24) and images.dtype == torch.float32 and levels.dtype == torch.uint8
    assert torch.equal(((images + 1) * 127.5).round().to(torch.uint8), levels)
    assert -1 <= images.min() < -0.9 and 0.9 < images.max() <= 1
    assert len(levels.flatten(1).unique(dim=0)) == 500


def test_a_picture_is_the_same_at_every_size():
    small, large = (
        create("datasets", "shapes", size=size).images("val", torch.arange(40)) for size in (32, 128)
    )
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (shrunk - small).abs().mean() < 0.05 < (shrunk.roll(1, 0) - small).abs().mean()


@pytest.mark.parametrize("classes", [1, 10, 40])
def test_classes_are_balanced(classes):
    shapes = create("datasets", "shapes", classes=classes, count={"train": 200, "val": 80})
    assert shapes.labels("train").bincount().tolist() == [200 // classes] * classes
    assert shapes.size("val") == 80 and shapes.classes == classes


@pytest.mark.parametrize("classes", [10, 40])
def test_classes_can_be_seen(classes):
    shapes = create("datasets", "shapes", size=16, classes=classes)

    def described(split, count):  # which hues there are, whatever their place
        images = shapes.images(split, torch.arange(count)).add(1).div(2)
        spread = images.amax(1) - images.amin(1)
        most = images.flatten(2)[torch.arange(count), :, spread.flatten(1).argmax(1)]
        histogram = torch.stack([(spread > level).float().mean((1, 2)) for level in (0.3, 0.4, 0.5, 0.6)], 1)
        return torch.cat((most, histogram), 1).numpy(), shapes.labels(split)[:count].numpy()

    accuracy = KNeighborsClassifier(9).fit(*described("train", 4000)).score(*described("val", 1000))
    assert accuracy > 8 / classes  # of one in `classes`


def test_shapes_have_the_areas_of_their_formulas():
    line = (np.arange(2000, dtype=np.float32) + 0.5) / 1000 - 1
    u, v = np.meshgrid(line, line)
    areas = {name: (inside(u, v) < 0).mean() * 4 for name, inside in SHAPES.items()}
    truth = {
        "disc": math.pi * 0.8**2,
        "square": 1.4**2,
        "triangle": 3 * math.sqrt(3) * 0.45**2,  # equilateral, about a circle of radius 0.45
        "ring": math.pi * (0.8**2 - 0.4**2),
        "cross": 2 * 1.7 * 0.5 - 0.5**2,
        "star": math.pi * (0.55**2 + 0.3**2 / 2),
        "bar": 1.8 * 0.6,
    }
    assert {name: areas[name] for name in truth} == pytest.approx(truth, rel=5e-3)
    assert 0.5 < areas["crescent"] < truth["disc"]


def test_keys_are_scrambled_as_splitmix64_does():
    steps = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # of the state 0
    assert mixed(steps).tolist() == published


def test_the_fingerprint_follows_every_option():
    options = [{}, {"size": 16}, {"classes": 3}, {"count": {"train": 5, "val": 5}}, {"seed": 1}]
    assert len({create("datasets", "shapes", **one).fingerprint() for one in options}) == len(options)
    with pytest.raises((ValueError, PartError), match="train"):
        create("datasets", "shapes", count={"test": 3})
