"""Pixels of picture files of any depth, mode and size in 8 bits."""

import io

import numpy as np
import pytest
import tifffile
import torch
from helpers.image_folders import image_folder, picture, save_deep_png
from PIL import Image

from latentbench.bench.data import images, picture_ends, picture_size
from latentbench.bench.data.deep_pixels import Held
from latentbench.bench.data.image_index import list_images
from latentbench.bench.data.picture import inspect, opened, read_picture


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def ramp(top, channels=1, kind="uint16"):
    """Values (16, 16, channels) from 0 to `top`, whose 8-bit levels are 0 to 255 in order."""
    values = np.arange(256) * (top / 255)
    values = values.round() if np.dtype(kind).kind in "iu" else values
    return np.repeat(values.astype(kind).reshape(16, 16, 1), channels, axis=2)


LEVELS = np.arange(256).reshape(16, 16)
TOPS = {"10 bits": 1023, "12 bits": 4095, "14 bits": 16383, "16 bits": 65535}


def is_ramp(file, inverted=False):
    got = opened(file).astype(int)
    expected = 255 - LEVELS if inverted else LEVELS
    return got.shape == (16, 16, 3) and all(np.abs(got[..., c] - expected).max() <= 1 for c in range(3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("top", TOPS.values(), ids=TOPS)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
def test_whole_numbers_are_scaled_by_the_bits_that_they_use(tmp_path, suffix, top, channels):
    file, values = tmp_path / f"x{suffix}", ramp(top, channels)
    if suffix == ".png":
        save_deep_png(values, file)
    elif suffix == ".tif":
        tifffile.imwrite(file, values.squeeze(), photometric="rgb" if channels == 3 else "minisblack")
    elif channels == 1:
        Image.fromarray(values[..., 0]).save(file)
    else:
        pytest.skip("Pillow writes JPEG 2000 of 16 bits in grey alone")
    assert is_ramp(file)
    assert inspect(file).held == Held(1, 0, top, True)


@pytest.mark.parametrize(
    ("values", "options", "inverted"),
    [
        (ramp(1.0, kind="f4"), {}, False),
        (ramp(1.0, kind="f8"), {}, False),
        (ramp(1.0, kind="f2"), {}, False),
        (ramp(255, kind="f4"), {}, False),
        (ramp(65535, kind="f4"), {}, False),
        (ramp(0.01, kind="f4"), {}, False),  # by what it holds: 0 to 1 would make it black
        (ramp(37.5, kind="f4"), {}, False),
        (ramp(2.0, kind="f4") - 1, {}, False),
        (ramp(1.0, 3, "f4"), {"photometric": "rgb"}, False),
        (ramp(3000, kind="i4") - 1000, {}, False),
        (ramp(3000, kind="i2") - 1000, {}, False),
        ((ramp(255, kind="i2") - 128).astype("i1"), {}, False),
        (ramp(2**31 - 1, kind="i4"), {}, False),
        (ramp(2**32 - 1, kind="u4"), {}, False),
        (ramp(4095), {"photometric": "miniswhite"}, True),
        (np.moveaxis(ramp(4095, 3), 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, False),
    ],
    ids=[
        *("float", "double", "half", "float of 255", "float of 65535", "dark float", "bright float"),
        *("signed float", "float in colour", "signed 32 bits", "signed 16 bits", "signed 8 bits"),
        *("31 bits", "32 bits", "white at 0", "planes"),
    ],
)
def test_no_kind_of_tiff_comes_out_black_or_white(tmp_path, values, options, inverted):
    tifffile.imwrite(tmp_path / "x.tif", values.squeeze(), **options)
    assert is_ramp(tmp_path / "x.tif", inverted)


@pytest.mark.parametrize(
    ("held", "scale"),
    [
        (Held(1, 0, 255, True), (0, 255)),
        (Held(1, 0, 256, True), (0, 1023)),
        (Held(1, 0, 3000, True), (0, 4095)),
        (Held(1, 0, 1, True), (0, 1)),  # a mask
        (Held(1, 0, 0, True), (0, 1)),
        (Held(1, 0, 70_000, True), (0, 70_000)),
        (Held(1, -5, 10, True), (-5, 10)),
        (Held(1, -0.5, 0.9, False), (-1, 1)),
        (Held(1, 0, 0.9, False), (0, 1)),
        (Held(1, 0, 254.6, False), (0, 255)),
        (Held(1, 0, 1.2, False), (0, 1.2)),
        (Held(1, -3, -3, False), (-3, -2)),
    ],
    ids=str,
)
def test_the_scale_is_the_smallest_usual_range_that_is_used(held, scale):
    assert held.scale == scale


def test_files_of_a_set_share_one_scale_and_a_new_file_that_changes_it_changes_the_fingerprint(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        save_deep_png(ramp(900, 3), tmp_path / split / "dark.png")
    dark = image_folder(tmp_path, size=16).levels("train", torch.tensor([0]))
    before = image_folder(tmp_path, size=16).fingerprint()
    save_deep_png(ramp(4000, 3), tmp_path / "train/light.png")
    data = image_folder(tmp_path, size=16)
    darker, light = data.levels("train", torch.tensor([0, 1]))
    assert dark.max() == 224 and abs(int(darker.max()) - 56) <= 1 and light.max() == 249
    for split in ("train", "val"):
        assert data.levels(split, torch.tensor([0])).max() == darker.max()
    (tmp_path / "train/light.png").unlink()
    assert image_folder(tmp_path, size=16).fingerprint() == before != data.fingerprint()


def test_deep_pictures_are_turned_and_laid_on_white(tmp_path):
    values = ramp(4095, 4)
    values[..., 3] = 4095
    values[0, :8, 3] = 0
    save_deep_png(values, tmp_path / "alpha.png")
    assert (opened(tmp_path / "alpha.png")[0, :8] == 255).all()
    assert np.abs(opened(tmp_path / "alpha.png")[1:, :, 0].astype(int) - LEVELS[1:]).max() <= 1
    for channels, name in ((1, "grey.png"), (3, "colour.png")):
        save_deep_png(ramp(65535, channels), tmp_path / name, transparent=[257] * channels)
        got = opened(tmp_path / name)
        assert (got[0, 1] == 255).all() and (got[0, 2] == 2).all()
    tifffile.imwrite(
        tmp_path / "o.tif", ramp(4095, 3)[:8], photometric="rgb", extratags=[(274, "H", 1, 6, True)]
    )
    grey = ramp(4095)[:8].squeeze()
    tifffile.imwrite(tmp_path / "g.tif", grey, extratags=[(274, "H", 1, 6, True)])
    for name in ("o.tif", "g.tif"):
        assert np.abs(opened(tmp_path / name)[..., 0].astype(int) - np.rot90(LEVELS[:8], -1)).max() <= 1


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("colours", ["minisblack", "rgb"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_tiff_on_its_side_is_not_scrambled(tmp_path, compression, kind, colours, orientation):
    values = ramp(255, 3 if colours == "rgb" else 1, kind)[:10]
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(
        tmp_path / "x.tif", values.squeeze(), photometric=colours, compression=compression, extratags=[tag]
    )
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    assert np.abs(opened(tmp_path / "x.tif")[..., 0].astype(int) - np.rot90(LEVELS[:10], turns)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_pillows(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(3).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as file:
        assert np.array_equal(opened(tmp_path / "x.png"), np.asarray(ImageOps.exif_transpose(file)))


def test_broken_exif_tags_leave_a_picture_as_it_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 20
    file = io.BytesIO()
    picture(3).save(file, "JPEG", exif=exif)
    whole, random = file.getvalue(), np.random.default_rng(0)
    start = whole.index(b"Exif") + 6
    for n in range(200):
        broken = bytearray(whole)
        for place in random.integers(0, 60, 3):
            broken[start + place] = random.integers(256)
        (tmp_path / "x.jpg").write_bytes(broken)
        assert opened(tmp_path / "x.jpg").size == picture(3).width * picture(3).height * 3, n


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "PA"])
def test_every_mode_is_grey_or_colour(tmp_path, mode):
    file = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "PA") else "x.png")
    image = picture(3)
    image.convert(mode).save(file)
    got = read_picture(file)
    assert got.mode == ("L" if mode in ("1", "L", "LA") else "RGB") and not inspect(file).problem
    assert np.abs(np.asarray(got.convert("RGB"), int) - image.convert(mode).convert("RGB")).mean() < 4


def test_what_reading_refuses_is_named_when_the_folder_is_listed(tmp_path):
    tifffile.imwrite(
        tmp_path / "five.tif", np.zeros((9, 9, 5), "u1"), photometric="minisblack", planarconfig="contig"
    )
    tifffile.imwrite(tmp_path / "nan.tif", np.full((9, 9), np.nan, "f4"))
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((9, 9), "c8"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError) as caught:
        list_images(tmp_path)
    assert "4 of 4 images cannot be read" in str(caught.value)
    for name, why in {"five.tif": "(9, 9, 5)", "nan.tif": "not finite", "text.png": "no image"}.items():
        assert f"{name} (" in str(caught.value) and why in str(caught.value)
        with pytest.raises(ValueError, match=f"{name} cannot be decoded"):
            opened(tmp_path / name)


def test_pictures_beyond_pillows_limit_are_read_without_a_word(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 120 x 100 is 12 times as many
    for name in ("x.png", "x.jpg", "x.tif"):
        picture(0, 120, 100).save(tmp_path / name)
        assert opened(tmp_path / name).shape == (100, 120, 3)
    assert not recwarn.list


def test_pictures_that_would_fill_the_memory_are_named_before_anything_runs(tmp_path, monkeypatch):
    for name in ("x.png", "x.jpg", "x.tif"):
        picture(0, 120, 100).save(tmp_path / name)
    tifffile.imwrite(tmp_path / "y.tif", np.zeros((100, 120, 3), "f4"), photometric="rgb")
    monkeypatch.setattr(picture_size, "LARGEST", 10_000)
    monkeypatch.setattr(picture_ends, "LARGEST", 10_000)
    monkeypatch.setattr(picture_ends, "LARGE_JPEG", 1)
    with pytest.raises(ValueError) as caught:
        list_images(tmp_path)
    assert "4 of 4 images" in str(caught.value)
    assert str(caught.value).count("120 x 100 pixels are more than 0 million") == 4


def test_a_jpeg_that_is_not_opened_has_fewer_pixels_than_the_limit():
    assert picture_ends.LARGE_JPEG * 512 <= picture_size.LARGEST


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (3, 5_000)])
def test_a_strip_is_cut_before_it_is_enlarged(shape, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    got = images.adm_centre_crop(values, (32, 32))
    monkeypatch.setattr(images, "LONGEST", 1e9)
    if max(shape) < 10_000:
        whole = images.adm_centre_crop(values, (32, 32))
        assert np.abs(got.astype(int) - whole).max() <= 255 / 4
    assert got.shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", [".gif", ".tif"])
def test_of_several_pictures_in_a_file_the_first_is_read_and_it_is_said(tmp_path, suffix):
    frames = [picture(n) for n in range(3)]
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        frames[0].save(tmp_path / split / f"x{suffix}", save_all=True, append_images=frames[1:])
    data = image_folder(tmp_path)
    assert "of 2 files with several pictures the first is read" in data.description()
    first = np.asarray(frames[0]).astype(int)
    assert np.abs(opened(tmp_path / f"train/x{suffix}").astype(int) - first).mean() < 8


def test_a_format_that_this_pillow_lacks_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".png": "PNG"})
    (tmp_path / "x.avif").write_bytes(b"\0\0\0\x1cftypavif")
    assert inspect(tmp_path / "x.avif").problem == "this Pillow reads no .avif: pip install --upgrade pillow"
