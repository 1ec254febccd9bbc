"""Unicode's emoji: the list in `emoji-test.txt`, their families, and their bitmaps in a colour font."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from fontTools.ttLib import TTFont, TTLibError
from numpy.typing import NDArray

from .images import adm_centre_crop

Codes = tuple[int, ...]

LINE = re.compile(r"([0-9A-F ]+);\s*([\w-]+)\s*#\s*\S+\s+E[\d.]+\s+(.*)")
LIGATURES, EXTENSION = 4, 7  # kinds of lookups in a font's GSUB table
PNG_FORMATS = (17, 18, 19)  # bitmaps of CBDT tables

JOINER, AS_PICTURE = 0x200D, 0xFE0F
TONES = range(0x1F3FB, 0x1F400)
GENDERS_AND_DIRECTIONS = (0x2640, 0x2642, 0x27A1)  # signs that make "woman running" of "person running"
# Emoji that are drawn alike, by the one that stands for them in the key of their family.
ALIKE: Mapping[int, int] = {
    **dict.fromkeys((0x1F468, 0x1F469), 0x1F9D1),  # man and woman: person
    **dict.fromkeys((0x1F466, 0x1F467), 0x1F9D2),  # boy and girl: child
    **dict.fromkeys((0x1F474, 0x1F475), 0x1F9D3),  # old man and woman: older person
    **dict.fromkeys((0x1F385, 0x1F936), 0x1F385),  # Father and Mother Christmas
    **dict.fromkeys((0x1F934, 0x1F478), 0x1FAC5),  # prince and princess: person with crown
    **dict.fromkeys((0x1F57A, 0x1F483), 0x1F483),  # dancers
    **dict.fromkeys((0x1F471, 0x1F9D4), 0x1F9D1),  # with blond hair, with a beard
    **dict.fromkeys((0x1F46C, 0x1F46D), 0x1F46B),  # two men, two women holding hands
    **dict.fromkeys(range(0x1F550, 0x1F568), 0x1F550),  # clocks
    **dict.fromkeys(range(0x1F311, 0x1F319), 0x1F311),  # phases of the moon
    **dict.fromkeys((0x1F534, *range(0x1F7E0, 0x1F7E5), 0x1F535, 0x26AA, 0x26AB), 0x1F534),  # discs
    **dict.fromkeys((*range(0x1F7E5, 0x1F7EC), 0x2B1B, 0x2B1C), 0x1F7E5),  # squares
    **dict.fromkeys((0x25AA, 0x25AB, *range(0x25FB, 0x25FF)), 0x1F7E5),
    **dict.fromkeys((*range(0x1F499, 0x1F49D), 0x1F5A4, 0x1F90D, 0x1F90E, 0x1F9E1), 0x2764),  # hearts
    **dict.fromkeys(range(0x1FA75, 0x1FA78), 0x2764),
    **dict.fromkeys(range(0x1F4D7, 0x1F4DA), 0x1F4D5),  # books
    **dict.fromkeys((0x2B05, 0x2B06, 0x2B07, 0x2194, 0x2195, *range(0x2196, 0x219A)), 0x27A1),  # arrows
    **dict.fromkeys((0x2603, 0x26C4), 0x2603),  # snowmen
    **dict.fromkeys((0x2753, 0x2754, 0x2755, 0x2757), 0x2753),  # question and exclamation marks
}
HAIR = range(0x1F9B0, 0x1F9B4)
KEY = 0x20E3  # with a digit
HANDSHAKE, HANDS = 0x1F91D, (0x1FAF1, 0x1FAF2)  # a handshake of two skin tones is of two hands
COUPLES = {0x1F48F: 0x1F48B, 0x1F491: 0x2764, 0x1F46B: HANDSHAKE}  # and the signs between two people
FAMILY = 0x1F46A


@dataclass(frozen=True)
class Emoji:
    """One entry of Unicode's list."""

    codes: Codes
    group: str
    name: str

    @property
    def family(self) -> Codes:
        """A key that emoji share which differ in skin tone, gender, hair, direction, colour or hour."""
        left_out = (JOINER, AS_PICTURE, *TONES, *HAIR)
        members = tuple(ALIKE.get(code, code) for code in self.codes if code not in left_out)
        if set(HANDS) <= set(members):
            return (HANDSHAKE,)
        people = sum(code in (0x1F9D1, 0x1F9D2) for code in members)
        for couple, sign in COUPLES.items():
            if couple in members or people > 1 and sign in members:
                return (couple,)
        if FAMILY in members or people > 1:
            return (FAMILY,)
        if KEY in members:
            return (KEY,)
        return tuple(code for code in members if code not in GENDERS_AND_DIRECTIONS) or members


def read_list(file: Path) -> list[Emoji]:
    """The emoji of `emoji-test.txt` in its order, each once, without components such as skin tones.

    Raises:
        ValueError: the file is no such list.
    """
    group, found = "", []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif (entry := LINE.match(line)) and entry[2] == "fully-qualified":
            found.append(Emoji(tuple(int(code, 16) for code in entry[1].split()), group, entry[3]))
    if not found or not all(emoji.group for emoji in found):
        raise ValueError(f"{file} is no list of emoji in groups, as Unicode's emoji-test.txt is")
    return found


class BitmapFont:
    """The bitmaps of a font with a CBDT table, such as NotoColorEmoji.ttf."""

    def __init__(self, file: Path) -> None:
        """
        Raises:
            ValueError: it is no font, or has no bitmaps.
        """
        try:
            font = TTFont(file, lazy=True)
            if "CBDT" not in font or "CBLC" not in font:
                raise ValueError(f"{file} has no bitmaps (a CBDT table): Debian's fonts-noto-color-emoji has")
            self.version = str(font["name"].getDebugName(5) or font["head"].fontRevision)
            self._glyphs: dict[int, str] = font.getBestCmap() or {}
            self._ligatures = _ligatures(font)
            self._bitmaps: dict[str, Any] = max(font["CBDT"].strikeData, key=len, default={})
        except (TTLibError, OSError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is no font that can be read: {error}") from error

    def png(self, codes: Codes) -> bytes | None:
        """The bitmap of an emoji; None if the font has none."""
        glyphs = [self._glyphs.get(code, "") for code in codes if code != AS_PICTURE]
        for ligatures in self._ligatures:
            glyphs = _joined(glyphs, ligatures)
        bitmap = self._bitmaps.get(glyphs[0]) if len(glyphs) == 1 else None
        return bytes(bitmap.imageData) if bitmap is not None and hasattr(bitmap, "imageData") else None


Ligatures = Mapping[
    str, Sequence[tuple[Sequence[str], str]]
]  # by the first glyph: the others, and the result


def _ligatures(font: TTFont) -> list[Ligatures]:
    """The tables of ligatures in a font's order, longer ligatures first."""
    if "GSUB" not in font or font["GSUB"].table.LookupList is None:
        return []
    tables: list[Ligatures] = []
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = table.ExtSubTable if lookup.LookupType == EXTENSION else table
            if table.LookupType == LIGATURES:
                rules = {
                    first: sorted(
                        ((one.Component, one.LigGlyph) for one in own), key=lambda one: -len(one[0])
                    )
                    for first, own in table.ligatures.items()
                }
                tables.append(rules)
    return tables


def _joined(glyphs: Sequence[str], ligatures: Ligatures) -> list[str]:
    """Glyphs with ligatures in place of the sequences that they stand for."""
    result, place = [], 0
    while place < len(glyphs):
        glyph, length = glyphs[place], 1
        for rest, joined in ligatures.get(glyph, ()):
            if list(glyphs[place + 1 : place + 1 + len(rest)]) == list(rest):
                glyph, length = joined, 1 + len(rest)
                break
        result.append(glyph)
        place += length
    return result


def square(png: bytes, size: int) -> NDArray[np.uint8]:
    """A bitmap on a white square, uint8 (size, size, 3)."""
    from PIL import Image

    picture = Image.open(BytesIO(png)).convert("RGBA")
    side = max(picture.size)
    ground = Image.new("RGBA", (side, side), "white")
    ground.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return adm_centre_crop(np.asarray(ground.convert("RGB")), (size, size))


def held_out(emoji: Sequence[Emoji], fraction: float) -> NDArray[np.bool_]:
    """Whether each emoji is held out: of every group a fraction, and families as a whole.

    Families come in the order of their keys' hashes, and each is held out that fits into what is left of its
    group's share.
    """
    families: dict[Codes, list[int]] = {}
    for place, one in enumerate(emoji):
        families.setdefault(one.family, []).append(place)
    groups = [one.group for one in emoji]
    left = {group: round(fraction * groups.count(group)) for group in dict.fromkeys(groups)}
    chosen = np.zeros(len(emoji), bool)
    for key in sorted(families, key=lambda key: hashlib.sha256(str(key).encode()).digest()):
        places = families[key]
        group = groups[places[0]]
        if len(places) <= left[group]:
            chosen[places] = True
            left[group] -= len(places)
    return chosen
