"""Unicode's emoji in colour, from the bitmaps of Google's Noto Color Emoji: without a download."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import fontTools  # noqa: F401  # here, so that its absence hides this part and no other
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..api import Dataset, ImageSpec, Split, from_uint8
from ..data.class_folders import class_text, split_text
from ..data.emoji import BitmapFont, Emoji, held_out, read_list, square
from ..data.split_folders import SplitFolders
from ..registry import register
from ..store.hashes import sha256
from ..store.user_paths import user_path

FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "~/.fonts/NotoColorEmoji.ttf",
)
LISTS = ("/usr/share/unicode/emoji/emoji-test.txt", "/usr/share/unicode/emoji-test.txt")
SPLITS: tuple[Split, ...] = ("train", "val")


class Drawn(NamedTuple):
    """The emoji of a font with their bitmaps, each bitmap once."""

    emoji: list[Emoji]
    bitmaps: list[bytes]
    missing: int  # that the font doesn't have
    repeated: int  # that look as others, such as flags


@register("emoji")
class EmojiPictures(Dataset):
    """Some 3,600 emoji in colour, in the nine groups of Unicode (`pip install -e ".[emoji]"`).

    They are the bitmaps, 136 x 128 pixels, of Google's Noto Color Emoji (SIL Open Font License) on white, and
    need two packages of Debian: `apt-get install fonts-noto-color-emoji unicode-data`. Of each group a fifth
    is `val`; emoji that differ in skin tone, gender, hair, direction, colour or hour are in one split.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=4, le=136)] = 32,
        font: str | None = None,
        groups: str | None = None,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ) -> None:
        """
        Args:
            size: side of the square in pixels.
            font: the file NotoColorEmoji.ttf, or another font with bitmaps (a CBDT table); null: the usual
                places.
            groups: Unicode's file emoji-test.txt; null: the usual places.
            held_out: fraction of every group that is `val`.
        """
        self.image = ImageSpec(channels=3, height=size, width=size)
        self.fonts = [user_path(file) for file in (FONTS if font is None else [font])]
        self.lists = [user_path(file) for file in (LISTS if groups is None else [groups])]
        self.held_out = held_out

    def fetch(self) -> None:
        for file, searched, package, option in (
            (self._font_file, self.fonts, "fonts-noto-color-emoji", "font"),
            (self._list_file, self.lists, "unicode-data", "groups"),
        ):
            if file is None:
                raise FileNotFoundError(
                    f"none of {', '.join(map(str, searched))} is here: on Debian `apt-get install {package}` "
                    f"puts it there, or name it by `{option}`"
                )

    def fingerprint(self) -> str | None:
        if self._font_file is None or self._list_file is None:
            return None
        text = f"size={self.image.height} held_out={self.held_out} version={self._font.version}"
        text += f" font={sha256(self._font_file)} groups={sha256(self._list_file)}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def classes(self) -> int:  # type: ignore[override]
        return len(self._groups)

    def size(self, split: Split) -> int:
        return len(self._rows[split])

    def images(self, split: Split, index: Tensor) -> Tensor:
        return from_uint8(self.levels(split, index))

    def levels(self, split: Split, index: Tensor) -> Tensor:
        return self._levels[self._rows[split][index]]

    def labels(self, split: Split) -> Tensor:
        return self._labels[self._rows[split]]

    def description(self) -> list[str]:
        counts = {split: self.size(split) for split in SPLITS}
        labels = {split: self.labels(split).numpy() for split in SPLITS}
        groups = class_text([group.encode() for group in self._groups], labels)
        drawn = self._drawn
        left_out = f"{drawn.repeated:,} that look as others, {drawn.missing:,} that the font lacks"
        return [
            f"{split_text(counts, SplitFolders(b'train', b'val'), '')}; {groups}",
            f"{self._font_file}: {self._font.version.split(';')[0]}; left out: {left_out}",
        ]

    @cached_property
    def _font_file(self) -> Path | None:
        return next((file for file in self.fonts if file.is_file()), None)

    @cached_property
    def _list_file(self) -> Path | None:
        return next((file for file in self.lists if file.is_file()), None)

    @cached_property
    def _font(self) -> BitmapFont:
        self.fetch()
        assert self._font_file is not None
        return BitmapFont(self._font_file)

    @cached_property
    def _drawn(self) -> Drawn:
        self.fetch()
        assert self._list_file is not None
        listed = read_list(self._list_file)
        pngs = [self._font.png(emoji.codes) for emoji in listed]
        first = {png: emoji for emoji, png in reversed(list(zip(listed, pngs, strict=True))) if png}
        own = [(emoji, png) for emoji, png in zip(listed, pngs, strict=True) if png and first[png] is emoji]
        if not own:
            raise ValueError(f"{self._font_file} has none of the {len(listed):,} emoji of {self._list_file}")
        missing = pngs.count(None)
        return Drawn([e for e, _ in own], [p for _, p in own], missing, len(listed) - missing - len(own))

    @cached_property
    def _groups(self) -> list[str]:
        """The groups in Unicode's order."""
        return list(dict.fromkeys(emoji.group for emoji in self._drawn.emoji))

    @cached_property
    def _labels(self) -> Tensor:
        numbers = [self._groups.index(emoji.group) for emoji in self._drawn.emoji]
        return torch.from_numpy(np.array(numbers, np.int64))

    @cached_property
    def _rows(self) -> dict[Split, Tensor]:
        val = held_out(self._drawn.emoji, self.held_out)
        return {"train": torch.from_numpy(np.flatnonzero(~val)), "val": torch.from_numpy(np.flatnonzero(val))}

    @cached_property
    def _levels(self) -> Tensor:
        pictures = [square(png, self.image.height) for png in self._drawn.bitmaps]
        return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())
