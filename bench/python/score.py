"""`lb.score`: how well tokenizers reconstruct images, as they are and side by side, without a matrix."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..engine.open_plan import OpenPlan
from ..tools.named_rows import check_named_once, dataset_row, full_name, tokenizer_labels, tokenizer_row
from .opening import ArgumentError, opened
from .results import Results
from .run import check_jobs, run_opened
from .trained_rows import trained_rows

MEAN, DRAWN = "mean", "drawn"  # labels of how latents are made


def score(
    tokenizers: str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]],
    data: str | Path | Mapping[str, Any] = "digits",
    *,
    size: int | None = None,
    held_out: float | None = None,
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
        tokenizers: one or several: a folder in diffusers' format, as `bench export` writes one, too; an id
            OWNER/NAME or OWNER/NAME:SUBFOLDER at Hugging Face; the name of a part; a dict such as {"use":
            "conv", "weights": FILE}; or a results folder, for all tokenizers trained there that a filter
            leaves: "results/mine:tokenizer=conv,seed=1".
        data: a folder of images or of parquet files, the name of a dataset, or a dict as in a matrix.
        size: side of the images in pixels, for folders; 256 unless given.
        held_out: fraction that is scored of data without a split `val`; a tenth of folders unless given. More
            than that may have been trained on, where tokenizers were trained on the same folder.
        features: the extractor, as in a matrix.
        sample: draw latents from the posterior instead of taking its mean.
        output: the results folder; results/score unless given.
        plugins: files with further parts.

    Raises:
        UserError: naming what is wrong with the arguments, all at once where they make a matrix.
    """
    check_jobs(jobs)
    several = [tokenizers] if isinstance(tokenizers, str | Path | Mapping) else list(tokenizers)
    matrix = score_matrix(several, dataset_row(data, size, held_out), features, sample)
    matrix["plugins"] += [str(path) for path in plugins]
    with opened(matrix, device=device, parts=parts, offline=offline, fetch=True) as plan:
        _refuse_unfit(plan)
        _warn_of_sizes(plan)
        if held_out is None:
            _warn_of_few_images(plan)
        out = Path(output or Path("results") / plan.matrix.name)
        return run_opened(plan, out, jobs, device, progress, overwrite=overwrite)


def _refuse_unfit(plan: OpenPlan) -> None:
    """Raises ArgumentError if there is nothing to score, as no tokenizer fits the images."""
    reasons = {cell.tokenizer: cell.skipped for cell in plan.cells if not cell.real}
    if all(reasons.values()):
        lines = (f"{label}: {reason}" for label, reason in reasons.items())
        raise ArgumentError("nothing can be scored: " + "; ".join(lines))


def _warn_of_sizes(plan: OpenPlan) -> None:
    """Warns where latents differ in size: the larger ones hold more of an image, which no metric weighs."""
    built = [(plan.plan.stages[id_].label, parts.tokenizer) for id_, parts in plan.plan.built.items()]
    sizes = {label.split(" · ")[0]: tokenizer.spec for label, tokenizer in built if tokenizer is not None}
    if len({spec.tokens * spec.channels for spec in sizes.values()}) > 1:
        texts = (f"{label} {spec.tokens} x {spec.channels}" for label, spec in sizes.items())
        text = (
            f"latents have different sizes (tokens x channels): {', '.join(texts)}; larger ones reconstruct"
        )
        warnings.warn(f"{text} better, which the ranks do not take into account", stacklevel=3)


def _warn_of_few_images(plan: OpenPlan) -> None:
    """Warns where few images of a set are scored that may be divided otherwise."""
    data = next(parts.dataset for parts in plan.plan.built.values())
    scored, others = data.size("val"), data.size("train")
    if hasattr(data, "held_out") and scored < others / 2:
        text = f"{scored:,} of {scored + others:,} images are scored; held_out=0.5 scores half"
        warnings.warn(f"{text}, if the data have no split `val` of their own", stacklevel=3)


def score_matrix(
    tokenizers: Sequence[str | Path | Mapping[str, Any]],
    dataset: Mapping[str, Any],
    features: str | Mapping[str, Any],
    sample: bool,
) -> dict[str, Any]:
    """The matrix that scores tokenizers as they are."""
    if not tokenizers:
        raise ArgumentError("no tokenizer is named")
    rows, plugins = _rows(tokenizers)
    return {
        "name": "score",
        "dataset": dict(dataset),
        "budget": {"tokenizer_steps": 0},
        "features": dict(features) if isinstance(features, Mapping) else features,
        "tokenizers": dict(
            zip(tokenizer_labels([name for name, _ in rows]), (row for _, row in rows), strict=True)
        ),
        "regularizers": {DRAWN: {"use": "kl"}} if sample else {MEAN: {"use": "none"}},
        "generators": {"none": {}},
        "evaluators": ["reconstruction", "latents", "linear_probe"],
        "plugins": plugins,
    }


def _rows(
    tokenizers: Sequence[str | Path | Mapping[str, Any]],
) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Rows of a matrix with their full names, and the plugins that they need."""
    rows: list[tuple[str, dict[str, Any]]] = []
    plugins: dict[str, None] = {}
    for one in tokenizers:
        if trained := trained_rows(one):
            rows += trained.rows.items()
            plugins |= dict.fromkeys(trained.plugins)
        else:
            row = tokenizer_row(one)
            rows.append((full_name(row), row))
    check_named_once([name for name, _ in rows], [row for _, row in rows])
    return rows, [*plugins]
