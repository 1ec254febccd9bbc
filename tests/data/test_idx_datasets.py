"""MNIST's files and CIFAR-10's: parsed, looked for, split and fingerprinted."""

import gzip
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision

from latentbench.bench.data.fixed_order import random_rows
from latentbench.bench.data.idx import parse
from latentbench.bench.registry import create

COUNTS = {"train": ("train", 12), "val": ("t10k", 5)}


def idx(values):
    return (
        b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    )


def write(folder, packed=True, seed=0):
    """The four files; returns images and labels by split."""
    folder.mkdir(parents=True, exist_ok=True)
    random, made = np.random.default_rng(seed), {}
    for split, (prefix, n) in COUNTS.items():
        made[split] = random.integers(0, 256, (n, 28, 28), np.uint8), random.integers(0, 10, n, np.uint8)
        for kind, values in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), made[split], strict=True):
            name, raw = f"{prefix}-{kind}", idx(values)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)
    return made


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_and_labels_are_those_of_the_files(name, tmp_path):
    made = write(tmp_path)
    dataset = create("datasets", name, root=str(tmp_path))
    for split, (images, labels) in made.items():
        index = torch.tensor([3, 0, 3])
        got = dataset.images(split, index)
        assert got.shape == (3, 1, 28, 28) and got.dtype == torch.float32
        expected = torch.from_numpy(images).double() / 127.5 - 1
        torch.testing.assert_close(got[:, 0].double(), expected[index], atol=1e-6, rtol=0)
        assert (
            dataset.labels(split).tolist() == labels.tolist() and dataset.labels(split).dtype == torch.int64
        )
        assert dataset.size(split) == len(images)


def test_torchvision_reads_the_same(tmp_path):
    write(tmp_path / "FashionMNIST" / "raw", packed=False)
    theirs = torchvision.datasets.FashionMNIST(tmp_path, train=False)
    mine = create("datasets", "fashion_mnist", root=str(tmp_path))
    levels = mine.images("val", torch.arange(5))[:, 0].add(1).mul(127.5).round().to(torch.uint8)
    assert torch.equal(levels, theirs.data) and torch.equal(mine.labels("val"), theirs.targets)


def test_padding_is_black_and_a_count_takes_a_random_choice(tmp_path):
    made = write(tmp_path)
    dataset = create("datasets", "mnist", root=str(tmp_path), pad=2, count={"train": 7, "val": 9})
    assert (dataset.size("train"), dataset.size("val")) == (7, 5)  # there are 5
    got = dataset.images("train", torch.arange(7))
    assert got.shape == (7, 1, 32, 32) and (dataset.image.height, dataset.image.width) == (32, 32)
    chosen = random_rows(len(made["train"][0]), 7).numpy()
    whole = np.pad(made["train"][0][chosen], ((0, 0), (2, 2), (2, 2))) / 127.5 - 1
    torch.testing.assert_close(got[:, 0].double(), torch.from_numpy(whole), atol=1e-6, rtol=0)
    assert dataset.labels("train").tolist() == made["train"][1][chosen].tolist()
    with pytest.raises(ValueError, match=r"count must be \{train: N, val: N\}, not \{'train': 7\}"):
        create("datasets", "mnist", root=str(tmp_path), count={"train": 7})
    plain = create("datasets", "mnist", root=str(tmp_path))
    assert dataset.fingerprint() != plain.fingerprint()
    absent = create("datasets", "mnist", root="nowhere", count={"train": 7, "val": 20_000})
    assert (absent.size("train"), absent.size("val")) == (7, 10_000)


def test_packed_linked_and_unpacked_files_have_one_fingerprint(tmp_path):
    write(tmp_path / "packed")
    write(tmp_path / "plain", packed=False)
    write(tmp_path / "other", seed=1)
    (tmp_path / "linked").mkdir()
    for file in (tmp_path / "packed").iterdir():  # as Debian's alternatives do
        (tmp_path / "linked" / file.name).symlink_to(file)
    prints = [
        create("datasets", "mnist", root=str(tmp_path / n)).fingerprint()
        for n in ("packed", "plain", "linked")
    ]
    assert len(set(prints)) == 1 and len(prints[0]) == 64
    assert create("datasets", "mnist", root=str(tmp_path / "other")).fingerprint() not in prints


@pytest.mark.parametrize(
    "name, hint",
    [("mnist", "download=True"), ("fashion_mnist", "apt-get install"), ("cifar10", "download=True")],
)
def test_a_set_that_is_not_there_can_be_planned_and_says_how_to_get_it(name, hint, tmp_path):
    dataset = create("datasets", name, root=str(tmp_path / "nowhere"))
    assert dataset.fingerprint() is None and dataset.size("val") == 10_000 and dataset.classes == 10
    with pytest.raises(FileNotFoundError, match=f"nowhere.*{hint}"):
        dataset.fetch()


def test_a_truncated_or_strange_file_is_refused():
    whole = idx(np.zeros((2, 3, 3), np.uint8))
    assert parse(whole).shape == (2, 3, 3)
    with pytest.raises(ValueError, match="17 values of 18"):
        parse(whole[:-1])
    with pytest.raises(ValueError, match="not an idx file"):
        parse(b"\x1f\x8b" + whole)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Batches in CIFAR-10's format, smaller; torchvision's checksums are for the true ones."""
    from latentbench.bench.datasets import cifar10

    folder, random = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    for name in cifar10.BATCHES:
        values = {
            "data": random.integers(0, 256, (4, 3072), np.uint8),
            "labels": random.integers(0, 10, 4).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(values))
    monkeypatch.setattr(cifar10, "SIZES", {"train": 20, "val": 4})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    return tmp_path


def test_cifar_is_what_torchvision_reads(cifar):
    mine, theirs = (
        create("datasets", "cifar10", root=str(cifar)),
        torchvision.datasets.CIFAR10(cifar, train=False),
    )
    levels = mine.images("val", torch.arange(4)).add(1).mul(127.5).round().to(torch.uint8)
    assert np.array_equal(levels.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert mine.labels("val").tolist() == theirs.targets


def test_mirrored_images_come_after_the_others_and_only_in_train(cifar):
    plain, mirrored = (create("datasets", "cifar10", root=str(cifar), mirror=m) for m in (False, True))
    assert (mirrored.size("train"), mirrored.size("val")) == (40, 4)
    images = plain.images("train", torch.arange(20))
    assert torch.equal(mirrored.images("train", torch.arange(40)), torch.cat([images, images.flip(3)]))
    assert torch.equal(mirrored.labels("train"), plain.labels("train").repeat(2))
    assert plain.fingerprint() != mirrored.fingerprint()


def test_planning_imports_neither_torchvision_nor_the_data():
    code = (
        "import sys; from latentbench.bench.registry import create; "
        "d = create('datasets', 'cifar10', root='x');"
        "assert d.size('train') == 50_000 and d.fingerprint() is None and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
