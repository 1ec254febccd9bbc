"""`lb.score`: how well tokenizers reconstruct images, as they are and side by side, without a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..tools.named_rows import dataset_row, tokenizer_labels, tokenizer_row
from .opening import ArgumentError
from .results import Results
from .run import run

MEAN, DRAWN = "mean", "drawn"  # labels of how latents are made


def score(
    tokenizers: str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]],
    data: str | Path | Mapping[str, Any] = "digits",
    *,
    size: int | None = None,
    features: str | Mapping[str, Any] = "effnet_lite0",
    sample: bool = False,
    output: str | Path | None = None,
    jobs: int = 0,
    device: str = "cpu",
    parts: Sequence[type] | type = (),
    plugins: Sequence[str | Path] = (),
    offline: bool = False,
    progress: bool = True,
    overwrite: bool = False,
) -> Results:
    """Scores tokenizers as they are on the held-out images of a set; nothing is trained.

    rFD, rKD (rFID and rKID with `features="inception"`), PSNR, SSIM, LPIPS where its weights are here,
    statistics of latents and a linear probe, with intervals over resampled images; pictures of
    reconstructions and of the worst cases; ranks, where tokenizers that images don't separate share a place.

    Args:
        tokenizers: one or several: a folder in diffusers' format, an id OWNER/NAME or OWNER/NAME:SUBFOLDER at
            Hugging Face, the name of a part, or a dict such as {"use": "conv", "weights": FILE}.
        data: a folder of images or of parquet files, the name of a dataset, or a dict as in a matrix.
        size: side of the images in pixels, for folders; 256 unless given.
        features: the extractor, as in a matrix.
        sample: draw latents from the posterior instead of taking its mean.
        output: the results folder; results/score unless given.
        plugins: files with further parts.

    Raises:
        UserError: naming what is wrong with the arguments, all at once where they make a matrix.
    """
    several = [tokenizers] if isinstance(tokenizers, str | Path | Mapping) else list(tokenizers)
    matrix = score_matrix(several, data, size, features, sample) | {"plugins": [str(p) for p in plugins]}
    return run(
        matrix,
        output=output,
        jobs=jobs,
        device=device,
        parts=parts,
        offline=offline,
        progress=progress,
        overwrite=overwrite,
    )


def score_matrix(
    tokenizers: Sequence[str | Path | Mapping[str, Any]],
    data: str | Path | Mapping[str, Any],
    size: int | None,
    features: str | Mapping[str, Any],
    sample: bool,
) -> dict[str, Any]:
    """The matrix that scores tokenizers as they are."""
    if not tokenizers:
        raise ArgumentError("no tokenizer is named")
    rows = [tokenizer_row(one) for one in tokenizers]
    return {
        "name": "score",
        "dataset": dataset_row(data, size),
        "budget": {"tokenizer_steps": 0},
        "features": dict(features) if isinstance(features, Mapping) else features,
        "tokenizers": dict(zip(tokenizer_labels(rows), rows, strict=True)),
        "regularizers": {DRAWN: {"use": "kl"}} if sample else {MEAN: {"use": "none"}},
        "generators": {"none": {}},
        "evaluators": ["reconstruction", "latents", "linear_probe"],
    }
