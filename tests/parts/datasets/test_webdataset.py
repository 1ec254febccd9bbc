"""Pictures in tar files: the images of folders, and samples that cannot be read, by their names."""

import os
import time

import pytest
import torch
from helpers.image_folders import class_folders
from helpers.run import bench_inline
from helpers.tar_files import as_tar, members, tar

from latentbench.bench.data import tar_samples
from latentbench.bench.data.image_folders import ImagesError
from latentbench.bench.registry import create

SPLITS = ("train", "val")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "folder", sizes=(6, 4))


@pytest.fixture
def root(folder, tmp_path):
    """The images of `folder`, those of train in two files."""
    return as_tar(folder, tmp_path / "set")


def made(root, **options):
    return create("datasets", "webdataset", root=str(root), **({"size": 8} | options))


def test_a_folder_and_its_tar_files_give_the_same_images_and_labels(folder, root):
    as_folder, data = create("datasets", "imagefolder", root=str(folder), size=8), made(root)
    for split in SPLITS:
        index = torch.randperm(data.size(split), generator=torch.Generator().manual_seed(0))
        assert torch.equal(data.levels(split, index), as_folder.levels(split, index))
        assert torch.equal(data.labels(split), as_folder.labels(split))
    assert data.description() == [
        "12 train + 8 val images; 2 classes: 0 50 %, 1 50 %",
        "3 files; labels from .cls",
        "files of samples left out: .json",
    ]


def test_types_may_differ_and_fields_may_be_named(folder, root):
    png = sorted(folder.glob("train/*/*"))[0].read_bytes()
    both = [("a/1.png", png), ("a/1.mask.png", png), ("b/1.png", png), ("b/1.id", b"3"), ("._b", b"x")]
    tar(root.parent / "fields/train.tar", both)
    data = made(root.parent / "fields", held_out=0.5)
    with pytest.raises(ImagesError, match="no images for"):  # equal pictures are in one split
        data.size("train")
    mask = made(root.parent / "fields", fields={"image": "mask.png"})
    with pytest.raises(ImagesError, match=r"1 of 2 samples .*: train.tar sample b/1 \(no .mask.png\)"):
        mask.size("train")
    with pytest.raises(ImagesError, match=r"sample a/1 \(no .id\)"):
        made(root.parent / "fields", fields={"label": "id"}).size("train")


FAULTS = {
    "no picture": ([("5.cls", b"1")], "train.tar sample 5 (no picture)"),
    "two pictures": ([("5.png", 0), ("5.jpg", 0), ("5.cls", b"1")], "5 (several pictures, .png and .jpg: "
                     "choose by `fields: {image: png}`)"),
    "no label": ([("5.png", 0)], "sample 5 (no .cls)"),
    "a label in words": ([("5.png", 0), ("5.cls", b"cat")], "sample 5 (the label 'cat' is no whole number)"),
    "a broken picture": ([("5.png", b"hello"), ("5.cls", b"1")], "sample 5 (no image)"),
    "an empty picture": ([("5.png", b""), ("5.cls", b"1")], "sample 5 (an empty picture)"),
    "a name twice": ([one for n in "565" for one in ((f"{n}.png", 0), (f"{n}.cls", b"1"))],
                     "sample 5 (its name is that of an earlier sample)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_samples_that_cannot_be_read_are_named(folder, root, fault):
    more, said = FAULTS[fault]
    files = sorted(folder.glob("train/*/*"))
    whole = [(name, files[0].read_bytes() if content == 0 else content) for name, content in more]
    tar(root.parent / "bad/train.tar", [*members(files[1:3], [0, 1]), *whole])
    tar(root.parent / "bad/val.tar", members(files[3:5], [0, 1]))
    with pytest.raises(ImagesError) as caught:
        made(root.parent / "bad").fingerprint()
    assert str(caught.value).startswith("1 of ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:5000], "is damaged after sample|is cut in"),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (lambda content: b"\x1f\x8b" + content, "is packed, so that its samples can't be read one by one"),
        (lambda content: b"x" * 2000, "is no tar file, or cut: it has 2,000 bytes"),
        (lambda content: b"", "is no tar file, or cut: it has 0 bytes"),
    ],
)
def test_files_that_are_no_whole_tar_are_named(root, change, said):
    file = root / "train-000001.tar"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ImagesError, match=said) as caught:
        made(root).size("train")
    assert str(file) in str(caught.value)


def test_files_are_listed_once_until_they_change(root, monkeypatch):
    for file in root.glob("*.tar"):
        os.utime(file, (time.time() - 60,) * 2)
    before = made(root)
    fingerprint = before.fingerprint()
    monkeypatch.setattr(tar_samples, "_indexed", None)
    again = made(root)
    assert again.fingerprint() == fingerprint and again.description() == before.description()
    os.utime(root / "val-000000.tar")
    with pytest.raises(ValueError, match="val-000000.tar has changed since"):
        again.levels("val", torch.tensor([0]))


def test_tar_files_are_planned_and_run(root):
    (root.parent / "matrix.yaml").write_text("""\
name: tars
dataset: {use: webdataset, root: set, size: 16}
seeds: [0]
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 8}
features: {use: effnet_lite0, resolution: 32}
samples: 16
tokenizers: {vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}}
regularizers: {none: {}}
generators: {gaussian: {}}
evaluators: [reconstruction]
""")
    done = bench_inline("run", "-q", "--loaders", "2", cwd=root.parent, home=root.parent / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "webdataset: 12 train + 8 val images; 2 classes: 0 50 %, 1 50 %" in done.stdout
