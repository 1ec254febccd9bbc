"""Pictures as text that a page can hold: PNGs as data: addresses, figures as SVG in the page's colours."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...leaderboard.rows import LABELS
from ...records.record import Record
from .. import image_grids

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = {"#1f2328": "currentColor", "#8c959f": "var(--faint)"}  # what figures draw text and axes with
SIZE = slice(16, 24)  # of a PNG: width and height, big-endian


@dataclass(frozen=True)
class Picture:
    """A PNG of one cell, or of a tokenizer (no generator) or a dataset (no tokenizer)."""

    labels: dict[str, str]  # dataset, tokenizer, regularizer, generator; empty where it is of all of them
    name: str  # "@1.5" of samples, "--worst" of what an evaluator drew
    path: Path

    @property
    def source(self) -> str:
        """A data: address with the whole file."""
        return f"data:image/png;base64,{base64.b64encode(self.path.read_bytes()).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, so that a page knows its layout before it decodes."""
        with self.path.open("rb") as file:
            head = file.read(SIZE.stop)[SIZE]
        return int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")


def find_pictures(folders: Sequence[Path], records: Sequence[Record], of: str = "samples") -> list[Picture]:
    """All pictures in FOLDER/samples (or figures) that belong to the records' cells, in the records' order.

    A file name begins with its cell's labels; the cell with the most labels that fit owns it. Of one name in
    several folders the first counts.
    """
    owners = _owners(records)
    chosen: dict[str, Picture] = {}
    for folder in folders:
        for path in sorted((folder / of).glob("*.png")):
            if path.name not in chosen and (picture := _owned(path, owners)):
                chosen[path.name] = picture
    order = {tuple(labels.values()): i for i, labels in enumerate(owners.values())}
    return sorted(chosen.values(), key=lambda one: (order[tuple(one.labels.values())], one.name))


def _owners(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """{start of a file's name: labels} of all cells, tokenizers and datasets."""
    owners: dict[str, dict[str, str]] = {}
    for record in records:
        for kept in (1, 3, 4):
            labels = {name: record.cell[name] if i < kept else "" for i, name in enumerate(LABELS)}
            owners.setdefault(_stem(labels), labels)
    return owners


def _stem(labels: Mapping[str, str]) -> str:
    return image_grids.file_name(image_grids.picture_name(labels, "")).removesuffix(".png")


def _owned(path: Path, owners: Mapping[str, dict[str, str]]) -> Picture | None:
    for stem in _prefixes(path.stem):
        if stem in owners:
            return Picture(owners[stem], path.stem[len(stem) :], path)
    return None


def _prefixes(stem: str) -> Iterator[str]:
    """`a--b` and `a` of `a--b@1`, the longest first."""
    for place in sorted((m.start() for m in re.finditer(r"--|@", stem)), reverse=True):
        yield stem[:place]


def svg(figure: Figure, unique: str) -> str:
    """A figure as inline SVG: transparent, in currentColor, scalable, its ids prefixed by `unique`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # The size of text is kept, its letters are the reader's: smaller, and it can be searched and selected.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": unique}):
        blank = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).figure.savefig(buffer, format="svg", transparent=True, metadata=blank)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"| height="[\d.]+pt"', r"\1", text, count=2)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", text)
    for colour, own in INK.items():
        text = text.replace(colour, own)
    return text
