"""Tar files of samples, as webdataset writes them: files of one sample follow each other and share a name."""

from __future__ import annotations

import json
import os
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .deep_pixels import Held
from .encoded import EncodedPicture
from .encoded_set import DIGEST, digest_of, inspected, joined
from .image_folders import SUFFIXES, ImagesError
from .image_index import RECENT, Verify, cache, keep

RULE = 1  # raise it when more or other things are known of a file
POINTER = b"version https://git-lfs"
LABEL = "cls"  # webdataset's name for a class, a whole number in text


@dataclass(frozen=True)
class Sample:
    """The files of one sample by their extension: where each begins, and its length."""

    key: str
    files: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class TarIndex:
    """The pictures and labels of a tar file, where they lie, and what is wrong with them."""

    file: Path
    changed: tuple[int, int]  # size in bytes and time of the last change
    places: NDArray[np.int64]  # (n, 2): where a picture begins, and its length
    keys: NDArray[np.str_]
    digests: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    others: tuple[str, ...] = ()  # extensions that are not read
    held: dict[str, Held] = field(default_factory=dict)
    several_frames: int = 0
    problems: list[str] = field(default_factory=list)


def index_of(file: Path, image: str | None, label: str | None, verify: Verify) -> TarIndex:
    """The index of a file, from the user's cache unless the file has changed.

    Args:
        image: the extension of pictures; None: of the only picture of each sample.
        label: the extension of labels; None: no labels.
    """
    cached, changed = cache(file, f"tar\0{image}\0{label}\0{verify}\0{RULE}"), _changed(file)
    kept = _kept(cached, file, changed) if cached else None
    if kept is not None:
        return kept
    began = time.time_ns()
    index = _indexed(file, changed, image, label, verify)
    if cached and not index.problems and changed[1] < began - RECENT:
        notes = {"held": index.held, "several_frames": index.several_frames, "others": index.others}
        arrays = {name: getattr(index, name) for name in ("changed", "places", "keys", "digests", "labels")}
        with suppress(OSError):  # a home that cannot be written, or a full disk: the index isn't kept
            keep(cached, notes=json.dumps(notes), **{k: v for k, v in arrays.items() if v is not None})
    return index


def picture_at(index: TarIndex, number: int) -> EncodedPicture:
    """
    Raises:
        ValueError: the file has changed since it was listed.
    """
    if _changed(index.file) != index.changed:
        raise ValueError(f"{index.file} has changed since its samples were listed")
    begin, length = index.places[number].tolist()
    with open(index.file, "rb") as stream:
        return EncodedPicture(
            _place(index.file, index.keys[number]), os.pread(stream.fileno(), length, begin)
        )


def _place(file: Path, key: str) -> str:
    return f"{file.name} sample {key}"


def _kept(cached: Path, file: Path, changed: tuple[int, int]) -> TarIndex | None:
    try:
        with np.load(cached) as stored:
            if tuple(stored["changed"].tolist()) != changed:
                return None
            notes = json.loads(str(stored["notes"]))
            held = {kind: Held(*values) for kind, values in notes["held"].items()}
            labels = stored["labels"] if "labels" in stored else None
            arrays = stored["places"], stored["keys"], stored["digests"], labels
            return TarIndex(file, changed, *arrays, tuple(notes["others"]), held, notes["several_frames"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):  # it isn't what was written, or not ours
        return None


def samples_in(file: Path) -> Iterator[Sample]:
    """The samples of a tar file in its order.

    Raises:
        ImagesError: it is packed, cut, or no tar file.
    """
    _check_head(file)
    key, files = None, dict[str, tuple[int, int]]()
    try:
        with tarfile.TarFile(file) as archive:
            for member in archive:
                if not member.isfile() or member.name.rpartition("/")[2].startswith("."):
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if folder + slash + stem != key:
                    if key is not None:
                        yield Sample(key, files)
                    key, files = folder + slash + stem, {}
                files[extension.lower()] = member.offset_data, member.size
                if member.offset_data + member.size > file.stat().st_size:
                    raise ImagesError(f"{file} is cut in {member.name}; get it anew")
    except tarfile.TarError as error:
        raise ImagesError(f"{file} is damaged after sample {key}: {error}") from error
    if key is not None:
        yield Sample(key, files)


def _check_head(file: Path) -> None:
    with open(file, "rb") as stream:
        head = stream.read(512)
    if head.startswith(POINTER):
        raise ImagesError(f"{file} is a pointer of Git LFS, not the file itself: `git lfs pull` gets it")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        raise ImagesError(f"{file} is packed, so that its samples can't be read one by one: unpack it")
    if len(head) < 512 or head[257:262] not in (b"ustar", bytes(5)):
        raise ImagesError(f"{file} is no tar file, or cut: it has {file.stat().st_size:,} bytes")


def _indexed(
    file: Path, changed: tuple[int, int], image: str | None, label: str | None, verify: Verify
) -> TarIndex:
    samples = list(samples_in(file))
    places, digests, labels, problems = [], [], [], []
    held: dict[str, Held] = {}
    frames, seen, pictures = 0, set[str](), {label}
    with open(file, "rb") as stream:
        for sample in samples:
            place = _place(file, sample.key)
            extension, problem = _picture(sample, image)
            begin, length = sample.files.get(extension, (0, 0))
            picture = EncodedPicture(place, os.pread(stream.fileno(), length, begin))
            inspection = inspected(picture, verify)
            problem = problem or inspection.problem
            pictures.add(extension)
            if sample.key in seen:
                problem = "its name is that of an earlier sample"
            seen.add(sample.key)
            if inspection.held is not None:
                held = joined([held, {inspection.kind: inspection.held}])
            frames += inspection.frames
            if label is not None:
                read = sample.files.get(label)
                number, why = _label(
                    None if read is None else os.pread(stream.fileno(), read[1], read[0]), label
                )
                labels.append(number)
                problem = problem or why
            if problem:
                problems.append(f"{place} ({problem})")
            places.append((begin, length))
            digests.append(np.frombuffer(digest_of(picture.data), np.uint8))
    extensions = dict.fromkeys(extension for sample in samples for extension in sample.files)
    return TarIndex(
        file,
        changed,
        np.array(places, np.int64).reshape(-1, 2),
        np.array([sample.key for sample in samples], np.str_),
        np.array(digests, np.uint8).reshape(-1, DIGEST),
        None if label is None else np.array(labels, np.int64),
        tuple(extension for extension in extensions if extension not in pictures),
        held,
        frames,
        problems,
    )


def _picture(sample: Sample, image: str | None) -> tuple[str, str]:
    """The extension of a sample's picture, or "" and the reason why it has none."""
    found = [extension for extension in sample.files if f".{extension}" in SUFFIXES]
    if image is not None:
        return (image, "") if image in sample.files else ("", f"no .{image}")
    if len(found) == 1:
        return found[0], ""
    several = (
        f"several pictures, .{' and .'.join(found)}: choose by `fields: {{image: {(found or [''])[0]}}}`"
    )
    return "", several if found else "no picture"


def _label(content: bytes | None, extension: str) -> tuple[int, str]:
    """A label, or 0 and the reason why it is none."""
    if content is None:
        return 0, f"no .{extension}"
    text: Any = content.decode("utf-8", "replace").strip()
    try:
        return int(text), ""
    except ValueError:
        return 0, f"the label {text[:40]!r} is no whole number"


def _changed(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
