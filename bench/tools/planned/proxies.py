"""Numbers that were said before a run to foretell generation quality, and what its records say of each.

A proxy is a number of tokenizers and the end of it that goes with better generation. All proxies of a file
are tested together, so that one that was thought of afterwards can't join without costing the others power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...leaderboard.numbers import plural
from ...matrix.yaml_text import Document, Problem
from ...options.words import shown
from ...records.files import read_records
from ...records.labels import AXES, selects
from ...registry import unknown
from ...report.analysis.board import Board, caution, table_of
from ...report.analysis.claimed_proxies import Outcome as Turned
from ...report.analysis.claimed_proxies import fidelity_of
from ...report.analysis.claims import Claim
from ...report.analysis.findings import Finding
from ...report.analysis.proxies import measure
from ...report.analysis.proxy_measures import Estimate, Study
from ...statistics.significance import ALPHA
from .verdicts import Bar, corrected, counted, picture

TAU = 0.5  # a proxy fails if its interval leaves out this tau
KEYS, ENDS = ["paper", "number", "better", "rows"], ["higher", "lower"]
EXAMPLE = "{paper: …, number: iFD, better: lower, rows: {tokenizer: vit, generator: lightningdit|tarflow}}"
UNKNOWN = Estimate(math.nan, None)


@dataclass(frozen=True)
class Proxy:
    """A number, `higher` or `lower` of which is better, over rows; `results` is a folder of the file's."""

    paper: str
    number: str
    better: str
    rows: dict[str, str]  # patterns of labels


@dataclass(frozen=True)
class Outcome:
    """The test of a proxy: Kendall's tau-b with quality, positive on the claimed side; p is Holm's."""

    proxy: Proxy
    tau: Estimate = UNKNOWN
    rows: int = 0
    target: str = ""
    seeds: int = 0  # the most of a row
    p: float = math.nan
    why: str = ""  # it wasn't measured

    @property
    def verdict(self) -> str:
        """One of "holds", "fails", "can't be told" and "not measured"."""
        if self.why:
            return "not measured"
        if self.tau.value > 0 and self.p < ALPHA:
            return "holds"
        return "fails" if self.tau.interval is not None and self.tau.interval[1] < TAU else "can't be told"


def problems_of(document: Document) -> list[Problem]:
    """The problems of the document's `proxies`, which are a list of mappings as `EXAMPLE`, or absent."""
    proxies = document.data.get("proxies", [])
    if not isinstance(proxies, list):
        return [document.problem(("proxies",), f"proxies must be a list of mappings such as `{EXAMPLE}`")]
    problems: list[Problem] = []
    for number, proxy in enumerate(proxies):
        trail = ("proxies", number)
        if not isinstance(proxy, dict):
            message = f"a proxy is a mapping such as `{EXAMPLE}`, not {shown(proxy)}"
            problems.append(document.problem(trail, message))
            continue
        for key in (key for key in proxy if key not in KEYS):
            problems.append(document.problem((*trail, key), unknown("key of a proxy", key, KEYS), True))
        problems += [document.problem(trail, f"a proxy needs {key!r}") for key in KEYS if key not in proxy]
        if "better" in proxy and proxy["better"] not in ENDS:
            problems.append(document.problem((*trail, "better"), unknown("end", proxy["better"], ENDS)))
        rows = proxy.get("rows", {})
        if not isinstance(rows, dict) or not all(isinstance(value, str) for value in rows.values()):
            message = "rows are patterns of labels: {tokenizer: vit, generator: lightningdit|tarflow}"
            problems.append(document.problem((*trail, "rows"), message))
            continue
        known = ["results", *AXES]
        for key in (key for key in rows if key not in known):
            problems.append(document.problem((*trail, "rows", key), unknown("label", key, known), True))
    return problems


def outcomes_of(proxies: Sequence[Proxy], folder: Path) -> list[Outcome]:
    """The outcome of each proxy by the rows it names, in a results folder that is relative to `folder`.

    Of several generators the mean rank of a row counts.

    Raises:
        RecordError: a results folder can't be read.
    """
    studies: dict[tuple[tuple[str, str], ...], Study | None] = {}
    outcomes = []
    for proxy in proxies:
        rows = tuple(sorted(proxy.rows.items()))
        if rows not in studies:
            studies[rows] = _study(dict(rows), folder)
        outcomes.append(_outcome(proxy, studies[rows]))
    adjusted = corrected([outcome.tau.p for outcome in outcomes])
    return [replace(outcome, p=p) for outcome, p in zip(outcomes, adjusted, strict=True)]


def _study(labels: dict[str, str], folder: Path) -> Study | None:
    place = folder / labels.pop("results", ".") / "records"
    patterns = {axis: pattern.split("|") for axis, pattern in labels.items()}
    records = [record for record in read_records(place) if not record.real and selects(patterns, record.cell)]
    return measure((Board(records),)) if records else None


def _outcome(proxy: Proxy, study: Study | None) -> Outcome:
    if study is None or not study.fidelities:
        return Outcome(proxy, why="fewer than four such rows")
    claim = Claim(proxy.number, proxy.number, proxy.better, None, "", "")
    fidelity = fidelity_of(claim, [f for f in study.fidelities if f.target == study.target])
    if fidelity is None:
        return Outcome(proxy, why=f"no {proxy.number} in these rows")
    target = proxy.rows.get("generator", study.target)
    return Outcome(proxy, Turned(claim, fidelity).tau, fidelity.rows, target, fidelity.seeds)


def finding(outcomes: Sequence[Outcome]) -> Finding:
    """The outcomes as an analysis: an answer, a table and a figure."""
    return Finding(
        "planned_proxies",
        "Predictors that were named before the run",
        "Which of them foretell the order of rows here?",
        f"Of {plural(len(outcomes), 'number')} {counted([o.verdict for o in outcomes])}."
        + caution(max(outcome.seeds for outcome in outcomes)),
        "τ is Kendall's τ-b over rows with the quality of generation, of several generators with the mean "
        "rank; it is positive if the end that was named goes with better generation. Its 95 % interval is "
        "over rows and seeds; p has Holm's correction over all numbers of the file. A number holds if τ is "
        f"positive and p < {ALPHA}, fails if the interval lies below {TAU}, and otherwise can't be told.",
        table_of(_line(outcome) for outcome in outcomes),
        picture(
            [_bar(outcome) for outcome in outcomes],
            "Kendall's τ with generation quality, positive as named",
            TAU,
            (-1.05, 1.05),
        ),
    )


def _line(outcome: Outcome) -> dict[str, Any]:
    low, high = outcome.tau.interval or (None, None)
    return {
        "paper": outcome.proxy.paper,
        "number": outcome.proxy.number,
        "better": outcome.proxy.better,
        "generators": outcome.target,
        "rows": outcome.rows,
        "τ": outcome.tau.value,
        "from": low,
        "to": high,
        "p alone": outcome.tau.p,
        "p": outcome.p,
        "here": f"{outcome.verdict}: {outcome.why}" if outcome.why else outcome.verdict,
    }


def _bar(outcome: Outcome) -> Bar:
    low, high = outcome.tau.interval or (outcome.tau.value,) * 2
    name = f"{outcome.proxy.number}, {outcome.proxy.better} ({outcome.proxy.paper})"
    return Bar(name, outcome.verdict, outcome.tau.value, low, high)
