import subprocess
import sys

import torch
from sklearn.datasets import load_digits

from latentbench.bench.registry import create


def everything(split_seed=0):
    digits = create("datasets", "digits", split_seed=split_seed)
    return digits, {
        split: digits.images(split, torch.arange(digits.size(split))) for split in ("train", "val")
    }


def test_the_two_splits_hold_every_digit_once():
    digits, images = everything()
    assert (len(images["train"]), len(images["val"])) == (1437, 360)

    def rows(pixels, labels):
        return sorted([*map(int, image), int(label)] for image, label in zip(pixels, labels, strict=True))

    pixels = torch.cat([*images.values()]).flatten(1).add(1).mul(8)
    labels = torch.cat([digits.labels("train"), digits.labels("val")])
    assert rows(pixels, labels) == rows(*load_digits(return_X_y=True))


def test_every_class_has_its_share_of_both_splits():
    digits = create("datasets", "digits")
    train, val = digits.labels("train").bincount(), digits.labels("val").bincount()
    assert len(val) == digits.classes == 10
    assert ((val - (train + val) * 360 / 1797).abs() <= 1).all()


def test_images_are_float32_in_minus_one_to_one():
    digits, images = everything()
    assert (
        images["val"].shape[1:]
        == (1, 8, 8)
        == (digits.image.channels, digits.image.height, digits.image.width)
    )
    assert images["train"].dtype == torch.float32
    assert (images["train"].min(), images["train"].max()) == (-1, 1)


def test_images_come_in_the_order_of_the_index():
    digits, images = everything()
    index = torch.tensor([5, 3, 3])
    assert torch.equal(digits.images("val", index), images["val"][index])


def test_the_split_follows_its_seed():
    one, two, other = (everything(seed) for seed in (0, 0, 1))
    assert torch.equal(one[1]["val"], two[1]["val"]) and one[0].fingerprint() == two[0].fingerprint()
    assert not torch.equal(one[1]["val"], other[1]["val"]) and one[0].fingerprint() != other[0].fingerprint()


def test_shape_size_and_fingerprint_are_known_without_scikit_learn():
    code = (
        "import sys; from latentbench.bench.registry import create; d = create('datasets', 'digits');"
        "assert len(d.fingerprint()) == 64 and d.size('val') == 360;"
        "assert d.image.height == 8 and d.classes == 10;"
        "assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
