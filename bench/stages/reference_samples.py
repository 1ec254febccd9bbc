"""Reference samples of both splits, as one set and in the latent's space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..api import Reference, Regularizer, Split
from ..runtime.mapped import allocated
from ..store.artifacts import Artifact
from .inputs import SPLITS, spec_from


def reference_samples(drawn: Artifact, file: Path | None = None) -> Reference:
    """The samples of a reference stage, train before val; statistics are to be train's.

    Large ones are put together in the file.
    """
    samples, labels = (
        [drawn.tensors[f"{what}/{split}"] for split in SPLITS if f"{what}/{split}" in drawn.tensors]
        for what in ("samples", "labels")
    )
    grid = spec_from(drawn.info["spec"]).grid
    fit, dtype = len(samples[0]), samples[0].dtype
    whole = allocated((sum(map(len, samples)), *samples[0].shape[1:]), dtype, file)
    whole[:fit], whole[fit:] = samples
    return Reference(whole, torch.cat(labels) if labels else None, grid, fit)


def in_space_of(regularizer: Regularizer, reference: Reference) -> Reference:
    """A reference as the regularizer has it, with the splits as they were."""
    made = regularizer.reference(reference)
    if len(made.samples) != len(reference.samples):
        name = type(regularizer).__name__
        raise ValueError(f"{name}.reference() makes {len(made.samples)} of {len(reference.samples)} samples")
    return replace(made, fit=reference.fit)


def split_of(reference: Reference, split: Split) -> Reference:
    """The rows of one split of a reference whose first `fit` samples are train's."""
    rows = slice(0, reference.fit) if split == "train" else slice(reference.fit, None)
    labels = None if reference.labels is None else reference.labels[rows]
    return replace(reference, samples=reference.samples[rows], labels=labels)
