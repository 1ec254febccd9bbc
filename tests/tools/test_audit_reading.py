"""`bench audit` reads folders as the dataset `imagefolder` does, and names what it cannot read."""

import json

import numpy as np
import pytest
import torch
from helpers.image_folders import image_folder, picture, put, save_deep_png
from helpers.run import bench_inline
from PIL import Image

from latentbench.bench.api import from_uint8, to_uint8
from latentbench.bench.tools.audit import AuditError, read

SIDE = 16


def grey_16_bits(folder, n):
    values = (np.linspace(0, 65535, SIDE * SIDE) * (n + 1) / 12).reshape(SIDE, SIDE).astype(np.uint16)
    Image.fromarray(values).save(folder / f"{n}.png")


def colour_12_bits(folder, n):
    save_deep_png(np.random.default_rng(n).integers(0, 4096, (SIDE, SIDE, 3)), folder / f"{n}.png")


def transparent(folder, n):
    image = picture(n, SIDE, SIDE, "RGBA")
    image.putalpha(Image.new("L", (SIDE, SIDE), 20 * n))
    image.save(folder / f"{n}.png")


def on_its_side(folder, n):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(n, SIDE, SIDE).save(folder / f"{n}.jpg", exif=exif)


def of_mode(mode, suffix="png"):
    return lambda folder, n: picture(n, SIDE, SIDE, mode).save(folder / f"{n}.{suffix}")


def of_mixed_types(folder, n):
    suffix = ("png", "tif", "gif", "ppm", "webp", "bmp", "jfif", "avif", "jp2")[n % 9]
    picture(n, SIDE, SIDE).save(folder / f"{n}.{suffix}")


def beside_hidden_files(folder, n):
    put(folder, f"{n}.png", f".hidden/{n}.png", f"__MACOSX/{n}.png")
    picture(n, SIDE, SIDE).save(folder / f"{n}.png")
    (folder / f"._{n}.png").write_bytes(b"\0\5\x16\7")


MAKERS = {
    "grey of 16 bits": grey_16_bits,
    "colour of 12 bits": colour_12_bits,
    "transparency": transparent,
    "EXIF": on_its_side,
    "grey and alpha": of_mode("LA"),
    "one bit": of_mode("1"),
    "palette": of_mode("P"),
    "CMYK": of_mode("CMYK", "jpg"),
    "floats": of_mode("F", "tif"),
    "types": of_mixed_types,
    "hidden files": beside_hidden_files,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_pixels_are_those_of_the_dataset(tmp_path, make):
    for n in range(12):
        make(tmp_path, n)
    images = to_uint8(read(tmp_path).images)
    data = image_folder(tmp_path, size=SIDE, held_out=0.5)
    assert len(images) == 12 == data.size("train") + data.size("val")
    for split in ("train", "val"):
        levels = data.levels(split, torch.arange(data.size(split)))
        for name, image in zip(data._splits[split].names.tolist(), levels, strict=True):
            own = images[sorted(data._found.listing.names.tolist(), key=lambda n: n.split(b"/")).index(name)]
            assert torch.equal(own.expand(3, -1, -1), image), name


def test_grey_of_16_bits_is_not_white(tmp_path):
    for n in range(8):
        grey_16_bits(tmp_path, n)
    assert abs(float(read(tmp_path).images.mean()) + 0.625) < 0.01  # was 0.995: all white


def test_grey_pictures_alone_keep_one_channel(tmp_path):
    for n in range(8):
        of_mode("L")(tmp_path, n)
    assert read(tmp_path).images.shape == (8, 1, SIDE, SIDE)
    of_mode("RGB")(tmp_path, 8)
    assert read(tmp_path).images.shape == (9, 3, SIDE, SIDE)


def test_what_was_left_out_is_said(tmp_path):
    for n in range(8):
        beside_hidden_files(tmp_path, n)
    put(tmp_path, "more/x.png")
    (tmp_path / "x.heic").write_bytes(b"x")
    (tmp_path / "x.jpg").mkdir()
    assert read(tmp_path).notes == (
        "images of 2 folders: 8 in ., 1 in more",
        "files left out: 16 in hidden folders (.hidden, __MACOSX), "
        "8 hidden (._0.png, ._1.png, ._2.png, …), 1 of other types (1 .heic)",
        "folders left out: 1 without an image (x.jpg)",
    )


def test_a_link_back_is_not_followed_and_a_folder_read_once(tmp_path):
    put(tmp_path, *(f"a/{n}.png" for n in range(9)))
    (tmp_path / "a/back").symlink_to("..")
    (tmp_path / "again").symlink_to("a")
    found = read(tmp_path)
    assert len(found.images) == 9 and "(again, a/back)" in found.notes[0]


ARRAYS = {
    "nothing": ({}, "no array at all"),
    "labels alone": ({"labels": np.zeros(10, int)}, r"must hold \(n, H, W, 1 or 3\), not labels \(10,\)"),
    "no images": ({"a": np.zeros((0, 8, 8, 3))}, "no images"),
    "text": ({"a": np.full((9, 8, 8, 3), "x")}, "no images"),
    "objects": ({"a": np.array([None, 1], dtype=object)}, "no whole NumPy file of numbers"),
    "two": ({"real": np.zeros((9, 8, 8, 3)), "fake": np.zeros((9, 8, 8, 3))}, "several arrays.*real, fake"),
    "nan": ({"a": np.full((9, 8, 8, 3), np.nan)}, "must lie in"),
}


@pytest.mark.parametrize(("arrays", "message"), ARRAYS.values(), ids=ARRAYS)
def test_an_npz_without_one_array_of_images_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(AuditError, match=message):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "content", [b"", b"x", b"PK\3\4", b"\x93NUMPY", b"version https://git-lfs.github.com"]
)
@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_a_file_that_is_no_whole_numpy_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AuditError, match=f"{name} is no whole NumPy file") as caught:
        read(tmp_path / name)
    assert "allow_pickle" not in str(caught.value)


def test_a_cut_off_npz_is_named(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), np.uint8))
    whole = (tmp_path / "x.npz").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "x.npz").write_bytes(whole[:length])
        with pytest.raises(AuditError, match="no whole NumPy file"):
            read(tmp_path / "x.npz")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    (tmp_path / "x.npz").write_bytes(damaged)
    with pytest.raises(AuditError, match="no whole NumPy file"):
        read(tmp_path / "x.npz")


def test_images_are_found_beside_labels(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", labels=np.zeros(10, int), images=levels)
    expected = from_uint8(torch.from_numpy(levels).permute(0, 3, 1, 2))
    assert torch.equal(read(tmp_path / "x.npz").images, expected)


@pytest.mark.parametrize(
    ("kind", "top"), [("uint16", 65535), ("uint16", 4095), ("int64", 255), ("int32", 1), ("bool", 1)]
)
def test_whole_numbers_are_scaled_by_what_they_hold(tmp_path, kind, top):
    values = np.round(np.linspace(0, top, 640)).astype(kind).reshape(10, 8, 8, 1)
    np.save(tmp_path / "x.npy", values)
    found = read(tmp_path / "x.npy")
    assert (float(found.images.min()), float(found.images.max())) == (-1, 1)
    assert abs(float(found.images.mean())) < 0.01 and f"{top:,} is white" in found.notes[0]


def test_a_broken_artifact_is_named(tmp_path):
    (tmp_path / "tensors.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(AuditError, match="tensors.safetensors cannot be read"):
        read(tmp_path)


def test_the_command_prints_notes_beside_its_json(tmp_path):
    for n in range(12):
        of_mode("L")(tmp_path, n)
    (tmp_path / ".x.png").write_bytes(b"x")
    done = bench_inline("audit", ".", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["n"] == 12
    assert "files left out: 1 hidden (.x.png)" in done.stderr
    (tmp_path / "empty.npz").write_bytes(b"PK\5\6" + bytes(18))
    wrong = bench_inline("audit", "empty.npz", cwd=tmp_path)
    assert wrong.returncode == 2 and "no array at all" in wrong.stderr and "Traceback" not in wrong.stderr
