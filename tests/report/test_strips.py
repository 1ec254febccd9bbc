"""Strips of images at the top of a page are cut from grids, also after these were compressed."""

import io
from pathlib import Path

import pytest
import torch
from helpers.fabricated_records import records
from PIL import Image

from latentbench.bench.leaderboard.results import Results
from latentbench.bench.report import image_grids
from latentbench.bench.report.page import embed, strips
from latentbench.bench.report.page.strips import first_row


def pictures(count=30, side=8, channels=1, seed=0):
    return torch.randint(
        256, (count, channels, side, side), dtype=torch.uint8, generator=torch.manual_seed(seed)
    )


def pixels(picture):
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3), (40, 3), (64, 1)])
def test_the_first_row_of_a_grid_is_its_first_images(side, channels):
    images = pictures(20, side, channels)
    row = first_row(image_grids.grid(images, 10), 6)
    expected = image_grids.grid(images[:6], 6)
    gap = image_grids.GAP
    assert torch.equal(
        pixels(row), pixels(expected.crop((gap, gap, expected.width - gap, expected.height - gap)))
    )


def reconstructions(
    folder, labels=("held-out images", "vit none", "vit a_regularizer_with_a_long_name[w=0.01]")
):
    rows = [(label, pictures(16, seed=i)) for i, label in enumerate(labels)]
    return image_grids.write_reconstructions(folder, rows, "digits--reconstructions", "source"), rows[0][1]


def test_names_at_the_left_of_reconstructions_are_left_out(tmp_path):
    file, originals = reconstructions(tmp_path)
    row = first_row(Image.open(file).convert("RGB"), 3)
    assert row.size == (3 * 32 + 2 * image_grids.GAP, 32)
    wanted = image_grids.grid(originals[:3], 3).crop((2, 2, 2 + row.width, 2 + row.height))
    assert torch.equal(pixels(row), pixels(wanted))


@pytest.mark.parametrize("quality", [60, 90])
def test_a_grid_that_was_compressed_with_a_loss_is_cut_at_the_same_places(tmp_path, quality):
    file, _ = reconstructions(tmp_path)
    compressed = io.BytesIO()
    Image.open(file).save(compressed, "WEBP", quality=quality)
    assert first_row(Image.open(compressed).convert("RGB"), 10).size == (10 * 34 - 2, 32)


def test_a_row_with_few_images_is_as_long_as_they_are():
    assert first_row(image_grids.grid(pictures(4), 4)).size == (4 * 34 - 2, 32)


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (200, 100), "white"),
        Image.new("RGB", (200, 100), (128, 128, 128)),
        Image.new("RGB", (1, 1)),
        image_grids.grid(pictures(2), 2),
        image_grids.grid(pictures(20), 10).crop((0, 0, 200, 60)),
    ],
    ids=["white", "grey", "a pixel", "two images", "cut off"],
)
def test_another_picture_has_no_row(picture):
    assert first_row(picture) is None


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_samples_of_the_best_row_are_found_at_its_guidance(tmp_path, suffix):
    found = records(("none", "repa"), ("mar",), ("0",), (1.0, 1.5))
    for i, one in enumerate(r for r in found if not r.real):
        for w in ("1", "1.5"):
            name = image_grids.picture_name(one.cell, f"@{w}")
            images = pictures(16, seed=10 * i + len(w))
            file = image_grids.write_samples(tmp_path / "samples", name, images, torch.arange(16) % 8)
            if suffix == ".webp":
                Image.open(file).save(file.with_suffix(suffix), lossless=True)
                file.unlink()
    results = Results.of(found)
    drawn = embed.find_pictures([tmp_path], results.records)
    assert {one.path.suffix for one in drawn} == {suffix}
    row = next(r for r in results.generation.rows if r.regularizer == "repa" and r.guidance == 1.5)
    strip = strips.samples(drawn, row, "repa")
    assert strip.caption == "mar on repa" and strip.size == (8 * 34 - 2, 32)
    other = next(r for r in results.generation.rows if r.regularizer == "repa" and r.guidance == 1.0)
    assert strips.samples(drawn, other, "repa").source != strip.source
    assert strips.held_out(drawn) is None


def test_committed_studies_have_strips():
    studies = Path(__file__).parents[2] / "results/studies"
    files = sorted(file for file in studies.glob("*/samples/*reconstructions.*"))
    assert files and all(first_row(Image.open(file).convert("RGB")).size[0] == 338 for file in files)
