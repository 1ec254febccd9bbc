"""Scores one image set under several protocols: how far papers would disagree about the same samples.

Each variant changes one thing of this suite's protocol: the reference's split, the crop of references of
another shape, the resizing to the feature network's input, the rounding to 8 bits, how images are stored, and
their number.
"""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ..api import Dataset, FeatureExtractor, from_uint8, to_uint8
from ..data.class_folders import remarks
from ..data.deep_pixels import Held
from ..data.fixed_order import random_rows
from ..data.image_folders import SUFFIXES
from ..data.image_index import Listing, found_folders, index
from ..data.images import RESIZINGS, adm_centre_crop, squash
from ..data.picture import read_picture
from ..data.split_folders import WHOLE
from ..metrics.frechet import frechet_distance
from ..metrics.kernel import kernel_distance
from ..metrics.names import metric_name
from ..metrics.precision_recall import precision_recall
from ..options.words import listed, visible_name
from ..records.record import protocol_id
from ..stages.inputs import SPLITS
from ..user_error import UserError

if TYPE_CHECKING:
    import pandas as pd

LEAST = 8  # images on either side
MOST = 10_000  # reference images: enough to show how protocols differ


class AuditError(UserError, ValueError):
    """An image set that cannot be audited."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape, (n, 1 or 3, H, W) in [-1, 1], or of several, as uint8 arrays (H, W, 1 or 3)."""

    name: str
    images: Tensor | list[np.ndarray]
    notes: tuple[str, ...] = ()  # what was read, and what was left out and why

    def of_shape(
        self, side: tuple[int, int], crop: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
    ) -> Tensor:
        """All images as one tensor; those of another shape are cropped or squashed to (H, W)."""
        if isinstance(self.images, Tensor) and self.images.shape[-2:] == side:
            return self.images
        arrays = self.images
        if isinstance(arrays, Tensor):
            arrays = [image.permute(1, 2, 0).numpy() for image in to_uint8(arrays)]
        shaped = [crop(array, side) for array in arrays]
        return from_uint8(torch.from_numpy(np.stack(shaped)).permute(0, 3, 1, 2))

    @property
    def shapes(self) -> set[tuple[int, int]]:
        if isinstance(self.images, Tensor):
            return {(self.images.shape[2], self.images.shape[3])}
        return {(image.shape[0], image.shape[1]) for image in self.images}


@dataclass(frozen=True)
class Variant:
    """A protocol, and what it changes; the defaults are this suite's."""

    changed: str
    reference: str
    crop: str = "centre"
    resizing: str | None = None  # one of images.RESIZINGS; None is the network's own
    rounds: bool = True
    jpeg: int | None = None  # quality that the samples are stored at
    n: int | None = None  # limit to the first n samples


def audit(images: ImageSet, references: list[ImageSet], extractor: FeatureExtractor) -> pd.DataFrame:
    """One row per protocol: what it changes, its id and settings, FD, KD, precision and recall.

    The first row is this suite's own protocol; `ratio` is a row's FD over the first one's.
    """
    import pandas as pd

    if len(images.shapes) != 1:
        raise AuditError(f"the images of {images.name} have {len(images.shapes)} shapes; samples have one")
    for image_set in (images, *references):
        if len(image_set.images) < LEAST:
            raise AuditError(f"{image_set.name} has {len(image_set.images)} images; an audit needs {LEAST}")
    (side,) = images.shapes
    samples = images.of_shape(side, squash)
    by_name = {reference.name: reference for reference in references}
    features: dict[tuple[Any, ...], Tensor] = {}  # several variants share a set's features
    rows = []
    own = extractor.resizing
    for variant in variants(samples, references, side, own):
        extractor.resizing, extractor.rounds = variant.resizing or own, variant.rounds
        network = (variant.resizing, variant.rounds)
        generated, real = ("samples", variant.jpeg, *network), (variant.reference, variant.crop, *network)
        if generated not in features:
            stored = stored_as_jpeg(samples, variant.jpeg) if variant.jpeg else samples
            features[generated] = extractor.describe(stored, ["pooled"])["pooled"]
        if real not in features:
            reference = by_name[variant.reference].of_shape(side, CROPS[variant.crop])
            features[real] = extractor.describe(reference, ["pooled"])["pooled"]
        chosen = random_rows(len(samples), variant.n)
        rows.append(_row(variant, extractor, features[generated][chosen], features[real]))
    del extractor.resizing, extractor.rounds  # the class's own again
    table = pd.DataFrame(rows)
    distance = table[metric_name("FD", extractor)]
    table.insert(3, "ratio", distance / distance[0])
    return table


def _row(variant: Variant, extractor: FeatureExtractor, generated: Tensor, real: Tensor) -> dict[str, Any]:
    settings = {
        "n": len(generated),
        "reference": variant.reference,
        "reference_n": len(real),
        "crop": variant.crop,
    }
    protocol = settings | {
        "stored": f"JPEG, quality {variant.jpeg}" if variant.jpeg else "as given",
        "features": extractor.protocol(),
    }
    precision, recall = precision_recall(generated, real)
    return {
        "changed": variant.changed,
        "protocol": protocol_id(protocol),
        metric_name("FD", extractor): frechet_distance(generated, real),
        metric_name("KD", extractor): kernel_distance(generated, real),
        "precision": precision,
        "recall": recall,
        **settings,
        "resizing": RESIZINGS.get(extractor.resizing, extractor.resizing),
        "rounding": "8 bits" if variant.rounds else "none",
    }


def variants(
    samples: Tensor, references: list[ImageSet], side: tuple[int, int], resizing: str
) -> Iterable[Variant]:
    """This suite's protocol, then each single change of it that these sets allow."""
    first = references[0].name
    yield Variant("nothing: this suite's protocol", first)
    for other in references[1:]:
        yield Variant(f"reference: {other.name}", other.name)
    if references[0].shapes != {side}:
        yield Variant("crop: none, squashed to the samples' shape", first, crop="squash")
    if resizing != "clean":  # Inception's own is that of TensorFlow 1
        yield Variant("resizing: clean-fid's", first, resizing="clean")
    yield Variant("resizing: bicubic, rounded afterwards", first, resizing="clean_rounded")
    yield Variant("resizing: PyTorch's bilinear, not anti-aliased", first, resizing="legacy")
    if not torch.equal(from_uint8(to_uint8(samples)), samples):
        yield Variant("rounding: none", first, rounds=False)
    for quality in (95, 75):
        yield Variant(f"stored: JPEG of quality {quality}", first, jpeg=quality)
    if len(samples) // 2 >= LEAST:
        yield Variant("n: half of the samples", first, n=len(samples) // 2)


CROPS: Mapping[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "centre": adm_centre_crop,
    "squash": squash,
}


def stored_as_jpeg(images: Tensor, quality: int) -> Tensor:
    """Images (n, c, H, W) in [-1, 1] after compression as JPEG."""
    from PIL import Image

    decoded = []
    for image in to_uint8(images).permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        image = image.squeeze(2) if image.shape[2] == 1 else image
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        array = np.asarray(Image.open(buffer))
        decoded.append(array[..., None] if array.ndim == 2 else array)
    return from_uint8(torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2))


def read(path: Path) -> ImageSet:
    """Reads a folder of images, an .npz or .npy array (n, H, W, c) like ADM's samples, or a samples artifact.

    A folder is read as the dataset `imagefolder` reads it, but for splits and classes: all images below it.

    Raises:
        AuditError: there is nothing to read, or not in one of these forms.
    """
    if (path / "tensors.safetensors").is_file():
        return _from_artifact(path)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix in (".npz", ".npy") and path.is_file():
        return _from_array(_loaded(path), path.stem)
    raise AuditError(f"{path}: no folder of images, .npz, .npy or samples artifact")


def _from_artifact(path: Path) -> ImageSet:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path / "tensors.safetensors")
    except SafetensorError as error:
        raise AuditError(f"{path / 'tensors.safetensors'} cannot be read: {error}") from error
    if "images" not in tensors:
        raise AuditError(f"{path} holds no images; a samples artifact does (.bench/artifacts/samples/KEY)")
    return ImageSet(path.name[:12], from_uint8(tensors["images"]))


def _from_folder(path: Path) -> ImageSet:
    try:
        listing = index(path, WHOLE, found_folders(path))
        files = [path / os.fsdecode(name) for name in sorted(listing.names.tolist(), key=_by_folders)]
        if not files:
            raise AuditError("; ".join([f"{path} holds no images ({', '.join(SUFFIXES)})", *_notes(listing)]))
        pictures = [np.asarray(read_picture(file, scales=listing.scales)) for file in files]
    except AuditError:
        raise
    except ValueError as error:
        raise AuditError(f"{path} holds a file that is no image that can be read: {error}") from error
    arrays = [array[..., None] if array.ndim == 2 else array for array in pictures]
    channels = max(array.shape[2] for array in arrays)
    arrays = [np.repeat(array, channels // array.shape[2], axis=2) for array in arrays]
    alike = len({array.shape for array in arrays}) == 1
    return ImageSet(path.name, _in_range(np.stack(arrays)) if alike else arrays, tuple(_notes(listing)))


def _by_folders(name: bytes) -> list[bytes]:
    return name.split(b"/")


def _notes(listing: Listing) -> list[str]:
    """Where images of several folders lie, how deep pixels are scaled, and what is left out."""
    places = Counter(visible_name(name.rpartition(b"/")[0]) or "." for name in listing.names.tolist())
    texts = [f"{count:,} in {place}" for place, count in places.items()]
    of_folders = [f"images of {len(places)} folders: {listed(texts)}"] if len(places) > 1 else []
    return [*of_folders, *remarks(listing)]


def _loaded(path: Path) -> np.ndarray:
    """The images of a NumPy file."""
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"": loaded} if path.suffix == ".npy" else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise AuditError(f"{path} is no whole NumPy file of numbers") from error
    images = {name: one for name, one in arrays.items() if one.ndim == 4 and one.shape[3] in (1, 3)}
    if len(images) > 1:
        raise AuditError(f"{path} has several arrays of images ({listed(list(images))}); which are meant?")
    if not images:
        shapes = [f"{name} {one.shape}".strip() for name, one in arrays.items()]
        raise AuditError(f"{path} must hold (n, H, W, 1 or 3), not {listed(shapes) or 'no array at all'}")
    return next(iter(images.values()))


def of_dataset(dataset: Dataset, name: str) -> list[ImageSet]:
    """Both splits of a dataset, train first; of a large split, a fixed random choice of MOST images."""
    if min(dataset.image.height, dataset.image.width) < 2:
        raise AuditError(f"{name} has points, not images")
    sets = []
    for split in SPLITS:
        index = random_rows(dataset.size(split), MOST)
        sets.append(ImageSet(f"{name} {split}", dataset.images(split, index)))
    return sets


def _from_array(array: np.ndarray, name: str) -> ImageSet:
    """Images from integers, or from floats in [0, 1], or in [-1, 1] if any value is negative."""
    if not array.size or array.dtype.kind not in "biuf":
        raise AuditError(f"{name} has {array.shape} values of {array.dtype}, which are no images")
    if array.dtype.kind in "biu" and array.dtype != np.uint8:
        values = array.astype(np.int64)
        held = Held(len(array), int(values.min()), int(values.max()), whole=True)
        low, high = held.scale
        levels = ((values - low) / (high - low) * 255).round().astype(np.uint8)
        return ImageSet(name, _in_range(levels), (held.in_words(str(array.dtype)),))
    return ImageSet(name, _in_range(array))


def _in_range(array: np.ndarray) -> Tensor:
    """Images (n, c, H, W) in [-1, 1] from uint8 or floats (n, H, W, c)."""
    images = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
    if images.dtype == torch.uint8:
        return from_uint8(images)
    images = images.float()
    low, high = float(images.min()), float(images.max())
    if not images.isfinite().all() or low < -1 or high > 1:
        raise AuditError(f"float images must lie in [0, 1] or in [-1, 1], not in [{low:.4g}, {high:.4g}]")
    return images if low < 0 else images * 2 - 1
