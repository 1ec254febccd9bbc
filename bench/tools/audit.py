"""One image set under several protocols: how far papers would disagree about the same samples.

Each variant changes one thing of the protocol that this suite uses: the reference's split, how a reference
that isn't of the samples' shape is cropped, how images are resized to the feature network's input, whether
they are rounded to 8 bits, how they are stored, and how many there are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..api import Dataset, FeatureExtractor, from_uint8, to_uint8
from ..data.images import RESIZINGS, adm_centre_crop, squash
from ..metrics.frechet import frechet_distance
from ..metrics.kernel import kernel_distance
from ..metrics.names import metric_name
from ..metrics.precision_recall import precision_recall
from ..records.record import protocol_id
from ..stages.inputs import SPLITS
from ..user_error import UserError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LEAST = 8  # images on either side
MOST = 10_000  # reference images: what protocols differ by shows with fewer than all


class AuditError(UserError, ValueError):
    """An image set that cannot be audited."""


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape, (n, 1 or 3, H, W) in [-1, 1], or of several, as uint8 arrays (H, W, 1 or 3)."""

    name: str
    images: Tensor | list[np.ndarray]

    def of_shape(
        self, side: tuple[int, int], crop: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
    ) -> Tensor:
        """As one tensor; images of another shape are cropped or squashed to (H, W)."""
        if isinstance(self.images, Tensor) and self.images.shape[-2:] == side:
            return self.images
        arrays = self.images
        if isinstance(arrays, Tensor):
            arrays = [one.permute(1, 2, 0).numpy() for one in to_uint8(arrays)]
        shaped = [crop(one, side) for one in arrays]
        return from_uint8(torch.from_numpy(np.stack(shaped)).permute(0, 3, 1, 2))

    @property
    def shapes(self) -> set[tuple[int, int]]:
        if isinstance(self.images, Tensor):
            return {(self.images.shape[2], self.images.shape[3])}
        return {(one.shape[0], one.shape[1]) for one in self.images}


@dataclass(frozen=True)
class Variant:
    """What is changed of the protocol; the defaults are this suite's."""

    changed: str
    reference: str
    crop: str = "centre"
    resizing: str | None = None  # one of images.RESIZINGS; None is the network's own
    rounds: bool = True
    jpeg: int | None = None  # quality that the samples are stored at
    n: int | None = None  # the first so many samples


def audit(images: ImageSet, references: list[ImageSet], extractor: FeatureExtractor) -> pd.DataFrame:
    """One row per protocol: what it changes, its id and settings, FD, KD, precision and recall.

    The first row is this suite's own protocol; `ratio` is a row's FD over the first one's.
    """
    import pandas as pd

    if len(images.shapes) != 1:
        raise AuditError(f"the images of {images.name} have {len(images.shapes)} shapes; samples have one")
    (side,) = images.shapes
    samples = images.of_shape(side, squash)
    for one in (images, *references):
        if len(one.images) < LEAST:
            raise AuditError(f"{one.name} has {len(one.images)} images; an audit needs {LEAST}")
    by_name = {one.name: one for one in references}
    known: dict[tuple[Any, ...], Tensor] = {}
    rows = []
    own = extractor.resizing
    for variant in variants(samples, references, side, own):
        reference = by_name[variant.reference].of_shape(side, CROPS[variant.crop])
        given = stored_as_jpeg(samples, variant.jpeg) if variant.jpeg else samples
        extractor.resizing, extractor.rounds = variant.resizing or own, variant.rounds
        network = (variant.resizing, variant.rounds)
        sets = {
            ("samples", variant.jpeg, *network): given,
            ("reference", variant.reference, variant.crop, *network): reference,
        }
        for key, scaled in sets.items():
            if key not in known:
                known[key] = extractor.describe(scaled, ["pooled"])["pooled"]
        generated, real = (known[key] for key in sets)
        generated = generated[: variant.n]
        precision, recall = precision_recall(generated, real)
        protocol = {
            "n": len(generated),
            "reference": variant.reference,
            "reference_n": len(real),
            "crop": variant.crop,
            "stored": f"JPEG, quality {variant.jpeg}" if variant.jpeg else "as given",
            "features": extractor.protocol(),
        }
        rows.append(
            {
                "changed": variant.changed,
                "protocol": protocol_id(protocol),
                metric_name("FD", extractor): frechet_distance(generated, real),
                metric_name("KD", extractor): kernel_distance(generated, real),
                "precision": precision,
                "recall": recall,
                "n": len(generated),
                "reference": variant.reference,
                "reference_n": len(real),
                "crop": variant.crop,
                "resizing": RESIZINGS.get(extractor.resizing, extractor.resizing),
                "rounding": "8 bits" if variant.rounds else "none",
            }
        )
    del extractor.resizing, extractor.rounds  # the class's own again
    table = pd.DataFrame(rows)
    distance = table[metric_name("FD", extractor)]
    table.insert(3, "ratio", distance / distance[0])
    return table


def variants(
    samples: Tensor, references: list[ImageSet], side: tuple[int, int], resizing: str
) -> Iterable[Variant]:
    """This suite's protocol, then all that can be changed of it for these sets, one thing at a time."""
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
    """What JPEG leaves of images (n, c, H, W) in [-1, 1]."""
    from PIL import Image

    back = []
    for one in to_uint8(images).permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(one.squeeze(2) if one.shape[2] == 1 else one).save(buffer, "JPEG", quality=quality)
        array = np.asarray(Image.open(buffer))
        back.append(array[..., None] if array.ndim == 2 else array)
    return from_uint8(torch.from_numpy(np.stack(back)).permute(0, 3, 1, 2))


def read(path: Path) -> ImageSet:
    """A folder of images, an .npz or .npy array (n, H, W, c) as ADM's samples are, or a samples artifact.

    Raises:
        AuditError: there is nothing to read, or not in one of these forms.
    """
    if path.is_dir() and (path / "tensors.safetensors").is_file():
        from safetensors.torch import load_file

        tensors = load_file(path / "tensors.safetensors")
        if "images" not in tensors:
            raise AuditError(
                f"{path} holds no images; a samples artifact does (.bench/artifacts/samples/KEY)"
            )
        return ImageSet(path.name[:12], from_uint8(tensors["images"]))
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise AuditError(f"{path} holds no images ({', '.join(SUFFIXES)})")
        arrays = [_opened(file) for file in files]
        colour = max(one.shape[2] for one in arrays)
        arrays = [np.repeat(one, colour // one.shape[2], axis=2) for one in arrays]
        if len({one.shape for one in arrays}) > 1:
            return ImageSet(path.name, arrays)
        return ImageSet(path.name, _from_array(np.stack(arrays)))
    if path.suffix in (".npz", ".npy") and path.is_file():
        loaded = np.load(path, allow_pickle=False)
        array = loaded[loaded.files[0]] if path.suffix == ".npz" else loaded
        if array.ndim != 4 or array.shape[3] not in (1, 3):
            raise AuditError(f"{path} must hold (n, H, W, 1 or 3), not {array.shape}")
        return ImageSet(path.stem, _from_array(array))
    raise AuditError(f"{path}: no folder of images, .npz, .npy or samples artifact")


def of_dataset(dataset: Dataset, name: str) -> list[ImageSet]:
    """Both splits of a dataset, train first; of a large one, images that are evenly spaced in it."""
    if min(dataset.image.height, dataset.image.width) < 2:
        raise AuditError(f"{name} has points, not images")
    found = []
    for split in SPLITS:
        size = dataset.size(split)
        index = torch.arange(size) if size <= MOST else torch.linspace(0, size - 1, MOST).long()
        found.append(ImageSet(f"{name} {split}", dataset.images(split, index)))
    return found


def _opened(file: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file)
        array = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise AuditError(f"{file} is no image that can be read: {error}") from error
    return array[..., None] if array.ndim == 2 else array


def _from_array(array: np.ndarray) -> Tensor:
    """uint8, or float in [0, 1], or in [-1, 1] if any value is negative."""
    images = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
    if images.dtype == torch.uint8:
        return from_uint8(images)
    images = images.float()
    low, high = float(images.min()), float(images.max())
    if not images.isfinite().all() or low < -1 or high > 1:
        raise AuditError(f"float images must lie in [0, 1] or in [-1, 1], not in [{low:.4g}, {high:.4g}]")
    return images if low < 0 else images * 2 - 1
