"""Fits a first matrix to images and tokenizers: it is read and planned as `bench run` does it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from .. import registry
from ..api import Dataset, Unfit
from ..matrix.load import load_matrix
from ..matrix.matrix import MatrixRow
from ..matrix.parts import NONE
from ..matrix.yaml_text import MatrixError, Problem
from ..options.options import options_of
from ..plan.forecast import forecast
from ..plan.make import NetworkNeeded, make_plan
from ..plan.meta_parts import DatasetPlan, MetaParts, Refused
from ..plan.plan import TRAINED, Cell, Plan
from ..store.user_paths import user_path
from .first_matrix import FirstMatrix
from .first_rows import (
    DRAWS,
    MEAN,
    SECTIONS,
    Row,
    part_rows,
    plain_label,
    spare_rows,
    tokenizer_rows,
    with_first_options,
)
from .named_rows import MeaninglessName, dataset_row, is_row

SIDES = (8, 64)  # pixels: the least and the largest side that is chosen for images of files
LOOKED_AT = 32  # pictures whose sizes are read
TOKENS = ((64, 64), (math.inf, 256))  # the largest side of images, and the most latent tokens
STEPS = (2000, 1500, 1000, 700, 500, 300, 200, 100)  # of a tokenizer, the most first
HOURS = 0.75  # the estimate stays below this, if it does with the fewest steps
EPOCHS = 300  # at most: small sets are soon learned by heart
UTILISATION = 0.35  # of a core's peak speed, as in `bench plan`
SMOKE = {"train": 512, "val": 128}  # images


@dataclass(frozen=True)
class Wishes:
    """A dataset, and the names of parts; () stands for the usual ones."""

    data: str = "digits"
    tokenizers: Sequence[str] = ()
    regularizers: Sequence[str] = ()
    generators: Sequence[str] = ()
    size: int | None = None  # of images, in pixels
    plugins: Sequence[str] = ()
    name: str | None = None


def fit_first_matrix(wishes: Wishes) -> FirstMatrix:
    """A matrix of these parts on these images, all rows of which can run.

    Raises:
        MatrixError: with everything that `bench run` would refuse, and every row that fits no other.
        MeaninglessName: there is no such dataset, or a tokenizer is named twice.
    """
    for path in (wishes.data, *wishes.tokenizers, *wishes.plugins):
        if any("\ud800" <= character <= "\udfff" for character in path):  # bytes, as Python has them
            raise MeaninglessName(f"{path!r} is no UTF-8, which a matrix is: rename it, or link to it")
    dataset = dataset_row(wishes.data, wishes.size)
    rows = {"tokenizers": tokenizer_rows(wishes.tokenizers)}
    rows |= {kind: part_rows(kind, getattr(wishes, kind)) for kind in ("regularizers", "generators")}
    first = _looked_at(wishes, dataset, rows)
    first = _with_tokenizers(first)
    first, plan = _planned(first)
    first = _budgeted(_with_spares(first), plan)
    for spares in (False, True):
        load_matrix(first.data(spares), profile="smoke")
    return first


def _looked_at(wishes: Wishes, dataset: dict[str, Any], rows: Mapping[str, Sequence[Row]]) -> FirstMatrix:
    """The matrix with what the images say: their number, classes and sizes; names of parts are checked."""
    label = _label_of(str(dataset["root"])) if "root" in dataset else str(dataset["use"])
    first = FirstMatrix(
        name=plain_label(wishes.name or label),
        dataset=dataset,
        description=(),
        train_images=0,
        val_images=0,
        classes=0,
        side=0,
        picture_side=None,
        batch=1,
        samples=4,
        smoke_count=None,
        rows=rows,
        plugins=wishes.plugins,
    )
    _, data = _meta_parts(first, fetch=True)
    images, sizes = data.dataset, data.dataset.picture_sizes(LOOKED_AT)
    side = median(map(min, sizes)) if sizes else None
    chosen = wishes.size is not None or (is_row(wishes.data) and "size" in dataset)
    if side is not None and not chosen:
        dataset = dataset | {"size": min(max(2 ** round(math.log2(side)), SIDES[0]), SIDES[1])}
    height = dataset["size"] if sizes else images.image.height
    if height < 4:
        raise MeaninglessName(
            f"{wishes.data} has images of {height} x {images.image.width}: a first matrix is for pictures; "
            "`bench run --matrix lab2d` is for points"
        )
    if "root" in dataset:
        dataset = dataset | {"label": label}
    count = images.size("train")
    return replace(
        first,
        dataset=dataset,
        description=data.description,
        train_images=count,
        val_images=images.size("val"),
        classes=images.classes,
        side=height,
        picture_side=side,
        batch=min(64 if height <= 32 else 32, 2 ** int(math.log2(count))),
        samples=min(1000, max(100, count)),
        smoke_count=_fewer(images, str(dataset["use"])),
    )


def _label_of(data: str) -> str:
    """The name of a folder or a file of images."""
    place = user_path(data).resolve()
    return plain_label((place.stem if place.is_file() else place.name) or "images")


def _fewer(images: Dataset, part: str) -> dict[str, int] | None:
    """A `count` of fewer images; None where the option says how many files there are, or isn't there."""
    option = options_of(registry.get("datasets", part)).get("count")
    fewer = {split: min(most, images.size(split)) for split, most in SMOKE.items()}  # type: ignore[arg-type]
    if images.decodes or option is None or not option.accepts(fewer):
        return None
    return fewer if fewer["train"] < images.size("train") else None


def _with_tokenizers(first: FirstMatrix) -> FirstMatrix:
    """The matrix with tokenizers' first options; those that have weights of their own are not trained.

    Raises:
        MatrixError: with the tokenizers that don't fit the images.
    """
    parts, data = _meta_parts(first)
    tokens = _most_tokens(first)
    chosen = [with_first_options(row, data.dataset.image, tokens) for row in first.rows["tokenizers"]]
    first = replace(first, rows={**first.rows, "tokenizers": chosen})
    parts, data = _meta_parts(first)
    untrained, problems = [], []
    for row in parts.matrix.tokenizers:
        try:
            model = parts.tokenizer(data, row, MatrixRow(MEAN, MEAN, {}))
        except Refused:
            continue
        except Unfit as error:
            problems.append(_problem("tokenizers", row.label, str(error)))
            continue
        if model.own_weights() is not None:
            untrained.append(row.label)
    _raise_problems(parts, problems)
    rows = {**first.rows, "tokenizers": [_as_it_is(r) if r.label in untrained else r for r in chosen]}
    if len(untrained) == len(chosen):
        rows["regularizers"] = [r for r in rows["regularizers"] if r.asked or r.label in (MEAN, DRAWS)]
    return replace(first, rows=rows, untrained=untrained)


def _as_it_is(row: Row) -> Row:
    options = {**row.options, "budget": {"tokenizer_steps": 0}}
    return replace(row, options=options, note="scored as it is")


def _most_tokens(first: FirstMatrix) -> int:
    return next(tokens for side, tokens in TOKENS if first.side <= side)


def _planned(first: FirstMatrix) -> tuple[FirstMatrix, Plan]:
    """The matrix with the cells that are skipped, and its plan.

    Raises:
        MatrixError: a row that was asked for fits no other row; a usual one is left out.
    """
    # Weights at Hugging Face are downloaded by `bench run`, everything else has to be here now.
    places = [row.options.get("path") for row in first.chosen("tokenizers")]
    here = all(place is None or user_path(place).exists() for place in places)
    plan = make_plan(load_matrix(first.data()), fetch=here)
    cells = [cell for cell in plan.cells if not cell.real]
    while dead := list(_rows_that_never_run(first, cells)):
        if asked := [_problem(section, row.label, why) for section, row, why in dead if row.asked]:
            raise MatrixError(asked)
        gone = {(section, row.label) for section, row, _ in dead}
        rows = {s: [row for row in first.rows[s] if (s, row.label) not in gone] for s in SECTIONS}
        first = replace(first, rows=rows)
        cells = [cell for cell in cells if not gone & set(_rows_of(cell))]
    skipped = [(cell.name, cell.skipped) for cell in cells if cell.skipped]
    return replace(first, skipped=skipped), plan


def _rows_that_never_run(first: FirstMatrix, cells: Sequence[Cell]) -> list[tuple[str, Row, str]]:
    """Rows all of whose cells are skipped, with the first reason."""
    found = []
    for section in SECTIONS:
        for row in first.chosen(section):
            own = [cell for cell in cells if (section, row.label) in _rows_of(cell)]
            if all(cell.skipped for cell in own):
                found.append((section, row, own[0].skipped or "" if own else "no row is left for it"))
    return found


def _rows_of(cell: Cell) -> list[tuple[str, str]]:
    return [*zip(SECTIONS, (cell.tokenizer, cell.regularizer, cell.generator), strict=True)]


def _with_spares(first: FirstMatrix) -> FirstMatrix:
    """The matrix with those spare rows whose parts can be built for these images."""
    parts, data = _meta_parts(first)
    spare = spare_rows(first.rows, first.untrained, data.dataset.image, _most_tokens(first), first.classes)
    all_rows = {section: [*first.rows[section], *spare[section]] for section in SECTIONS}
    parts = MetaParts(load_matrix(replace(first, rows=all_rows).data(spares=True)), fetch=False)
    trained = next((row for row in first.chosen("tokenizers") if row.label not in first.untrained), None)
    tokenizer = _row(parts.matrix.tokenizers, (trained or first.chosen("tokenizers")[0]).label)
    mean = MatrixRow(MEAN, MEAN, {})

    def fits(section: str, row: MatrixRow) -> bool:
        try:
            if section == "tokenizers":
                parts.tokenizer(data, row, mean)
            elif section == "regularizers":
                parts.regularizer(data, tokenizer, row)
            elif row.part != NONE:
                parts.generator(data, tokenizer, mean, row)
        except (Unfit, Refused):
            return False  # it isn't offered
        return True

    rows = {section: list(first.rows[section]) for section in SECTIONS}
    for section in SECTIONS:
        matrix_rows = getattr(parts.matrix, section)
        rows[section] += [row for row in spare[section] if fits(section, _row(matrix_rows, row.label))]
    return replace(first, rows=rows)


def _row(rows: Sequence[MatrixRow], label: str) -> MatrixRow:
    return next(row for row in rows if row.label.partition("[")[0] == label)


def _budgeted(first: FirstMatrix, plan: Plan) -> FirstMatrix:
    """The matrix with as many updates as take less than HOURS, by the estimate of `bench plan`."""
    labels = {(section, row.label) for section in SECTIONS for row in first.chosen(section)}
    cells = [cell for cell in plan.cells if cell.real or labels.issuperset(_rows_of(cell))]
    costs = forecast(plan, cells, [], "cpu", "fp32", UTILISATION)
    training = sum(costs.hours(stage) or 0 for stage in costs.stages if stage.kind in TRAINED)
    others = sum(costs.hours(stage) or 0 for stage in costs.stages if stage.kind not in TRAINED)
    for steps in STEPS:
        hours = others + training * steps / first.steps
        if hours <= HOURS and steps * first.batch <= EPOCHS * first.train_images:
            break
    return replace(first, steps=steps, hours=hours)


def _meta_parts(first: FirstMatrix, fetch: bool = False) -> tuple[MetaParts, DatasetPlan]:
    """Parts of the matrix, and its dataset.

    Raises:
        MatrixError: with all problems of the matrix or of its dataset.
    """
    parts = MetaParts(load_matrix(first.data()), fetch)
    try:
        return parts, parts.dataset(parts.matrix.datasets[0])
    except Refused:
        _raise_problems(parts)
        raise


def _raise_problems(parts: MetaParts, more: Sequence[Problem] = ()) -> None:
    problems = [*parts.problems.values(), *more]
    if problems:
        raise (NetworkNeeded if parts.offline else MatrixError)(problems)


def _problem(section: str, label: str, message: str) -> Problem:
    return Problem(f"{section}.{label}", 0, 0, message)
