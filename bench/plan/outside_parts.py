"""Promises of parts from plugins that are cheap to check before anything trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from .. import registry
from ..api import Unfit
from ..contracts import datasets, features, tokenizers
from ..contracts.common import BATCH, BrokenPromise, Part, rand_images
from ..matrix.matrix import Matrix, MatrixRow
from ..models import build
from .meta_parts import PACKAGE, DatasetPlan, MetaParts, Refused, base_class

LARGEST = 50_000_000  # parameters of a tokenizer that is built and run to be checked

Check = Callable[[], object]


def check_outside_parts(matrix: Matrix, parts: MetaParts, plans: Sequence[DatasetPlan]) -> None:
    """Adds broken promises of plugins' datasets, extractors and tokenizers to the problems, at their rows.

    Of what `bench check` asks, these are sizes, labels, shapes, types and ranges, for a few images. Data and
    weights must be on this machine.
    """
    for data in plans:
        for kind, row, check in _checks(matrix, parts, data):
            source = registry.sources(kind)[row.part]
            if source.module.startswith(PACKAGE):
                continue
            broken = f"the {registry.SINGULAR[kind]} {row.part!r} breaks its contract"
            try:
                check()
            except (Unfit, Refused):  # it isn't used on these images, or has a problem already
                continue
            except BrokenPromise as reason:
                parts.refuse(row, f"{broken}: {reason}")
            except Exception as error:  # a plugin may fail in any way
                parts.refuse(row, f"{broken}: {registry.cause(error, source.file)}")


def _checks(matrix: Matrix, parts: MetaParts, data: DatasetPlan) -> Iterator[tuple[str, MatrixRow, Check]]:
    """The kind, the row and the check of all that a dataset needs; only those of plugins are called."""
    yield "datasets", data.row, partial(_check_dataset, data)
    for row in (*matrix.features, matrix.teacher):
        yield "features", row, partial(_check_extractor, row, data)
    for tokenizer in matrix.tokenizers:
        for regularizer in matrix.regularizers:
            yield "tokenizers", tokenizer, partial(_check_tokenizer, parts, data, tokenizer, regularizer)


def _check_dataset(data: DatasetPlan) -> None:
    scene = datasets.Scene(Part("datasets", data.row.part, data.row.options))
    for check in (datasets.sizes, datasets.labels, datasets.images):
        check(scene)


def _check_extractor(row: MatrixRow, data: DatasetPlan) -> None:
    features.outputs(features.Scene(Part("features", row.part, row.options), data.dataset.image))


def _check_tokenizer(
    parts: MetaParts, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow
) -> None:
    planned = parts.tokenizer(data, tokenizer, regularizer)
    if sum(parameter.numel() for parameter in planned.parameters()) > LARGEST:
        return
    image, method = data.dataset.image, base_class(regularizer)
    model = build.tokenizer({"name": tokenizer.part, "options": tokenizer.options}, data.dataset, method)
    with torch.no_grad():
        tokenizers.check_shapes(model, rand_images(image, BATCH), method.expansion, method.extra)
