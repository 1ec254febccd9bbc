"""`lb.score`: how well tokenizers reconstruct images, as they are and side by side, without a matrix."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import registry
from ..store.user_paths import user_path
from .opening import ArgumentError
from .results import Results
from .run import run

SIZE = 256  # pixels, of images in folders
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w./-]+)?")  # OWNER/NAME:SUBFOLDER
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
    rows = [_tokenizer(one) for one in tokenizers]
    return {
        "name": "score",
        "dataset": _dataset(data, size),
        "budget": {"tokenizer_steps": 0},
        "features": dict(features) if isinstance(features, Mapping) else features,
        "tokenizers": dict(zip(_labels(rows), rows, strict=True)),
        "regularizers": {DRAWN: {"use": "kl"}} if sample else {MEAN: {"use": "none"}},
        "generators": {"none": {}},
        "evaluators": ["reconstruction", "latents", "linear_probe"],
    }


def _tokenizer(given: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """A row of a matrix; its label is found from it."""
    if isinstance(given, Mapping):
        return dict(given)
    text, folder = str(given), user_path(given)
    if folder.is_dir():
        _refuse_own_class(folder)
        return {"use": "diffusers", "path": text}
    if text in registry.names("tokenizers") or not HUB_ID.fullmatch(text):
        return {"use": text}
    path, _, subfolder = text.partition(":")
    return {"use": "diffusers", "path": path} | ({"subfolder": subfolder} if subfolder else {})


def _refuse_own_class(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # what is wrong is said at the tokenizer's row
    if isinstance(config, dict) and config.get("_class_name") == "LatentbenchTokenizer":
        raise ArgumentError(
            f"{folder} was exported in a class of latentbench's own, whose weights alone don't say how its "
            "latents are made: its numbers are in its README.md and in its results folder"
        )


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short labels that tell rows apart: the last parts of paths, as few as possible."""
    full = [_full_name(row) for row in rows]
    for count in range(1, 1 + max(len(name.split("/")) for name in full)):
        labels = ["-".join(name.split("/")[-count:]) for name in full]  # labels become parts of file names
        if len(set(labels)) == len(labels):
            return labels
    twice = next(name for name in full if full.count(name) > 1)
    raise ArgumentError(f"the tokenizer {twice!r} is named twice")


def _full_name(row: Mapping[str, Any]) -> str:
    parts = [str(row[key]) for key in ("path", "subfolder", "weights") if row.get(key)]
    return "/".join(parts).rstrip("/") or str(row.get("use"))


def _dataset(data: str | Path | Mapping[str, Any], size: int | None) -> dict[str, Any]:
    """A dataset as in a matrix."""
    if isinstance(data, Mapping):
        return dict(data)
    folder = user_path(data)
    if folder.is_dir():
        part = "parquet" if any(folder.rglob("*.parquet")) else "imagefolder"
        return {"use": part, "root": str(data), "size": size or SIZE}
    if str(data) not in registry.names("datasets"):
        message = registry.unknown("dataset", str(data), registry.names("datasets"))
        raise ArgumentError(f"{message}; and there is no such folder")
    return {"use": str(data)} | ({"size": size} if size else {})
