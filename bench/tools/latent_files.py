"""Latents of a trained tokenizer in the files that LightningDiT and MAR train on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..api import Noise, Split
from ..models.latents import CHUNK
from ..stages.inputs import SPLITS
from ..store.disk import explain_disk_full
from .export import check_new
from .find_tokenizer import FoundTokenizer
from .posterior import ExportError, Posterior, posterior_of

SHARD = 10_000  # images of a file, as LightningDiT writes them
Layout = Literal["lightningdit", "mar"]


class Chunk(NamedTuple):
    """h of images and of their mirror images (B, 2 C, h, w), as mean and log-variance, and labels (B,)."""

    moments: Tensor
    mirrored: Tensor
    labels: Tensor


@torch.no_grad()
def export_latents(trained: FoundTokenizer, folder: Path, layout: Layout) -> Iterator[str]:
    """Writes both splits' latents and yields a line for each that is written.

    `lightningdit`: SPLIT/latents_rank00_shard000.safetensors with a draw of each latent, `latents` and
    `latents_flip` (n, C, h, w), and `labels` (n,), in the order of the images; latents_stats.pt has the
    normalisation. `mar`: SPLIT/CLASS/NUMBER.npz with posteriors, `moments` and `moments_flip` (2 C, h, w).

    Raises:
        ExportError: latents have no grid, or aren't what the encoder gives of one image alone; or the folder
            isn't empty.
    """
    check_new(folder)
    if trained.cell.tokenizer.spec.grid is None:
        raise ExportError("these latents have no grid, and both layouts are of grids (C, h, w)")
    posterior = posterior_of(trained.cell)
    yield from posterior.notes
    for split in SPLITS:
        chunks = _chunks(trained, split, posterior)
        if layout == "mar":
            yield _write_moments(chunks, folder / split)
        else:
            noise = Noise(int(trained.cell.config["seed"]), ("exported latents", split))
            yield from _write_shards(chunks, folder / split, noise)
    if layout == "lightningdit":
        mean, std = trained.cell.normalisation.as_maps(trained.cell.tokenizer.spec.grid)
        stats = {"mean": mean[None], "std": std[None]}
        torch.save(stats, folder / "train" / "latents_stats.pt")


def _chunks(trained: FoundTokenizer, split: Split, posterior: Posterior) -> Iterator[Chunk]:
    """A split's moments, without mirrored copies of images: both layouts have these beside each image."""
    cell = trained.cell
    dataset, tokenizer, grid = cell.dataset, cell.tokenizer, cell.tokenizer.spec.grid
    stored = cell.inputs["latents"].tensors[f"h/{split}"]
    labels = dataset.labels(split)
    assert grid is not None

    def moments(h: Tensor) -> Tensor:
        return posterior.moments(h).transpose(1, 2).unflatten(2, grid)

    for index in torch.arange(dataset.size(split) - dataset.mirrored(split)).split(CHUNK):
        flipped = tokenizer.encode(dataset.images(split, index).flip(3))
        known = torch.zeros(len(index), dtype=torch.long) if labels is None else labels[index]
        yield Chunk(moments(stored[index]), moments(flipped), known)


def _write_moments(chunks: Iterator[Chunk], folder: Path) -> str:
    count = 0
    for chunk in chunks:
        for moments, mirrored, label in zip(*chunk, strict=True):
            of_class = folder / f"{int(label):06d}"  # in the order of their numbers
            of_class.mkdir(parents=True, exist_ok=True)
            with explain_disk_full(folder, 2 * moments.nbytes):
                arrays = {"moments": moments.numpy(), "moments_flip": mirrored.numpy()}
                np.savez(of_class / f"{count:08d}.npz", **arrays)  # type: ignore[arg-type]
            count += 1
    return f"{folder}: {count:,} files of moments"


def _write_shards(chunks: Iterator[Chunk], folder: Path, noise: Noise) -> Iterator[str]:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    held: list[dict[str, Tensor]] = []
    shard = 0

    def write() -> str:
        tensors = {name: torch.cat([one[name] for one in held])[:SHARD] for name in held[0]}
        file = folder / f"latents_rank00_shard{shard:03d}.safetensors"
        with explain_disk_full(folder, sum(tensor.nbytes for tensor in tensors.values())):
            save_file(tensors, file)
        rest = {name: torch.cat([one[name] for one in held])[SHARD:] for name in held[0]}
        held[:] = [rest] if len(rest["labels"]) else []
        count, *shape = tensors["latents"].shape
        return f"{file}: {count:,} latents of {' x '.join(map(str, shape))}"

    for number, chunk in enumerate(chunks):
        stream = noise.fork(number)
        held.append(
            {
                "latents": _drawn(chunk.moments, stream.fork("image")),
                "latents_flip": _drawn(chunk.mirrored, stream.fork("mirrored")),
                "labels": chunk.labels,
            }
        )
        if sum(len(one["labels"]) for one in held) >= SHARD:
            yield write()
            shard += 1
    if held:
        yield write()


def _drawn(moments: Tensor, noise: Noise) -> Tensor:
    """A draw (B, C, h, w) of posteriors (B, 2 C, h, w)."""
    mean, log_variance = moments.chunk(2, 1)
    std = (0.5 * log_variance.clamp(-30, 20)).exp()
    return (mean + std * noise.normal(mean, "posterior")).contiguous()
