"""Sets of torchvision.datasets by name: the images that torchvision gives, and what is wrong before a run."""

import gzip
import hashlib
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
import torchvision.datasets as official
from helpers.image_folders import class_folders, picture, put
from helpers.run import bench_inline
from PIL import Image

from latentbench.bench.contracts.common import Part
from latentbench.bench.contracts.datasets import CHECKS, Scene
from latentbench.bench.registry import create

SPLITS = ("train", "val")
FAKE = {
    "name": "FakeData",
    "train": {"size": 60, "image_size": [3, 8, 8]},
    "val": {"size": 50, "image_size": [3, 8, 8], "random_offset": 1000},
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def made(name, root=".", **options):
    return create("datasets", "torchvision", name=name, root=str(root), **options)


def all_levels(data, split):
    return data.levels(split, torch.arange(data.size(split)))


def idx_files(folder, count=30, packed=True):
    """The files of an MNIST of `count` random images in each split, as KMNIST and others have them."""
    folder.mkdir(parents=True, exist_ok=True)
    random, files = np.random.default_rng(0), []
    for split in ("train", "t10k"):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = random.permutation(np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
            raw = bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()
            file = folder / f"{split}-{kind}-ubyte{'.gz' * packed}"
            file.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
            files.append(file)
    return files


def test_images_and_labels_are_torchvision_s_own(tmp_path):
    idx_files(tmp_path / "KMNIST/raw", packed=False)
    data = made("KMNIST", tmp_path)
    assert (data.image.channels, data.image.height, data.classes) == (1, 28, 10)
    for split, train in (("train", True), ("val", False)):
        own = official.KMNIST(tmp_path, train=train)
        assert np.array_equal(
            all_levels(data, split)[:, 0], np.stack([np.asarray(image) for image, _ in own])
        )
        assert data.labels(split).tolist() == [label for _, label in own]
    assert data.description()[0].startswith("30 train + 30 val images; 10 classes of 3 to 3: o 10 %, ki 10 %")
    assert data.description()[1] == "torchvision's KMNIST; train: train=True; val: train=False"


def test_a_folder_is_the_same_read_by_imagefolder_and_by_torchvision_s_class(tmp_path):
    class_folders(tmp_path, sizes=(6, 4))
    ours = create("datasets", "imagefolder", root=str(tmp_path), size=8)
    theirs = made("ImageFolder", tmp_path, train={"root": "train"}, val={"root": "val"}, size=8)
    for split in SPLITS:
        assert torch.equal(all_levels(ours, split), all_levels(theirs, split))
        assert torch.equal(ours.labels(split), theirs.labels(split))
    assert ours.description()[0] == theirs.description()[0]


def test_without_a_size_pictures_keep_theirs_and_others_are_named(tmp_path):
    class_folders(tmp_path, sizes=(6, 4))
    arguments = {"train": {"root": "train"}, "val": {"root": "val"}}
    assert made("ImageFolder", tmp_path, **arguments).image.width == 12
    picture(7, 9, 9).save(tmp_path / "train/cat/0.png")
    with pytest.raises(ValueError, match="of several sizes, 9 x 9 and 12 x 10: choose a `size`"):
        made("ImageFolder", tmp_path, **arguments).fingerprint()


def test_the_set_is_grey_where_its_pictures_are_and_in_colour_where_some_are(tmp_path):
    put(tmp_path, *(f"{split}/a/{n}.png" for split in SPLITS for n in range(3)))
    for file in tmp_path.glob("*/a/*.png"):
        picture(1, mode="L").save(file)
    arguments = {"train": {"root": "train"}, "val": {"root": "val"}}
    # ImageFolder's own loader makes colour of all.
    assert made("ImageFolder", tmp_path, **arguments).image.channels == 3
    assert made(**FAKE).image.channels == 3
    grey = {"train": {"size": 9, "image_size": [1, 8, 8]}}
    assert made("FakeData", **grey).image.channels == 1
    one, three = made("FakeData", **grey), made("FakeData", **grey, channels=3)
    assert torch.equal(all_levels(one, "val").expand(-1, 3, -1, -1), all_levels(three, "val"))
    with pytest.raises(ValueError, match="image 0 is in colour: let `channels` be 3"):
        made(**FAKE, channels=1).levels("train", torch.tensor([0]))


def food(root, train=8, test=4):
    """A set that takes `split=` and keeps its labels to itself."""
    for split, count in (("train", train), ("test", test)):
        names = {kind: [f"{kind}/{split}{n}" for n in range(count)] for kind in ("tea", "cake")}
        put(root / "food-101/images", *(f"{name}.jpg" for own in names.values() for name in own))
        (root / "food-101/meta").mkdir(exist_ok=True)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(names))
    return root


def test_sets_that_take_a_split_get_it_and_say_what_is_missing(tmp_path):
    data = made("Food101", food(tmp_path), train={"split": "train"}, val={"split": "test"}, size=8)
    own = official.Food101(tmp_path, split="test")
    assert data.labels("val").tolist() == [label for _, label in own] and data.size("train") == 16
    assert data.description()[0] == "16 train + 8 val images; 2 classes: cake 50 %, tea 50 %"
    with pytest.raises(ValueError, match="Food101 needs its arguments, such as `train: {split: train}"):
        made("Food101", tmp_path)
    held_out = made("Food101", tmp_path, train={"split": "train"}, size=8, held_out=0.25)
    assert (held_out.size("train"), held_out.size("val")) == (12, 4)
    both = torch.cat([all_levels(held_out, split) for split in SPLITS])
    whole = all_levels(data, "train")
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, whole.numpy()))
    assert "held out as a fixed random choice of train" in held_out.description()[0]


def test_sets_that_take_neither_hold_images_out(tmp_path):
    put(tmp_path / "eurosat/2750", *(f"{kind}/{n}.jpg" for kind in ("River", "Forest") for n in range(10)))
    data = made("EuroSAT", tmp_path, held_out=0.2, size=8)
    assert (data.size("train"), data.size("val"), data.classes) == (16, 4, 2)
    again = made("EuroSAT", tmp_path, held_out=0.2, size=8)
    assert torch.equal(all_levels(data, "val"), all_levels(again, "val"))


def test_labels_beside_file_names_are_found_without_reading_all_pictures(tmp_path, monkeypatch):
    kinds = ("negative", "positive")
    put(tmp_path / "rendered-sst2/train", *(f"{kind}/{n}.png" for kind in kinds for n in range(50)))
    read = []
    plain = official.RenderedSST2.__getitem__
    monkeypatch.setattr(
        official.RenderedSST2, "__getitem__", lambda self, n: read.append(n) or plain(self, n)
    )
    data = made("RenderedSST2", tmp_path, train={"split": "train"}, size=8)
    labels = torch.cat([data.labels(split) for split in SPLITS])
    assert labels.bincount().tolist() == [50, 50] and len(set(read)) < 40


def voc(root):
    base = root / "VOCdevkit/VOC2012"
    put(base, *(f"JPEGImages/{n}.jpg" for n in range(6)))
    for name, numbers in (("train", range(4)), ("val", range(4, 6))):
        (base / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (base / f"ImageSets/Main/{name}.txt").write_text("".join(f"{n}\n" for n in numbers))
    (base / "Annotations").mkdir()
    for n in range(6):
        (base / f"Annotations/{n}.xml").write_text("<annotation><object><name>a</name></object></annotation>")
    return root


def test_targets_that_are_no_classes_are_not_read_and_it_is_said(tmp_path):
    splits = {"train": {"image_set": "train"}, "val": {"image_set": "val"}}
    data = made("VOCDetection", voc(tmp_path), **splits, size=8)
    assert data.classes == 0 and data.labels("train") is None and data.size("val") == 2
    assert data.description()[0] == "4 train + 2 val images; no classes"
    assert data.description()[2] == "no labels are read: targets are a dict"


def test_sets_without_pictures_are_refused_with_the_reason(tmp_path):
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST/mnist_test_seq.npy", np.zeros((20, 4, 64, 64), np.uint8))
    data = made("MovingMNIST", tmp_path, train={"split": "train"}, val={"split": "test"})
    with pytest.raises(
        ValueError, match=r"a sample begins with a Tensor of \(10, 1, 64, 64\), not a picture"
    ):
        data.fingerprint()


WRONG = {
    "a misspelt set": (
        {"name": "CIFAR1000"},
        "unknown set of torchvision.datasets 'CIFAR1000'; did you mean",
    ),
    "a set of another library": ({"name": "laion"}, "unknown set of torchvision.datasets 'laion'; known: "),
    "no name": ({"name": ""}, "`name` must be that of a set of torchvision.datasets, such as CIFAR100"),
    "a misspelt argument": (
        {**FAKE, "train": {"sice": 3}},
        "argument of torchvision's FakeData 'sice'; did you",
    ),
    "code": ({**FAKE, "train": {"transform": "x"}}, "a matrix cannot write the argument 'transform' of"),
    "the same twice": ({**FAKE, "train": FAKE["val"]}, "train and val are the same images of torchvision's"),
    "a wrong split": (
        {"name": "Flowers102", "train": {"split": "trian"}},
        "Flowers102, train: Unknown value 'trian' for argument split. Valid values are",
    ),
    "a missing argument": ({"name": "CocoCaptions"}, "missing 1 required positional argument: 'annFile'"),
    "no files": ({"name": "SVHN", "train": {"split": "train"}}, "torchvision's SVHN is not in nowhere: "),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_names_and_arguments_are_named_with_what_to_write(tmp_path, monkeypatch, fault):
    monkeypatch.chdir(tmp_path)
    options, said = WRONG[fault]
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        data = create("datasets", "torchvision", **({"root": "nowhere"} | options))
        assert data.fingerprint() is None or data.size("train")
        data.size("train")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_opened_is_named_before_anything_runs(tmp_path):
    data = made("Food101", food(tmp_path), train={"split": "train"}, val={"split": "test"}, size=8)
    (tmp_path / "food-101/images/cake/train0.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="torchvision's Food101.* image 8 cannot be read: cannot identify"):
        data.fingerprint()


def test_the_fingerprint_is_that_of_the_files_and_arguments(tmp_path):
    idx_files(tmp_path / "a/KMNIST/raw", packed=False)
    first = made("KMNIST", tmp_path / "a").fingerprint()
    (tmp_path / "a").rename(tmp_path / "b")
    assert made("KMNIST", tmp_path / "b").fingerprint() == first
    assert made("KMNIST", tmp_path / "b", size=14).fingerprint() != first
    assert made("KMNIST", tmp_path / "b", train={"train": True}).fingerprint() != first
    file = tmp_path / "b/KMNIST/raw/t10k-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert made("KMNIST", tmp_path / "b").fingerprint() != first
    assert made("KMNIST", tmp_path / "nowhere").fingerprint() is None


def test_all_promises_of_datasets_are_kept():
    scene = Scene(Part("datasets", "torchvision", FAKE))
    for check in CHECKS[:-1]:
        check(scene)


# --- through the command line -------------------------------------------------------------------------------

MATRIX = """\
name: named
dataset: {use: torchvision, name: KMNIST, root: files, size: 16}
seeds: [0]
budget: {tokenizer_steps: 2, generator_steps: 2, batch: 8}
features: {use: effnet_lite0, resolution: 32}
samples: 16
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers:
  none: {}
generators:
  gaussian: {}
evaluators: [reconstruction]
"""


@pytest.fixture
def served():
    """A function that serves a folder to this machine and returns its address."""
    servers = []

    def serve(folder):
        handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_run_downloads_what_is_missing_and_a_plan_or_an_offline_run_does_not(tmp_path, monkeypatch, served):
    server = tmp_path / "server"
    files = idx_files(server)
    sums = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in files]
    monkeypatch.setattr(official.KMNIST, "mirrors", [served(server)])
    monkeypatch.setattr(official.KMNIST, "resources", sums)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    said = (
        "matrix.yaml:2:1: torchvision's KMNIST is not in files: Dataset not found; `bench run` downloads it"
    )
    plan = bench_inline("plan", cwd=tmp_path, home=tmp_path / "home")
    assert plan.returncode == 2 and said in plan.stderr
    offline = bench_inline("run", "--offline", cwd=tmp_path, home=tmp_path / "home")
    assert offline.returncode == 4 and "offline, and torchvision's KMNIST is not in files" in offline.stderr
    assert not (tmp_path / "files").exists()
    done = bench_inline("run", "-q", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torchvision: 30 train + 30 val images; 10 classes" in done.stdout
    (record,) = (tmp_path / "results").glob("*/records/*none*.json")
    assert json.loads(record.read_text())["status"] == "done"
    for file in files:
        file.unlink()
    again = bench_inline("plan", cwd=tmp_path, home=tmp_path / "home")
    assert again.returncode == 0, again.stderr


def test_what_a_set_does_not_take_is_a_problem_of_its_line(tmp_path):
    (tmp_path / "matrix.yaml").write_text(MATRIX.replace("KMNIST, root: files", "Flower102"))
    done = bench_inline("plan", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean 'Flowers102'?" in done.stderr
    assert "matrix.yaml:2:1: " in done.stderr


def test_grey_pictures_of_pillow_are_read_as_such():
    from latentbench.bench.data.torchvision_sets import sample_of

    for picture_, shape in (
        (Image.new("L", (4, 3)), (3, 4, 1)),
        (Image.new("1", (4, 3)), (3, 4, 1)),
        (Image.new("P", (4, 3)), (3, 4, 3)),
        (np.zeros((3, 4), np.uint8), (3, 4, 1)),
        (torch.zeros(3, 5, 6, dtype=torch.uint8), (5, 6, 3)),
    ):
        assert sample_of([(picture_, 0)], 0, "x").levels.shape == shape
    for other in (Image.new("I", (4, 3)), torch.zeros(3, 4, 4), "text", (Image.new("L", (2, 2)),) * 2):
        with pytest.raises(ValueError, match="not a picture"):
            sample_of([(other, 0)], 0, "x")
