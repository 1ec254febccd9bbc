"""Rows whose latents are stored, and datasets that have nothing but stored latents."""

from __future__ import annotations

from ..api import Dataset, Tokenizer, Unfit
from ..matrix.settings import Budget


def check_stored(model: Tokenizer, dataset: Dataset, budget: Budget) -> None:
    """Raises Unfit where stored latents would be trained, or a tokenizer has no images to encode."""
    stored = type(model).stored is not Tokenizer.stored
    if dataset.decoded and not stored:
        raise Unfit("the dataset has stored latents and no images: the tokenizer `cached: {}` reads them")
    if stored and budget.tokenizer_steps + budget.refine_steps:
        raise Unfit(
            "its latents are stored and cannot be trained: the row needs budget: {tokenizer_steps: 0}"
        )
