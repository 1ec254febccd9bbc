"""Numbers that were said before a run to foretell generation quality, and what its records say of each.

A proxy is a metric of tokenizers, such as iFD, with the direction that should go with better generation. All
proxies of a file are tested together, so that one that was thought of afterwards can't join without costing
the others power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...leaderboard.numbers import plural
from ...matrix.yaml_text import Document, Problem
from ...records.labels import AXES
from ...registry import unknown
from ...report.analysis.board import Board, caution, table_of
from ...report.analysis.claimed_proxies import UNKNOWN, fidelity_of, on_claimed_side
from ...report.analysis.findings import Finding
from ...report.analysis.proxies import measure
from ...report.analysis.proxy_measures import Estimate, Study
from ...statistics.significance import ALPHA
from .records_of_statement import records_of
from .statement_keys import key_problems, label_problems, text_problems
from .verdicts import Bar, corrected, counted, picture, with_reason

TAU = 0.5  # a proxy fails if its interval leaves out this tau
KEYS, ENDS = ["paper", "number", "better", "rows"], ["higher", "lower"]
EXAMPLE = "{paper: …, number: iFD, better: lower, rows: {tokenizer: vit, generator: lightningdit|tarflow}}"


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
    signal: str = ""  # the number's full name, with the network that it is of
    target: str = ""  # the generators that count
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
        high = self.tau.interval[1] if self.tau.interval else self.tau.value
        return "fails" if high < TAU else "can't be told"


def problems_of(document: Document) -> list[Problem]:
    """The problems of the document's `proxies`, which are a list of mappings as `EXAMPLE`, or absent."""
    proxies = document.data.get("proxies", [])
    if not isinstance(proxies, list):
        return [document.problem(("proxies",), f"proxies must be a list of mappings such as `{EXAMPLE}`")]
    problems: list[Problem] = []
    for number, proxy in enumerate(proxies):
        trail = ("proxies", number)
        problems += key_problems(document, proxy, trail, "a proxy", KEYS, EXAMPLE)
        if not isinstance(proxy, dict):
            continue
        problems += text_problems(document, proxy, trail, ("paper", "number"))
        name = proxy.get("number")
        if isinstance(name, str) and "[" in name:
            plain = name.partition("[")[0]
            message = f"number is a metric without its network: {plain}, by the network that ranks"
            problems.append(document.problem((*trail, "number"), message))
        if "better" in proxy and proxy["better"] not in ENDS:
            message = unknown("end", str(proxy["better"]), ENDS)
            problems.append(document.problem((*trail, "better"), message))
        about = "rows are patterns of labels: {tokenizer: vit, generator: lightningdit|tarflow}"
        if "rows" in proxy:
            problems += label_problems(document, proxy["rows"], (*trail, "rows"), AXES, about)
    return problems


def outcomes_of(proxies: Sequence[Proxy], file: Path) -> list[Outcome]:
    """The outcome of each proxy by the rows it names, in a results folder that is relative to its file.

    Of several generators the mean rank of a row counts.

    Raises:
        MatrixError: the rows are of several datasets.
        RecordError: a results folder can't be read.
    """
    studies: dict[tuple[tuple[str, str], ...], Study | str] = {}
    outcomes = []
    for number, proxy in enumerate(proxies):
        rows = tuple(sorted(proxy.rows.items()))
        if rows not in studies:
            studies[rows] = _study(dict(rows), file.parent, f"{file}: proxy {number + 1}")
        outcomes.append(_outcome(proxy, studies[rows]))
    adjusted = corrected([outcome.tau.p for outcome in outcomes])
    return [replace(outcome, p=p) for outcome, p in zip(outcomes, adjusted, strict=True)]


def _study(labels: dict[str, str], folder: Path, where: str) -> Study | str:
    """The measures of the rows, or why there are none."""
    results = (folder / labels.pop("results", ".")).resolve()
    records = records_of(results, labels, where)
    if not records:
        return f"no such rows in {results.name}"
    study = measure((Board(records),))
    return study if study.fidelities else "no generator has four such rows that were scored"


def _outcome(proxy: Proxy, study: Study | str) -> Outcome:
    if isinstance(study, str):
        return Outcome(proxy, why=study)
    fidelity = fidelity_of(proxy.number, [f for f in study.fidelities if f.target == study.target])
    if fidelity is None:
        return Outcome(proxy, why=f"no {proxy.number} in these rows, or the same in all")
    tau = on_claimed_side(fidelity.tau, fidelity, 1.0 if proxy.better == "higher" else -1.0)
    generators = dict.fromkeys(f.target for f in study.fidelities if f.target != study.target)
    target = ", ".join(generators) or study.target
    return Outcome(proxy, tau, fidelity.rows, fidelity.signal.name, target, fidelity.seeds)


def finding(outcomes: Sequence[Outcome]) -> Finding:
    """The outcomes as an analysis: an answer, a table and a figure."""
    return Finding(
        "planned_proxies",
        "Predictors that were named before the run",
        "Which of them foretell the order of rows here?",
        f"Of {plural(len(outcomes), 'number')} {counted([o.verdict for o in outcomes])}."
        + (caution(seeds) if (seeds := max(outcome.seeds for outcome in outcomes)) else ""),
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
        "number": outcome.signal or outcome.proxy.number,
        "better": outcome.proxy.better,
        "generators": outcome.target,
        "rows": outcome.rows,
        "τ": outcome.tau.value,
        "from": low,
        "to": high,
        "p alone": outcome.tau.p,
        "p": outcome.p,
        "here": with_reason(outcome.verdict, outcome.why),
    }


def _bar(outcome: Outcome) -> Bar:
    low, high = outcome.tau.interval or (outcome.tau.value,) * 2
    name = f"{outcome.proxy.number}, {outcome.proxy.better} ({outcome.proxy.paper})"
    return Bar(name, outcome.verdict, outcome.tau.value, low, high)
