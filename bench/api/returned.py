"""Checks of what parts return, made where the frame receives it; they cost microseconds a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .data import Dataset
from .errors import BrokenContract
from .features import FeatureExtractor
from .tokenizer import Tokenizer


def checked_images(dataset: Dataset, method: str, images: Tensor, count: int) -> Tensor:
    """The images of a batch, if they are as many as asked for and as the dataset's `image` declares.

    `method` is "images" (float32) or "levels" (uint8).

    Raises:
        BrokenContract: they aren't.
    """
    spec, dtype = dataset.image, torch.float32 if method == "images" else torch.uint8
    _require(dataset, method, images, (count, spec.channels, spec.height, spec.width), dtype)
    return images


def checked_hidden(tokenizer: Tokenizer, h: Tensor, count: int) -> Tensor:
    """The hidden values h (count, T, C * expansion + extra) of a batch, if `spec` has T tokens of C channels.

    Raises:
        BrokenContract: it doesn't.
    """
    spec = tokenizer.spec
    least = spec.channels + tokenizer.extra
    whole = h.dim() and h.shape[-1] >= least and (h.shape[-1] - least) % spec.channels == 0
    width = h.shape[-1] if whole else least
    _require(tokenizer, "encode", h, (count, spec.tokens, width))
    return h


def checked_features(
    extractor: FeatureExtractor, described: dict[str, Tensor], outputs: Sequence[str], count: int
) -> dict[str, Tensor]:
    """The outputs of a batch, if all are there, for each image, and as wide as the extractor declares.

    Raises:
        BrokenContract: they aren't.
    """
    missing = [name for name in outputs if name not in described]
    if missing:
        raise BrokenContract(f"{_name(extractor)}.describe() gives no {', '.join(missing)}")
    for name in outputs:
        declared = {
            "pooled": (count, extractor.channels),
            "tokens": (count, extractor.spec.tokens, extractor.spec.channels),
        }
        meant = declared.get(name, (count, *described[name].shape[1:]))
        _require(extractor, f"describe() {name}", described[name], meant)
    return described


def _require(
    part: object, method: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    if tuple(value.shape) == shape and dtype in (None, value.dtype):
        return
    kinds = [str(kind).removeprefix("torch.") if kind else "" for kind in (value.dtype, dtype)]
    call = method if "(" in method else f"{method}()"
    found, declared = f"{kinds[0]} {tuple(value.shape)}", f"{kinds[1]} {shape}".strip()
    raise BrokenContract(f"{_name(part)}.{call} gives {found}; declared is {declared}")


def _name(part: object) -> str:
    return type(part).__name__
