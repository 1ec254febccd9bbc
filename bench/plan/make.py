"""From a matrix to cells and the stages that they share, each with its content-addressed key.

A key is the sha256 of everything that the stage's numbers depend on: its resolved config, the versions of its
parts, the hashes of data and weights, threads, precision and device, and its parents' keys. Jobs, time-outs
and paths are not in it.
"""

from __future__ import annotations

from collections import Counter
from itertools import product

from ..api import Unfit
from ..matrix.matrix import PATTERNS, Matrix, MatrixRow, Seed
from ..matrix.parts import NONE
from ..matrix.yaml_text import MatrixError
from ..stages.guidance import CHOSEN
from .meta_parts import DatasetPlan, MetaParts, Refused
from .outside_parts import check_outside_parts
from .plan import PROBE, Cell, Plan
from .snapshots import probed
from .stage_graph import StageGraph


class NetworkNeeded(MatrixError):
    """A matrix that needs files which, under `--offline`, must not be downloaded."""

    exit_code = 4


def make_plan(matrix: Matrix, *, device: str = "cpu", fetch: bool = False) -> Plan:
    """Cells and stages of a matrix; rows whose parts don't fit each other become skipped cells.

    With `fetch`, missing weights are downloaded, as their hashes are part of the keys, and parts from plugins
    are asked for what they promise.

    Raises:
        MatrixError: with every option that a constructor refuses, at its row.
    """
    parts = MetaParts(matrix, fetch)
    graph = StageGraph(matrix, parts, device)
    plan = graph.plan
    generated = graph.scored("generator") and any(row.part != NONE for row in matrix.generators)
    plans: list[DatasetPlan] = []
    for row in matrix.datasets:
        try:
            data = graph.dataset(row)
        except Refused:
            continue
        plans.append(data)
        plan.descriptions[row.label] = data.description
        axes = (matrix.tokenizers, matrix.regularizers, matrix.generators, matrix.seeds)
        for tokenizer, regularizer, generator, seed in product(*axes):
            try:
                plan.cells.append(_cell(graph, data, tokenizer, regularizer, generator, seed))
            except Refused:
                continue
        if generated and plan.cells:
            held_out = {"": graph.held_out_scores(data)}
            plan.cells.append(Cell(row.label, "real", "real", "real", "0", held_out))
    if fetch and not parts.problems:
        check_outside_parts(matrix, parts, plans)
    if parts.problems:
        problems = sorted(parts.problems.values(), key=lambda p: (p.file, p.line, p.column))
        raise (NetworkNeeded if parts.offline else MatrixError)(problems)
    plan.uses = Counter(stage.id for cell in plan.cells for stage in plan.needed([cell]))
    return plan


def _cell(
    graph: StageGraph,
    data: DatasetPlan,
    tokenizer: MatrixRow,
    regularizer: MatrixRow,
    generator: MatrixRow,
    seed: Seed,
) -> Cell:
    """A cell whose stages are in the graph, or a skipped cell with the reason."""
    rows = (tokenizer, regularizer, generator)
    labels = {name: row.label for name, row in zip(PATTERNS, (data.row, *rows), strict=True)}
    labels["seed"] = seed.label
    skipped = next((skip.why for skip in graph.matrix.skip if skip.matches(data.row, *rows)), None)
    try:  # also of skipped cells, so that all options of all rows are checked
        parents = graph.generator(data, rows, seed)
        scores = {"": graph.tokenizer_scores(data, tokenizer, regularizer, seed)}
    except Unfit as error:
        skipped = skipped or str(error)
    if skipped is not None:
        return Cell(**labels, scores={}, skipped=skipped)
    if sweep := graph.sweep(data, rows, seed, parents):
        parents = parents | sweep
        scores[CHOSEN] = graph.generator_scores(data, rows, seed, parents, CHOSEN)
    for guidance in () if sweep else generator.guidance:
        scores[f"{guidance:g}"] = graph.generator_scores(data, rows, seed, parents, guidance)
    trained = graph.plan.stages.get(parents.get("generator", ""))
    for step in probed(graph.matrix, generator) if trained and "snapshots" in trained.config else ():
        along = CHOSEN if sweep else max(generator.guidance)
        scores[f"{PROBE}{step}"] = graph.generator_scores(data, rows, seed, parents, along, step)
    return Cell(**labels, scores={name: stage for name, stage in scores.items() if stage})
