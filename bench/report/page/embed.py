"""Pictures within a page: those of a results folder as data: addresses, figures as SVG in its colours."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...leaderboard.rows import LABELS
from ...records.record import Record
from .. import image_grids
from .webp import WIDEST, webp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = {"#1f2328": "currentColor", "#8c959f": "var(--faint)"}  # colours of figures' text and axes
SUFFIXES = (".png", ".webp")  # of the pictures in a results folder
ACROSS = 900  # pixels of the page that reconstructions take at most: they have a row of many images
LONG = re.compile(r"\d+\.\d{3,}")  # a coordinate with more digits than are seen
GEOMETRY = re.compile(r'\b(?:d|x|y|x1|x2|y1|y2|points|transform)="[^"]*"')


@dataclass(frozen=True)
class Picture:
    """A picture of one cell, or of a tokenizer (no generator) or a dataset (no tokenizer)."""

    labels: dict[str, str]  # dataset, tokenizer, regularizer, generator; the last ones may be empty
    name: str  # "@1.5" for samples, "--worst" for a picture by an evaluator
    path: Path
    drawing: bool = False  # a figure, not images

    @cached_property
    def _shown(self) -> tuple[bytes, tuple[int, int]]:
        from PIL import Image

        with Image.open(self.path) as picture:
            return webp(picture, WIDEST if self.labels["tokenizer"] else ACROSS, self.drawing)

    @property
    def source(self) -> str:
        """A data: address with the picture as WebP."""
        return address(self._shown[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, for the page's layout before images are decoded."""
        return self._shown[1]


def address(picture: bytes) -> str:
    """The data: address of a picture in WebP."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def find_pictures(folders: Sequence[Path], records: Sequence[Record], of: str = "samples") -> list[Picture]:
    """All pictures in FOLDER/samples (or figures) of the records' cells, in the records' order.

    A file name begins with the labels of its cell, tokenizer or dataset; of several that fit the longest
    counts. If several folders have a file of one name, the first folder counts.
    """
    owners = picture_owners(records)
    pictures: dict[str, Picture] = {}
    for folder in folders:
        for path in sorted(file for file in (folder / of).glob("*") if file.suffix in SUFFIXES):
            ends = [match.start() for match in re.finditer(r"--|@", path.stem)]
            stem = next((path.stem[:end] for end in reversed(ends) if path.stem[:end] in owners), None)
            if stem is not None:
                name = path.stem[len(stem) :]
                pictures.setdefault(path.stem, Picture(owners[stem], name, path, of == "figures"))
    order = {tuple(labels.values()): i for i, labels in enumerate(owners.values())}
    return sorted(
        pictures.values(), key=lambda picture: (order[tuple(picture.labels.values())], picture.name)
    )


def picture_owners(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """{start of a file's name: labels} of all cells, tokenizers and datasets."""
    owners: dict[str, dict[str, str]] = {}
    for record in records:
        for kept in (1, 3, 4):
            labels = {name: record.cell[name] if i < kept else "" for i, name in enumerate(LABELS)}
            stem = image_grids.file_name(image_grids.picture_name(labels, "")).removesuffix(".png")
            owners.setdefault(stem, labels)
    return owners


def svg(figure: Figure, unique: str) -> str:
    """A figure as inline SVG: transparent, in currentColor, scalable, its ids prefixed by `unique`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # Text stays text in the reader's font: smaller, and it can be searched and selected.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": unique}):
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"| height="[\d.]+pt"', r"\1", text, count=2)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", text)
    for colour, of_page in INK.items():
        text = text.replace(colour, of_page)
    text = GEOMETRY.sub(lambda part: LONG.sub(_two_decimals, part[0]), text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's style sheet has its own
    return re.sub(r"\s*\n\s*", " ", text)


def _two_decimals(coordinate: re.Match[str]) -> str:
    return f"{float(coordinate[0]):.2f}"
