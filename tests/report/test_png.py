"""PNGs in few bytes: no pixel changes, unless fewer colours were asked for."""

import io
import random

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from latentbench.bench.report import write
from latentbench.bench.report.png import COLOURS, GREYS, SOURCE, fewer_colours, is_grey, png
from latentbench.bench.stages.scores import rendered


def picture(kind):
    rng = np.random.default_rng(0)
    greys = rng.integers(0, 256, (40, 50, 1), dtype=np.uint8).repeat(3, 2)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    few = rng.choice([[255, 0, 0], [0, 0, 255], [250, 250, 250]], (40, 50)).astype(np.uint8)
    many = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    drawn = np.full((40, 50, 3), 255, dtype=np.uint8)
    drawn[10:20] = np.linspace((255, 0, 0), (255, 255, 255), 50)
    kinds = {"greys": greys, "ramp": ramp, "few": few, "many": many, "drawn": drawn, "one": few[:1, :1]}
    return Image.fromarray(kinds[kind])


def pixels(image):
    return np.asarray(image.convert("RGB")).astype(int)


KINDS = ["greys", "ramp", "few", "many", "drawn", "one"]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_the_source_are_kept_in_no_more_bytes(kind):
    image, plain = picture(kind), io.BytesIO()
    content = png(image, "made from this")
    again = Image.open(io.BytesIO(content))
    assert (pixels(again) == pixels(image)).all() and again.info[SOURCE] == "made from this"
    image.save(plain, format="PNG")
    assert len(png(image)) <= len(plain.getvalue()) and png(image) == png(image)


@pytest.mark.parametrize(("kind", "mode"), [("greys", "L"), ("few", "P"), ("many", "RGB")])
def test_the_mode_is_the_smallest_that_loses_nothing(kind, mode):
    assert Image.open(io.BytesIO(png(picture(kind)))).mode == mode


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_colours_are_near_and_once_is_enough(kind):
    image = picture(kind)
    fewer = fewer_colours(image)
    limit = GREYS if is_grey(image) else COLOURS
    assert len(fewer.getcolors(1 << 24)) <= limit
    if is_grey(image):
        assert np.abs(pixels(fewer) - pixels(image)).max() <= 255 / (GREYS - 1) / 2 + 0.5
    if kind == "drawn":
        assert np.abs(pixels(fewer) - pixels(image)).mean() < 1
    assert (pixels(fewer_colours(fewer)) == pixels(fewer)).all()


def test_black_and_white_stay_black_and_white():
    image = Image.fromarray(np.array([[0, 255] * 8], dtype=np.uint8)).convert("RGB")
    assert (pixels(fewer_colours(image)) == pixels(image)).all()


def test_a_picture_with_few_colours_stays_as_it_is():
    rng = random.Random(0)
    colours = [(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(COLOURS)]
    image = Image.new("RGB", (COLOURS, 1))
    image.putdata(colours)
    assert (pixels(fewer_colours(image)) == pixels(image)).all()


@pytest.mark.parametrize("draw", ["an analysis's", "an evaluator's"])
def test_a_figure_without_a_background_keeps_its_shades(draw):
    """Boxes of opacity 0.2 and 0.8 on white have the colours that blending by hand gives."""
    figure = Figure(figsize=(2, 1))
    figure.patch.set_alpha(0)
    for left, opacity in ((0, 0.2), (0.5, 0.8)):
        figure.add_artist(Rectangle((left, 0), 0.5, 1, color=(0, 0, 1), alpha=opacity, lw=0))
    if draw == "an evaluator's":
        drawn = Image.fromarray(rendered(figure).numpy())
    else:
        with Image.open(io.BytesIO(write._drawn(figure))) as picture:
            drawn = picture.convert("RGB")
    for place, opacity in ((0.25, 0.2), (0.75, 0.8)):
        colour = drawn.getpixel((round(place * drawn.width), drawn.height // 2))
        blended = 255 * (1 - opacity)
        assert colour == pytest.approx((blended, blended, 255), abs=2)
