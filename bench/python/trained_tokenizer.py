"""`lb.tokenizer`: a tokenizer that a run has trained, with its regularizer and the scale of its latents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..api import ImageSpec, LatentSpec, Noise, from_uint8
from ..leaderboard.numbers import plural
from ..models.latents import IDENTITY, chunked, decode_all, draw
from ..records.record import Record
from ..report.places import LOCK
from ..runtime.standard_settings import standard_settings
from ..store.user_paths import user_path
from ..tools.export import Export, export_tokenizer
from ..tools.find_tokenizer import FoundTokenizer, NotTrained, PlannedResults, matrices_of
from ..tools.merge import LOCK as LOCKS
from .results import Results, load


class TrainedTokenizer:
    """A trained tokenizer: images to the latents that generators learn from, and back.

    Latents z are (n, T, C). Normalised ones, the default, are (z - mean) / std with the statistics of the
    training set, which is what generators see; others are as the regularizer draws them.
    """

    def __init__(self, found: FoundTokenizer) -> None:
        self._trained, self._found = found.cell, found
        self.labels = {**found.labels, "seed": f"seed {found.labels['seed']}"}

    @property
    def tokenizer(self) -> nn.Module:
        """The network itself."""
        return self._trained.tokenizer

    @property
    def regularizer(self) -> nn.Module:
        """The regularizer that it was trained with, which draws its latents."""
        return self._trained.regularizer

    @property
    def spec(self) -> LatentSpec:
        """The number of tokens, of channels, and the grid of its latents."""
        return self._trained.tokenizer.spec

    @property
    def image(self) -> ImageSpec:
        """The channels and the size of its images."""
        return self._trained.dataset.image

    @property
    def mean(self) -> Tensor:
        """The mean of each latent channel over the training set: (C,), or (T, C) by position."""
        return self._trained.normalisation.mean

    @property
    def std(self) -> Tensor:
        """The standard deviation of each latent channel over the training set: (C,), or (T, C)."""
        return self._trained.normalisation.std

    def encode(
        self,
        images: Any,
        normalised: bool = True,
        sample: bool = False,
        labels: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Latents (n, T, C) of images (n, c, H, W): uint8, or floats from -1 to 1.

        Args:
            normalised: by the training set's mean and standard deviation.
            sample: draw the latents of a method that has noise, instead of its mean.
            labels: the images' classes (n,), for methods whose latents depend on them.
            seed: of the draws.
        """
        trained, pixels = self._trained, self._images(images)
        noise, encode = Noise(seed, ("python",)) if sample else None, trained.tokenizer.encode
        with standard_settings(), torch.no_grad():
            h = chunked(lambda index, _: encode(pixels[index].to(trained.device)).cpu(), len(pixels))
            batch = trained.config["batch"]
            z = draw(trained.regularizer, h, labels, noise, batch, trained.device)
        return trained.normalisation(z) if normalised else z

    def decode(
        self, latents: Tensor, normalised: bool = True, labels: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Images (n, c, H, W) from -1 to 1 of latents (n, T, C).

        Args:
            normalised: whether the latents are.
            labels: classes (n,), for decoders that take them.
            seed: of decoders that draw.
        """
        trained, spec = self._trained, self.spec
        if latents.ndim != 3 or latents.shape[1:] != (spec.tokens, spec.channels):
            shape = tuple(latents.shape)
            raise ValueError(f"latents are (n, {spec.tokens}, {spec.channels}), not {shape}")
        scale = trained.normalisation if normalised else IDENTITY
        noise = Noise(seed, ("python",))
        with standard_settings(), torch.no_grad():
            return decode_all(trained.tokenizer, scale.inverse(latents), trained.device, labels, noise)

    def export(self, folder: str | Path) -> Export:
        """Writes it as a new folder that diffusers' `AutoModel` loads, with a model card.

        Raises:
            ExportError: the format cannot express it, or the folder isn't empty.
        """
        with standard_settings():
            return export_tokenizer(self._found, user_path(folder))

    def _images(self, images: Any) -> Tensor:
        """Images as floats from -1 to 1; refuses other shapes and ranges."""
        tensor = torch.as_tensor(images)
        shape = (self.image.channels, self.image.height, self.image.width)
        if tensor.ndim != 4 or tuple(tensor.shape[1:]) != shape:
            raise ValueError(f"images are (n, {', '.join(map(str, shape))}), not {tuple(tensor.shape)}")
        if tensor.dtype == torch.uint8:
            return from_uint8(tensor)
        low, high = tensor.min().item(), tensor.max().item()
        if low < -1 or high > 1:
            raise ValueError(
                f"images are uint8, or floats from -1 to 1; these go from {low:.3g} to {high:.3g}"
            )
        return tensor.float()

    def __repr__(self) -> str:
        spec, labels = self.spec, " · ".join(self.labels.values())
        return f"TrainedTokenizer({labels}: {spec.tokens} tokens of {spec.channels} channels)"


def tokenizer(
    results: Results | str | Path,
    tokenizer: str | None = None,
    regularizer: str | None = None,
    seed: int | str = 0,
    *,
    dataset: str | None = None,
    device: str = "cpu",
) -> TrainedTokenizer:
    """A tokenizer that a run has trained, from the artifacts in its cache.

    Args:
        results: of `run` or `load`, or their folder.
        tokenizer, regularizer, dataset: labels of rows; needed where the results have several.
        seed: the tokenizer's.

    Raises:
        NotTrained: there is no such row, or several; or its artifacts are not in the cache.
    """
    if not isinstance(results, Results):
        results = load(results)
    wanted = {"dataset": dataset, "tokenizer": tokenizer, "regularizer": regularizer}
    record = _record(results, wanted, str(seed))
    with standard_settings(), registry.plugins_of_this_block():
        found = _found(results, record, device).check()
        loaded = TrainedTokenizer(found)
        loaded.tokenizer, loaded.regularizer, loaded.image  # noqa: B018  # while the plugins are known
    return loaded


def _record(results: Results, wanted: dict[str, str | None], seed: str) -> Record:
    """A record of the cells of one tokenizer."""
    rows: dict[tuple[str, ...], Record] = {}
    for record in results.records:
        fits = all(label in (None, record.cell[axis]) for axis, label in wanted.items())
        own = record.cell["seed"].split(".")[0]
        if fits and own == seed and not record.real and record.status == "done":
            rows.setdefault(tuple(record.cell[axis] for axis in wanted), record)
    asked = ", ".join(f"{axis}={label!r}" for axis, label in wanted.items() if label is not None)
    if len(rows) == 1:
        return next(iter(rows.values()))
    if rows:
        known = "; ".join(" · ".join(labels) for labels in rows)
        raise NotTrained(f"{plural(len(rows), 'tokenizer')} fit: name one of {known}")
    known = "; ".join(
        dict.fromkeys(" · ".join(r.cell[a] for a in wanted) for r in results.records if not r.real)
    )
    raise NotTrained(f"no finished cell has {asked or 'a tokenizer'} and seed {seed}; there are {known}")


def _found(results: Results, record: Record, device: str) -> FoundTokenizer:
    """The tokenizer of a record's cell; the plugins of its matrix are loaded."""
    for planned in _planned(results, str(record.provenance.get("device", "cpu"))):
        for cell in planned.plan.cells:
            if cell.key == record.key:
                return planned.find(cell, device)
    places = ", ".join(str(folder / LOCK) for folder in results.folders)
    raise NotTrained(f"{places} isn't what made this record, with these versions: run it again")


def _planned(results: Results, made_on: str) -> Iterator[PlannedResults]:
    """The plan of a run in this process, or those of the folders' matrices."""
    if results._plan is None:
        for folder in results.folders:
            if any(folder.glob(LOCKS)):
                yield from (matrix.planned() for matrix in matrices_of(folder, [made_on]))
        return
    opened, folder = results._plan, results.folders[0]
    for plugin in opened.matrix.plugins:
        registry.load_plugin(plugin)
    yield PlannedResults(folder, folder / LOCK, opened.plan, [opened.store], opened.matrix.plugins)
