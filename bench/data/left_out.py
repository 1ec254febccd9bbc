"""Files and folders that the reading of a folder of images leaves out, and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..options.words import listed, visible_name
from .image_folders import Folders, entries, files_in, is_folder, is_hidden, is_image_file

# Reasons for leaving out files: with the images that are read these add up to all files.
HIDDEN_FILES = "hidden"
IN_HIDDEN = "in hidden folders"
NO_IMAGES = "of other types"
BESIDE_SPLITS = "beside the folders of splits"
NO_SPLIT = "in folders that are no split"
# Reasons for leaving out folders.
READ_ELSEWHERE = "read by another path or above the root"
LINKS_BESIDE_SPLITS = "linked beside those of splits"
EMPTY_CLASSES = "without an image"
FOLDERS = (READ_ELSEWHERE, LINKS_BESIDE_SPLITS, EMPTY_CLASSES)
EXAMPLES = 3


@dataclass
class LeftOut:
    """Numbers and examples by reason."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    suffixes: Counter[str] = field(default_factory=Counter)  # of files that are no images

    def add(self, reason: str, example: bytes, count: int = 1) -> None:
        self.counts[reason] += count
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(visible_name(example))

    @property
    def files(self) -> int:
        return sum(count for reason, count in self.counts.items() if reason not in FOLDERS)

    @property
    def lines(self) -> list[str]:
        """`files left out: 3 in hidden folders (train/.ipynb_checkpoints), …`, and the same of folders."""
        lines = []
        for what, of_folders in (("files", False), ("folders", True)):
            reasons = [reason for reason in self.counts if (reason in FOLDERS) == of_folders]
            if reasons:
                lines.append(f"{what} left out: {', '.join(map(self._phrase, reasons))}")
        return lines

    def _phrase(self, reason: str) -> str:
        count, names = self.counts[reason], self.examples[reason]
        text = ", ".join(names) + (", …" if len(names) == EXAMPLES < count else "")
        if reason == NO_IMAGES:
            text = listed([f"{n:,} {suffix}" for suffix, n in self.suffixes.most_common()])
        return f"{count:,} {reason} ({text})"

    def plain(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return {"counts": self.counts, "examples": self.examples, "suffixes": self.suffixes}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> LeftOut:
        return cls(Counter(plain["counts"]), plain["examples"], Counter(plain["suffixes"]))


def left_out_of(root: bytes, tops: Sequence[bytes], found: Folders, images: Iterable[bytes]) -> LeftOut:
    """All that lies in a root and isn't read.

    Args:
        tops: the splits' folders, or the root. images: paths of the images that are read.
    """
    result, start = LeftOut(), len(root) + 1
    hidden = list(found.hidden)
    if list(tops) != [root]:
        hidden += _leave_out_beside(root, found, result)
    for folder in hidden:
        if not os.path.islink(folder) and (count := files_in(folder, found.entered)):
            result.add(IN_HIDDEN, folder[start:], count)
    for folder in found.entered.values():
        _leave_out_files(folder, start, result)
    for path, _ in found.repeated:
        result.add(READ_ELSEWHERE, path[start:])
    filled = {
        path[: path.index(b"/", len(top) + 1)] for top in tops for path in images if _in_class(path, top)
    }
    for folder in found.entered.values():
        if os.path.dirname(folder) in tops and folder not in filled and folder not in tops:
            result.add(EMPTY_CLASSES, folder[start:])
    return result


def _in_class(path: bytes, top: bytes) -> bool:
    """Whether an image lies in a folder of a split's folder."""
    return path.startswith(top + b"/") and b"/" in path[len(top) + 1 :]


def _leave_out_beside(root: bytes, found: Folders, result: LeftOut) -> list[bytes]:
    """Counts what lies in the root beside the splits' folders, and returns its hidden folders."""
    hidden, start = [], len(root) + 1
    tops = set(found.entered.values())
    for entry in sorted(entries(root), key=lambda entry: entry.name):
        if not is_folder(entry):
            result.add(BESIDE_SPLITS, entry.name)
        elif is_hidden(entry.name):
            hidden.append(entry.path)
        elif entry.is_symlink() and entry.path not in tops:
            result.add(LINKS_BESIDE_SPLITS, entry.path[start:])
        elif count := files_in(entry.path, found.entered):
            result.add(NO_SPLIT, entry.path[start:], count)
    return hidden


def _leave_out_files(folder: bytes, start: int, result: LeftOut) -> None:
    """Counts the files in a folder that are no images."""
    others = [one for one in entries(folder) if not is_folder(one) and not is_image_file(one)]
    for entry in sorted(others, key=lambda entry: entry.name):
        if entry.name.startswith(b"."):
            result.add(HIDDEN_FILES, entry.path[start:])
        else:
            result.add(NO_IMAGES, entry.path[start:])
            suffix = visible_name(os.path.splitext(entry.name)[1]).lower()
            result.suffixes[suffix or "without a suffix"] += 1
