"""Pictures of a page: as sharp as they are shown, small, and the same bytes when made twice."""

import io
import random

import pytest
from PIL import Image, ImageDraw

from latentbench.bench.report.page.webp import COLOURS, DENSE, webp


def noise(size, colours=None, seed=0):
    """A picture that compresses badly, of all colours or of the given grey levels."""
    drawn = random.Random(seed)
    picture = Image.new("RGB", size)
    pick = (lambda: (drawn.choice(colours),) * 3) if colours else (lambda: tuple(drawn.randbytes(3)))
    picture.putdata([pick() for _ in range(size[0] * size[1])])
    return picture


def drawing():
    """A drawing with smooth edges, which has many colours and few that matter."""
    picture = Image.new("RGB", (1600, 1200), "white")
    pen = ImageDraw.Draw(picture)
    for i in range(12):
        pen.ellipse((100 * i, 80 * i, 100 * i + 300, 80 * i + 200), fill=(20 * i, 128, 255 - 20 * i), width=9)
    return picture.resize((400, 300))


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_picture_of_few_colours_keeps_every_pixel(mode):
    digits = noise((80, 40), [0, 17, 128, 255]).resize((320, 160), Image.Resampling.NEAREST).convert(mode)
    data, size = webp(digits)
    assert size == (320, 160) and opened(data).tobytes() == digits.convert("RGB").tobytes()


@pytest.mark.parametrize("size", [(342, 274), (961, 20), (4130, 2066), (5000, 1)])
def test_a_picture_has_no_more_pixels_than_a_dense_screen_shows(size):
    data, shown = webp(noise((size[0] // 10, max(1, size[1] // 10))).resize(size), 480)
    assert opened(data).size == shown and shown[0] == min(size[0], DENSE * 480)
    assert shown[1] == pytest.approx(size[1] * shown[0] / size[0], abs=1) and shown[1] >= 1


def test_a_drawing_is_smaller_than_its_png_and_looks_the_same():
    picture, png = drawing(), io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    data, _ = webp(picture, drawing=True)
    assert len(data) < 0.75 * png.tell() and len(opened(data).getcolors()) <= COLOURS
    gaps = [abs(a - b) for a, b in zip(picture.tobytes(), opened(data).tobytes(), strict=True)]
    assert sum(gaps) / len(gaps) < 2


def test_photographs_lose_detail_that_nobody_sees_in_a_drawing_too():
    smooth = noise((12, 12)).resize((300, 300), Image.Resampling.BICUBIC)
    for kind in (False, True):
        data, _ = webp(smooth, drawing=kind)
        assert len(opened(data).getcolors(300 * 300)) > COLOURS


def test_the_same_picture_gives_the_same_bytes():
    assert webp(noise((200, 100))) == webp(noise((200, 100)))
    assert webp(drawing(), drawing=True) == webp(drawing(), drawing=True)
