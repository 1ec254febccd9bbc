"""Emoji of a colour font: Unicode's list, ligatures as a shaper makes them, no family in both splits."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.bitmap_fonts import bitmap_font, emoji_list, png
from helpers.run import bench_inline
from PIL import Image, ImageDraw, ImageFont, features

from latentbench.bench.contracts.common import Part
from latentbench.bench.contracts.datasets import CHECKS, Scene
from latentbench.bench.data.emoji import BitmapFont, Emoji, held_out, read_list
from latentbench.bench.datasets.emoji import FONTS, LISTS
from latentbench.bench.registry import create

SPLITS = ("train", "val")
TONES = [0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF]
FACES, HANDS = range(0x1F600, 0x1F60A), range(0x1F44A, 0x1F44F)
FLAGS = [(0x1F1E6, 0x1F1E8 + n) for n in range(5)]

needs_debian = pytest.mark.skipif(
    not (Path(FONTS[0]).is_file() and Path(LISTS[0]).is_file()),
    reason="needs Debian's fonts-noto-color-emoji and unicode-data",
)


def sets():
    """The groups of a small list: 10 faces, 5 hands in 6 tones, 5 flags, a heart with a selector."""
    return {
        "Smileys & Emotion": {(code,): f"face {code:X}" for code in FACES} | {(0x2764, 0xFE0F): "red heart"},
        "People & Body": {(code, *tone): "hand" for code in HANDS for tone in [(), *((t,) for t in TONES)]},
        "Component": {(tone,): "tone" for tone in TONES},
        "Flags": {codes: "flag" for codes in FLAGS},
    }


def colours(count):
    return [tuple(map(int, c)) for c in np.random.default_rng(0).integers(0, 230, (count, 3))]


@pytest.fixture
def files(tmp_path):
    """A font and a list, as options."""
    listed = sets()
    codes = [own for group in listed.values() for own in group]
    bitmaps = {
        tuple(code for code in own if code != 0xFE0F): png((*colour, 255))
        for own, colour in zip(codes, colours(len(codes)), strict=True)
    }
    single = {(code,): png((1, 2, 3, 255)) for own in FLAGS for code in own}
    font = bitmap_font(tmp_path / "font.ttf", single | bitmaps)
    return {"font": str(font), "groups": str(emoji_list(tmp_path / "list.txt", listed))}


def all_levels(data, split):
    return data.levels(split, torch.arange(data.size(split)))


def test_the_classes_are_unicode_s_groups_without_components(files):
    data = create("datasets", "emoji", size=16, **files)
    assert data.classes == 3 and data.size("train") + data.size("val") == 11 + 30 + 5
    line, source = data.description()
    assert "3 classes: Smileys & Emotion " in line and "People & Body" in line and "Component" not in line
    assert source.endswith("Version 1.0; left out: 0 that look as others, 0 that the font lacks")
    counts = Counter(data.labels("val").tolist())
    assert counts == {0: 2, 1: 6, 2: 1}  # a fifth of 11, 30 and 5


def test_pictures_lie_on_a_white_square(files, tmp_path):
    font = bitmap_font(tmp_path / "two.ttf", {(65,): png((255, 0, 0, 255)), (66,): png((0, 0, 255, 128))})
    listed = emoji_list(tmp_path / "two.txt", {"A": {(65,): "a", (66,): "b"}})
    data = create("datasets", "emoji", size=20, font=str(font), groups=str(listed), held_out=0.5)
    levels = torch.cat([all_levels(data, split) for split in SPLITS])
    inks = {tuple(image[:, 10, 10].tolist()) for image in levels}
    assert inks == {(255, 0, 0), (127, 127, 255)}
    assert all(image[:, row, 10].tolist() == [255] * 3 for image in levels for row in (0, 1, 5, 14, 19))
    assert all(image[:, 6, 10].tolist() != [255] * 3 for image in levels)  # 20 x 16, so two rows are added


def test_ligatures_are_joined_and_selectors_ignored(files):
    font = BitmapFont(Path(files["font"]))
    for codes in [(0x2764,), (0x2764, 0xFE0F), (0x1F44A,), (0x1F44A, 0x1F3FF), FLAGS[2]]:
        assert font.png(codes) is not None
    assert font.png((0x2764,)) == font.png((0x2764, 0xFE0F))
    assert font.png((0x1F44A,)) != font.png((0x1F44A, 0x1F3FF))
    for codes in [(0x1F600, 0x1F3FF), (0x1F1E6, 0x1F1E6), (0x1F999,), (0x1F44A, 0x200D, 0x1F44B)]:
        assert font.png(codes) is None


def test_the_longest_ligature_wins(tmp_path):
    bitmaps = {codes: png((*colour, 255)) for codes, colour in zip(
        [(65,), (66,), (67,), (65, 66), (65, 66, 67)], colours(5), strict=True)}  # fmt: skip
    font = BitmapFont(bitmap_font(tmp_path / "font.ttf", bitmaps))
    assert all(font.png(codes) == image for codes, image in bitmaps.items())


def test_what_the_font_lacks_and_what_looks_as_another_is_left_out_and_counted(tmp_path):
    same = png((9, 9, 9, 255))
    font = bitmap_font(tmp_path / "font.ttf", {(65,): same, (66,): same, (67,): png((1, 99, 1, 255)),
                                               (68,): png((200, 9, 1, 255))})  # fmt: skip
    listed = emoji_list(tmp_path / "list.txt", {"A": {(code,): chr(code) for code in range(65, 71)}})
    data = create("datasets", "emoji", font=str(font), groups=str(listed), held_out=0.4)
    assert data.size("train") + data.size("val") == 3
    assert data.description()[1].endswith("left out: 1 that look as others, 2 that the font lacks")


ALIKE = {
    "skin tones": ["👋", "👋🏻", "👋🏿"],
    "genders of an activity": ["🏃", "🏃‍♀️", "🏃‍♂️", "🏃🏽‍♀️", "🏃‍➡️", "🏃🏿‍♂️‍➡️"],
    "genders of a job": ["🧑‍🔬", "👩‍🔬", "👨🏽‍🔬"],
    "hair": ["🧑", "👩", "👨🏿", "🧑‍🦰", "👩🏼‍🦳", "👱", "👱‍♀️", "🧔", "🧔🏽‍♂️"],
    "children": ["🧒", "👦", "👧🏿"],
    "kisses": ["💏", "💏🏽", "👩‍❤️‍💋‍👨", "🧑🏻‍❤️‍💋‍🧑🏿"],
    "couples": ["💑", "👩‍❤️‍👨", "🧑🏻‍❤️‍🧑🏿"],
    "holding hands": ["👫", "👬", "👭🏽", "🧑‍🤝‍🧑", "👩🏿‍🤝‍👨🏻"],
    "handshakes": ["🤝", "🤝🏽", "🫱🏻‍🫲🏿"],
    "families": ["👪", "👨‍👩‍👧‍👦", "👨‍👦"],
    "clocks": ["🕛", "🕧", "🕐"],
    "moons": ["🌑", "🌔", "🌘"],
    "hearts": ["❤️", "🧡", "💛", "🖤", "🩷"],
    "discs": ["🔴", "🟠", "⚫"],
    "squares": ["🟥", "⬛", "▪️", "◻️"],
    "books": ["📕", "📗", "📙"],
    "keys": ["#️⃣", "1️⃣", "9️⃣"],
    "arrows": ["⬆️", "↗️", "➡️", "↔️"],
    "snowmen": ["☃️", "⛄"],
}  # fmt: skip
APART = [
    "🏃",
    "🚶",
    "🧑‍🔬",
    "🧑‍🏫",
    "💋",
    "😀",
    "😃",
    "🇫🇷",
    "🇩🇪",
    "🏳️‍🌈",
    "🏳️‍⚧️",
    "🏴‍☠️",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "🐕",
    "🐕‍🦺",
    "🫱",
    "🫲",
    "☎️",
    "♀️",
    "♂️",
    "👣",
    "⌚",
]


def family(text):
    return Emoji(tuple(map(ord, text)), "any", text).family


@pytest.mark.parametrize("kind", ALIKE)
def test_emoji_that_are_drawn_alike_are_a_family(kind):
    keys = {family(text) for text in ALIKE[kind]}
    assert len(keys) == 1
    others = [text for name, texts in ALIKE.items() if name != kind for text in texts] + APART
    assert keys.isdisjoint(family(text) for text in others if text not in ALIKE[kind])


def test_other_emoji_are_families_of_their_own():
    assert len({family(text) for text in APART}) == len(APART)


def test_families_are_held_out_as_a_whole_whatever_the_order_of_the_list(files):
    listed = read_list(Path(files["groups"]))
    chosen = held_out(listed, 0.3)
    by_family = {}
    for one, own in zip(listed, chosen, strict=True):
        by_family.setdefault(one.family, set()).add(bool(own))
    assert all(len(sides) == 1 for sides in by_family.values())
    order = np.random.default_rng(0).permutation(len(listed))
    again = held_out([listed[i] for i in order], 0.3)
    assert {listed[i].codes for i in order[again]} == {listed[i].codes for i in np.flatnonzero(chosen)}
    # A family larger than its group's share stays in train.
    assert not held_out([Emoji((0x1F44A, tone), "A", "") for tone in TONES], 0.2).any()


def test_the_fingerprint_is_that_of_the_files_content_and_the_options(files, tmp_path):
    def fingerprint(**options):
        return create("datasets", "emoji", **(files | options)).fingerprint()

    first = fingerprint()
    moved = Path(files["font"]).rename(tmp_path / "other.ttf")
    assert fingerprint(font=str(moved)) == first and fingerprint() is None
    assert len({first, *(fingerprint(font=str(moved), **o) for o in ({"size": 16}, {"held_out": 0.3}))}) == 3
    listed = Path(files["groups"])
    listed.write_text(listed.read_text().replace("Flags", "Pennants"))
    assert fingerprint(font=str(moved)) != first
    bitmaps = {(code,): png((code % 250, 0, 9, 255)) for code in FACES}
    old, new = (
        bitmap_font(tmp_path / "f.ttf", bitmaps, v).read_bytes() for v in ("Version 1.0", "Version 2.0")
    )
    assert old != new


@pytest.mark.parametrize(
    ("option", "package"), [("font", "fonts-noto-color-emoji"), ("groups", "unicode-data")]
)
def test_a_missing_file_is_named_with_its_package(files, option, package):
    data = create("datasets", "emoji", **(files | {option: "/nowhere/x"}))
    assert data.fingerprint() is None
    with pytest.raises(FileNotFoundError, match=f"none of /nowhere/x is here: .*{package}.* by `{option}`"):
        data.fetch()


def test_files_that_are_something_else_are_named(files, tmp_path):
    (tmp_path / "x").write_text("hello")
    with pytest.raises(ValueError, match="x is no font that can be read"):
        create("datasets", "emoji", **(files | {"font": str(tmp_path / "x")})).fingerprint()
    with pytest.raises(ValueError, match="x is no list of emoji in groups"):
        create("datasets", "emoji", **(files | {"groups": str(tmp_path / "x")})).size("train")
    from matplotlib import get_data_path

    plain = Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    with pytest.raises(ValueError, match="DejaVuSans.ttf has no bitmaps"):
        create("datasets", "emoji", **(files | {"font": str(plain)})).fingerprint()
    letters = bitmap_font(tmp_path / "letters.ttf", {(65,): png((1, 1, 1, 255))})
    with pytest.raises(ValueError, match="letters.ttf has none of the 46 emoji of"):
        create("datasets", "emoji", **(files | {"font": str(letters)})).size("train")


def test_all_promises_of_datasets_are_kept(files):
    scene = Scene(Part("datasets", "emoji", {"size": 16, **files}))
    for check in CHECKS[:-1]:
        check(scene)


MATRIX = """\
name: pictures
dataset: {use: emoji, size: 16, font: font.ttf, groups: list.txt}
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


def test_emoji_are_planned_and_run_and_without_their_files_it_is_said_what_to_install(files, tmp_path):
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    done = bench_inline("run", "-q", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "emoji: 37 train + 9 val images; 3 classes" in done.stdout
    (tmp_path / "font.ttf").unlink()
    for command in ("plan", "run"):
        done = bench_inline(command, cwd=tmp_path, home=tmp_path / "home")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert (
            "matrix.yaml:2:1: none of font.ttf is here: on Debian `apt-get install fonts-noto" in done.stderr
        )


@needs_debian
def test_debian_s_font_has_all_emoji_and_the_splits_have_all_groups():
    data = create("datasets", "emoji")
    sizes = [data.size(split) for split in SPLITS]
    assert 3000 < sum(sizes) < 6000 and abs(sizes[1] / sum(sizes) - 0.2) < 0.01
    assert data.classes == 9 and all(len(data.labels(split).unique()) == 9 for split in SPLITS)
    assert data.description()[1].endswith(" 0 that the font lacks")
    for split in SPLITS:
        assert len({image.tobytes() for image in all_levels(data, split).numpy()}) > 0.99 * data.size(split)


@needs_debian
@pytest.mark.skipif(not features.check("raqm"), reason="needs a Pillow with raqm, which shapes text")
def test_bitmaps_are_those_that_a_text_shaper_draws():
    own = BitmapFont(Path(FONTS[0]))
    shaper = ImageFont.truetype(FONTS[0], 109, layout_engine=ImageFont.Layout.RAQM)
    texts = [text for texts in ALIKE.values() for text in texts if "➡" not in text[1:]] + APART
    for text in texts:
        canvas = Image.new("RGBA", (136, 128), "white")
        box = shaper.getbbox(text)
        ImageDraw.Draw(canvas).text((-box[0], -box[1]), text, font=shaper, embedded_color=True)
        bitmap = Image.open(io.BytesIO(own.png(tuple(map(ord, text))))).convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", bitmap.size, "white"), bitmap)
        difference = np.abs(np.asarray(canvas, int) - np.asarray(white, int))[..., :3]
        assert difference.max() <= 2, text
