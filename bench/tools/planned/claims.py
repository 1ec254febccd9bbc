"""Claims that were written down before a run, and what its records say of each.

A claim is that one row generates better than another. All claims of a file are tested together, so that a
claim that was thought of afterwards can't join without costing the others power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ...leaderboard.numbers import plural
from ...leaderboard.ranking import comparable, on_shared_images
from ...leaderboard.rows import Column
from ...matrix.yaml_text import Document, MatrixError, Problem, parse, read
from ...records.labels import matches
from ...registry import unknown
from ...report.analysis.board import Board, Entry, spread, table_of
from ...report.analysis.findings import Finding
from ...statistics.significance import ALPHA, difference
from . import proxies
from .proxies import Proxy
from .records_of_statement import records_of
from .statement_keys import Trail, key_problems, label_problems, text_problems
from .verdicts import Bar, corrected, counted, picture, with_reason

GAIN = 0.05  # a claim fails if the interval leaves out a gain of this share of the distance
LISTS = ["claims", "proxies"]
TEXTS, SIDES = ("paper", "claim"), ("better", "than")
AXES = ("dataset", "tokenizer", "regularizer", "generator")
EXAMPLE = (
    "claims: [{paper: …, claim: …, better: {regularizer: kl, generator: mar}, than: {regularizer: none, …}}]"
)


@dataclass(frozen=True)
class Claim:
    """A claim, and the patterns of the labels of its two rows; `results` is a folder of the file's."""

    paper: str
    claim: str
    better: dict[str, str]
    than: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """The test of a claim on records; gains are shares of the other row's distance, and p is Holm's."""

    claim: Claim
    column: Column | None = None  # the distance; None: a row isn't there
    better: Entry | None = None
    than: Entry | None = None
    gain: float = math.nan
    low: float = math.nan
    high: float = math.nan
    alone: float = math.nan  # p of this claim alone
    p: float = math.nan
    why: str = ""  # a row isn't there, or has one seed

    @property
    def verdict(self) -> str:
        """ "holds", "fails", "can't be told", or "not run"."""
        if self.column is None:
            return "not run"
        if self.why:
            return "can't be told"
        if self.gain > 0 and self.p < ALPHA:
            return "holds"
        return "fails" if self.high < GAIN else "can't be told"


class Side(NamedTuple):
    """The row that a side of a claim names, in the board of its folder; `absent` is why there is none."""

    board: Board | None
    entry: Entry | None
    absent: str


def read_planned(file: Path) -> tuple[list[Claim], list[Proxy]]:
    """The claims of a YAML file, and its proxies if there are any: two lists of mappings.

    Raises:
        MatrixError: with all of the file's problems and their lines.
    """
    document = parse(read(file, str(file)), str(file), f"claims are a mapping such as `{EXAMPLE}`")
    claims = document.data.get("claims")
    problems = [
        *document.problems,
        *(
            document.problem((key,), unknown("key", key, LISTS), True)
            for key in document.data
            if key not in LISTS
        ),
        *proxies.problems_of(document),
    ]
    if not isinstance(claims, list) or not claims:
        problems.append(document.problem(("claims",), f"claims must be a list such as `{EXAMPLE}`"))
        claims = []
    for number, claim in enumerate(claims):
        problems += _problems(document, claim, ("claims", number))
    if problems:
        raise MatrixError(problems)
    return [Claim(**claim) for claim in claims], [Proxy(**p) for p in document.data.get("proxies", [])]


def _problems(document: Document, claim: Any, trail: Trail) -> list[Problem]:
    problems = key_problems(document, claim, trail, "a claim", [*TEXTS, *SIDES], EXAMPLE)
    if not isinstance(claim, dict):
        return problems
    problems += text_problems(document, claim, trail, TEXTS)
    for side in (side for side in SIDES if side in claim):
        about = f"{side} names a row: {{regularizer: kl, generator: mar}}"
        problems += label_problems(document, claim[side], (*trail, side), AXES, about)
        if isinstance(claim[side], dict) and not claim[side].keys() - {"results"}:
            problems.append(document.problem((*trail, side), about))
    if not problems and claim["better"] == claim["than"]:
        problems.append(document.problem((*trail, "than"), "both sides of this claim name the same row"))
    return problems


def outcomes_of(file: Path, claims: Sequence[Claim]) -> list[Outcome]:
    """The outcome of each claim of a file, with the rows of the results folders that it names.

    A side without `results` is in the folder of the file. The error of a difference is that of ranks: it is
    pooled over all rows of the generator, if both sides have the same one.

    Raises:
        MatrixError: a side fits several rows, or its folder has several datasets and the side names none.
        RecordError: a results folder can't be read.
    """
    boards: dict[tuple[Path, str], Board | None] = {}
    outcomes = []
    for number, claim in enumerate(claims):
        sides: list[Side] = []
        for name in SIDES:
            labels, where = dict(getattr(claim, name)), f"{file}: claim {number + 1}: {name}"
            folder = (file.parent / labels.pop("results", ".")).resolve()
            dataset = labels.pop("dataset", "*")
            if (folder, dataset) not in boards:
                records = records_of(folder, {"dataset": dataset}, where)
                boards[folder, dataset] = Board(records) if records else None
            sides.append(_side(boards[folder, dataset], labels, folder, where))
        outcomes.append(_outcome(claim, *sides))
    adjusted = corrected([outcome.alone for outcome in outcomes])
    return [replace(outcome, p=p) for outcome, p in zip(outcomes, adjusted, strict=True)]


def _side(board: Board | None, labels: dict[str, str], folder: Path, where: str) -> Side:
    if board is None:
        return Side(None, None, f"no records in {folder.name}")
    fitting = [
        entry
        for entry in board.entries
        if all(matches(getattr(entry, axis), [pattern]) for axis, pattern in labels.items())
    ]
    named = " · ".join(labels.values())
    if len(fitting) > 1:
        rows = "; ".join(f"{e.tokenizer} · {e.regularizer} · {e.generator}" for e in fitting[:4])
        raise MatrixError([Problem(where, 0, 0, f"{named} fits {len(fitting)} rows: {rows}")])
    if not fitting:
        return Side(board, None, f"{folder.name} has no row {named} with a distance of samples")
    return Side(board, fitting[0], "")


def _outcome(claim: Claim, ours: Side, theirs: Side) -> Outcome:
    board, better, than = ours.board, ours.entry, theirs.entry
    if board is None or better is None or than is None or board.column is None:
        return Outcome(claim, why=ours.absent or theirs.absent)
    if theirs.board is None or theirs.board.column != board.column:
        return Outcome(claim, why="the two rows have no distance of one protocol in common")
    pooled = board is theirs.board and better.generator == than.generator
    entries = board.with_generator(better.generator) if pooled else [better, than]
    observations, logs = comparable([entry.value.observations for entry in entries], board.column)
    a, b = (observations[entries.index(entry)] for entry in (than, better))
    found = difference(a, b, on_shared_images(board.column), observations if pooled else ())

    def gain(effect: float) -> float:
        return -math.expm1(effect) if logs else -effect / than.mean

    gains = gain(found.effect), gain(found.high), gain(found.low)
    if found.basis != "seeds":
        why = "one tokenizer seed, so the variance of training is unknown"
        return Outcome(claim, board.column, better, than, *gains, why=why)
    return Outcome(claim, board.column, better, than, *gains, alone=found.p)


def finding(outcomes: Sequence[Outcome]) -> Finding:
    """The outcomes as an analysis: an answer, a table and a figure."""
    measure = " or ".join(sorted({o.column.described for o in outcomes if o.column})) or "distance"
    return Finding(
        "claims",
        "Claims that were written before the run",
        "Which claims hold here?",
        f"Of {plural(len(outcomes), 'claim')} {counted([outcome.verdict for outcome in outcomes])}.",
        f"A claim is that one row has a lower {measure} than another, each at its "
        "chosen guidance. The gain is a share of the other's mean, with a 95 % interval of this comparison "
        "alone; p has Holm's correction over all claims of the file. Errors are those of ranks: of paired "
        "seeds, pooled over the rows of the generator; with one seed nothing can be told. A claim holds if "
        f"it gains and p < {ALPHA}, fails if the interval leaves out a gain of {GAIN:.0%}, and otherwise "
        "can't be told.",
        table_of(_line(outcome) for outcome in outcomes),
        picture(
            [_bar(outcome) for outcome in outcomes],
            "gain, % of the other row's distance",
            100 * GAIN,
        ),
        shown=("paper", "claim", "better", "than", "gain, %", "from", "to", "p", "here"),
    )


def _line(outcome: Outcome) -> dict[str, Any]:
    claim = outcome.claim
    values: dict[str, Any] = {}
    for side, entry in (("better", outcome.better), ("than", outcome.than)):
        labels = getattr(claim, side)
        values[side] = " · ".join(labels[axis] for axis in AXES if axis in labels)
        if entry is not None and outcome.column is not None:
            values[f"{outcome.column.base}, {side}"] = spread(list(entry.value.by_seed.values()))
            values[f"seeds, {side}"] = entry.value.n
    return {
        "paper": claim.paper,
        "claim": claim.claim,
        **values,
        "gain, %": 100 * outcome.gain,
        "from": 100 * outcome.low,
        "to": 100 * outcome.high,
        "p alone": outcome.alone,
        "p": outcome.p,
        "here": with_reason(outcome.verdict, outcome.why),
    }


def _bar(outcome: Outcome) -> Bar:
    """A claim's gain; the interval of a pair that says nothing would hide those of all others."""
    gain, low, high = (100 * min(max(end, -2), 1) for end in (outcome.gain, outcome.low, outcome.high))
    return Bar(f"{outcome.claim.paper}: {outcome.claim.claim}", outcome.verdict, gain, low, high)
