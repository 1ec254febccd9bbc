"""Reference samples of both splits, as one set and in the latent's space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..api import Reference, Regularizer, Split
from ..models.build import spec_from
from ..runtime.mapped import allocated
from ..store.artifacts import Artifact
from .inputs import SPLITS


def reference_samples(artifact: Artifact, file: Path | None = None) -> Reference:
    """The samples of a reference stage, train before val; statistics are to be fitted to train's alone.

    Large sets of samples are joined in the file.
    """
    samples, labels = (
        [artifact.tensors[f"{name}/{split}"] for split in SPLITS if f"{name}/{split}" in artifact.tensors]
        for name in ("samples", "labels")
    )
    grid = spec_from(artifact.info["spec"]).grid
    fit, dtype = len(samples[0]), samples[0].dtype
    both = allocated((sum(map(len, samples)), *samples[0].shape[1:]), dtype, file)
    both[:fit], both[fit:] = samples
    return Reference(both, torch.cat(labels) if labels else None, grid, fit)


def in_space_of(regularizer: Regularizer, reference: Reference) -> Reference:
    """A reference as the regularizer maps it into its latent's space, with the same splits.

    Raises:
        ValueError: the regularizer changes the number of samples.
    """
    mapped = regularizer.reference(reference)
    if len(mapped.samples) != len(reference.samples):
        name = type(regularizer).__name__
        raise ValueError(
            f"{name}.reference() makes {len(mapped.samples)} of {len(reference.samples)} samples"
        )
    return replace(mapped, fit=reference.fit)


def split_of(reference: Reference, split: Split) -> Reference:
    """The rows of one split of a reference whose first `fit` samples are train's."""
    rows = slice(0, reference.fit) if split == "train" else slice(reference.fit, None)
    labels = None if reference.labels is None else reference.labels[rows]
    return replace(reference, samples=reference.samples[rows], labels=labels)
