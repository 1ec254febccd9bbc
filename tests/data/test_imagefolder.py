"""Folders of images: found, classed, split, remembered, and of any mode; a matrix at 256 pixels."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from helpers.matrices import planned
from helpers.run import bench
from PIL import Image

from latentbench.bench.api import from_uint8, to_uint8
from latentbench.bench.data import image_index
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.registry import create

OLD = time.time() - 60


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(seed, width=40, height=30):
    """Smooth, so that JPEG changes little of it."""
    values = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def fill(folder, names, seed=0, **options):
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(seed + number).save(file, **options)
    return folder


def imagenet(root, train=4, val=2):
    """root/{train,val}/{cat,dog}/N.JPEG"""
    for place, (split, n) in enumerate({"train": train, "val": val}.items()):
        for number, kind in enumerate(("cat", "dog")):
            names = [f"{i}.JPEG" for i in range(n)]
            fill(root / split / kind, names, 1000 * place + 100 * number, format="JPEG")
    return root


def settle(root):
    """Folders that changed long ago are remembered."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (OLD, OLD))
    return root


def build(root, size=16, **options):
    return create("datasets", "imagefolder", root=str(root), size=size, **options)


def adm(picture, image_size):
    """guided-diffusion's center_crop_arr, as it is there."""
    while min(*picture.size) >= 2 * image_size:
        picture = picture.resize(tuple(x // 2 for x in picture.size), resample=Image.BOX)
    scale = image_size / min(*picture.size)
    picture = picture.resize(tuple(round(x * scale) for x in picture.size), resample=Image.BICUBIC)
    arr = np.array(picture)
    crop_y = (arr.shape[0] - image_size) // 2
    crop_x = (arr.shape[1] - image_size) // 2
    return arr[crop_y : crop_y + image_size, crop_x : crop_x + image_size]


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (133, 75), (16, 16), (9, 12), (500, 33)])
def test_images_are_those_of_guided_diffusion(tmp_path, shape):
    for seed, split in enumerate(("train", "val")):
        (tmp_path / split).mkdir()
        picture(seed, *shape).save(tmp_path / split / "a.png")
    dataset = build(tmp_path)
    for seed, split in enumerate(("train", "val")):
        levels = to_uint8(dataset.images(split, torch.tensor([0])))[0].permute(1, 2, 0).numpy()
        assert np.array_equal(levels, adm(picture(seed, *shape), 16))


def test_folders_are_classes_and_splits(tmp_path):
    dataset = build(imagenet(tmp_path))
    assert (dataset.size("train"), dataset.size("val"), dataset.classes) == (8, 4, 2)
    assert dataset.labels("train").tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert dataset.labels("val").tolist() == [0, 0, 1, 1]
    with Image.open(tmp_path / "val" / "dog" / "0.JPEG") as file:
        expected = torch.from_numpy(adm(file.convert("RGB"), 16)).permute(2, 0, 1)
    image = dataset.images("val", torch.tensor([2]))
    assert image.dtype == torch.float32 and image.is_contiguous()
    assert torch.equal(image[0], from_uint8(expected))


def test_without_a_val_folder_images_are_held_out_by_their_names(tmp_path):
    names = [f"{kind}/{i}.png" for kind in "ab" for i in range(100)]
    dataset = build(fill(tmp_path / "one", names))
    assert dataset.size("train") + dataset.size("val") == 200 and 5 <= dataset.size("val") <= 40
    assert dataset.classes == 2 and len(dataset.labels("val")) == dataset.size("val")
    before = {name for name in dataset._splits["val"].names.tolist()}
    fill(tmp_path / "one", [f"b/new{i}.png" for i in range(50)])
    after = {name for name in build(tmp_path / "one")._splits["val"].names.tolist()}
    assert {name for name in after if b"new" not in name} == before


def test_a_flat_folder_has_no_classes(tmp_path):
    dataset = build(fill(tmp_path, [f"{i}.png" for i in range(30)]), held_out=0.3)
    assert dataset.classes == 0 and dataset.labels("train") is None


def test_val_without_its_class_folders_is_refused(tmp_path):
    shutil.rmtree(imagenet(tmp_path) / "val")
    fill(tmp_path / "val", ["0.png"])
    with pytest.raises(ValueError, match="in train and in val alike; only in val: images without one"):
        build(tmp_path).fingerprint()


def test_a_plan_needs_no_data_but_what_was_said_of_it_must_hold(tmp_path):
    told = {"count": {"train": 8, "val": 4}, "classes": 2}
    away = build(tmp_path / "x", **told)
    assert away.fingerprint() is None and (away.size("train"), away.size("val"), away.classes) == (8, 4, 2)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        build(tmp_path / "x").size("train")
    imagenet(tmp_path / "x")
    assert build(tmp_path / "x", **told).fingerprint() == build(tmp_path / "x").fingerprint() is not None
    for wrong, said in (
        ({"count": {"train": 9, "val": 4}}, "holds 8 images"),
        ({"classes": 3}, "holds 2 classes"),
    ):
        with pytest.raises(ValueError, match=said):
            build(tmp_path / "x", **told | wrong).fingerprint()


def test_a_copy_has_the_same_fingerprint_and_another_set_has_not(tmp_path, monkeypatch):
    imagenet(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    monkeypatch.setenv("SOME_IMAGES", str(tmp_path / "b"))
    a, b = build(tmp_path / "a"), build("$SOME_IMAGES")
    assert a.fingerprint() == b.fingerprint()
    others = [build(tmp_path / "a", **o) for o in ({"size": 8}, {"mirror": True}, {"upright": False})]
    (tmp_path / "b" / "val" / "cat" / "0.JPEG").rename(tmp_path / "b" / "val" / "cat" / "00.JPEG")
    others.append(build("$SOME_IMAGES"))
    assert len({one.fingerprint() for one in (a, *others)}) == 5


def test_unreadable_files_are_named_at_once(tmp_path):
    imagenet(tmp_path)
    truncated, empty = tmp_path / "train" / "cat" / "1.JPEG", tmp_path / "val" / "dog" / "1.JPEG"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    empty.write_bytes(b"")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(
        ValueError, match=r"2 of 12 images cannot be read: .*cat/1.JPEG \(.*truncated.*dog/1.JPEG"
    ):
        build(tmp_path).fingerprint()


def test_only_verify_all_sees_what_is_broken_inside(tmp_path):
    picture(0).resize((300, 300)).save(fill(tmp_path, [f"{i}.png" for i in range(20)]) / "x.png")
    whole = bytearray((tmp_path / "x.png").read_bytes())
    whole[len(whole) // 2] ^= 255
    (tmp_path / "x.png").write_bytes(whole)
    assert build(tmp_path).fingerprint()
    with pytest.raises(ValueError, match=r"1 of 21 .*x\.png"):
        build(tmp_path, verify="all").fingerprint()


def test_a_jpeg_with_something_after_its_end_is_fine(tmp_path):
    file = imagenet(tmp_path) / "train" / "cat" / "1.JPEG"
    file.write_bytes(file.read_bytes() + b"\0\0")
    assert build(tmp_path).size("train") == 8


def test_a_folder_that_did_not_change_is_not_looked_at_again(tmp_path, monkeypatch):
    root = settle(imagenet(tmp_path / "a"))
    before = build(root).fingerprint()
    looked = []
    inspect = image_index._inspected
    monkeypatch.setattr(image_index, "_inspected", lambda f, verify: looked.append(f) or inspect(f, verify))
    assert build(root).fingerprint() == before and not looked
    fill(root / "val" / "cat", ["9.JPEG"])
    assert build(root).size("val") == 5 and looked


def test_a_file_that_was_overwritten_in_place_is_noticed_when_it_is_read(tmp_path):
    root = settle(imagenet(tmp_path / "a"))
    build(root).fingerprint()
    with open(root / "train" / "cat" / "0.JPEG", "ab") as file:
        file.write(b"more")
    os.utime(root / "train" / "cat", (OLD, OLD))
    with pytest.raises(ValueError, match="cat/0.JPEG has .* bytes; it had"):
        build(root).images("train", torch.tensor([0]))


def one(tmp_path, image, name, upright=True, **options):
    """The pixels (3, H, W) of a saved image."""
    from latentbench.bench.datasets.imagefolder import opened

    image.save(tmp_path / name, **options)
    return opened(tmp_path / name, upright)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "PA"])
def test_every_mode_becomes_colour(tmp_path, mode):
    name = "x.jpg" if mode in ("CMYK", "L") else "x.tif" if mode == "PA" else "x.png"
    original = picture(3).convert(mode)
    got = one(tmp_path, original, name).astype(int)
    assert got.shape == (30, 40, 3)
    assert np.abs(got - np.asarray(original.convert("RGB")).astype(int)).mean() < (
        4 if name == "x.jpg" else 0.01
    )


def test_16_bits_are_scaled_not_clipped(tmp_path):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    got = one(tmp_path, Image.fromarray(values), "x.png")
    assert np.array_equal(got[..., 0], np.arange(256).reshape(16, 16)) and (got[..., 0] == got[..., 2]).all()


def test_what_is_transparent_lies_on_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    got = one(tmp_path, image, "x.png")
    assert got[0, 0].tolist() == [0, 0, 255] and got[1, 1].tolist() == [255, 255, 255]


def test_images_are_turned_as_their_tag_says_unless_told_not_to(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    original = picture(5)
    turned, raw = (one(tmp_path, original, "x.png", upright, exif=exif) for upright in (True, False))
    assert np.array_equal(raw, np.asarray(original)) and np.array_equal(turned, np.rot90(raw, -1))


def test_mirrored_images_come_after_the_others_and_only_in_train(tmp_path):
    plain, mirrored = build(imagenet(tmp_path)), build(tmp_path, mirror=True)
    assert (mirrored.size("train"), mirrored.size("val")) == (16, 4)
    images = plain.images("train", torch.arange(8))
    assert torch.equal(mirrored.images("train", torch.arange(16)), torch.cat([images, images.flip(3)]))
    assert torch.equal(mirrored.labels("train"), plain.labels("train").repeat(2))


MATRIX = """\
name: folder
dataset: {{use: imagefolder, root: {root}}}
seeds: [0]
budget: {{tokenizer_steps: 3, generator_steps: 3, batch: 8}}
features: {{use: effnet_lite0, resolution: 64}}
reference: {{use: teacher}}
reconstruction: {{l1: 1.0}}
samples: 16
tokenizers:
  conv: {{width: 4, mult: [1, 1, 1, 1, 1], channels: 4}}
regularizers:
  kl: {{weight: 1.0e-3}}
generators:
  gaussian: {{}}
  lightningdit: {{width: 16, depth: 1, heads: 2, sampler: {{steps: 2}}}}
evaluators: [reconstruction, generation, cost]
"""


def test_a_folder_goes_in_at_256_pixels_and_comes_out_as_a_leaderboard(tmp_path):
    root = tmp_path / "images"
    random = np.random.default_rng(0)
    for split, n in (("train", 20), ("val", 8)):
        for kind in range(4):
            for i in range(n):
                folder = root / split / f"n{kind}"
                folder.mkdir(parents=True, exist_ok=True)
                mode = "L" if i == 3 else "CMYK" if i == 5 else "RGB"
                side = (int(random.integers(200, 360)), int(random.integers(200, 360)))
                picture(100 * kind + i, *side).convert(mode).save(folder / f"{split}{i}.JPEG", quality=80)
    (tmp_path / "m.yaml").write_text(MATRIX.format(root=root))
    ran = bench("run", "--matrix", "m.yaml", "-j", 1, "--loaders", 1, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "results" / "folder" / "leaderboard.html").is_file()
    found = [json.loads(f.read_text()) for f in (tmp_path / "results" / "folder" / "records").glob("*.json")]
    assert [record["status"] for record in found if record["cell"]["tokenizer"] == "conv"] == ["done"] * 2


def test_a_bad_file_or_none_ends_a_run_before_it_starts(tmp_path):
    root = imagenet(tmp_path / "images")
    (root / "train" / "dog" / "2.JPEG").write_bytes(b"x")
    with pytest.raises(MatrixError, match=r"(?s)matrix\.yaml:2.*dog/2\.JPEG \(no image\)"):
        planned(tmp_path, MATRIX.format(root=root), fetch=True)
    missing = MATRIX.format(root=tmp_path / "nowhere")
    for fetch in (True, False):
        with pytest.raises(MatrixError, match="(?s)matrix.yaml:2.*nowhere.*`count` and `classes`"):
            planned(tmp_path, missing, fetch=fetch)
    stated = missing.replace("root:", "count: {train: 100, val: 50}, classes: 7, root:")
    assert planned(tmp_path, stated).cells
