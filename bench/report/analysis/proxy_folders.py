"""Cheap predictors in one or several results folders: of each alone, and of all within folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ... import registry
from ...leaderboard.numbers import plural
from ...leaderboard.results import Results
from ...options.words import listed
from ...records.files import RecordError, read_records
from ...records.labels import slug
from ...user_error import UserError
from . import claimed_proxies, proxies
from .board import Board
from .findings import Finding
from .proxy_measures import Study
from .proxy_signals import LEAST

TOGETHER = "all folders"


class ProxyError(UserError):
    """Results from which no relation of signals and generation can be told."""


@dataclass(frozen=True)
class Part:
    """The rows of one dataset of a results folder."""

    name: str
    board: Board


@dataclass(frozen=True)
class Report:
    """The findings of one part, or of all together."""

    name: str
    findings: list[Finding]


def report(
    folders: Sequence[Path], generator: str | None = None, measure: str | None = None, figures: int = 0
) -> tuple[list[Report], list[str]]:
    """The findings of each results folder's datasets and, of several, of all within each; and notes.

    Args:
        generator: the only one that is looked at; all and their mean rank by default.
        measure: the generation distance in place of the leaderboard's, such as `gFD[inception]`.
        figures: how many signals get a figure of their own.

    Raises:
        RecordError: a folder has no records, or one cannot be read.
        ProxyError: the generator or the distance is in no folder, or no folder has four rows with signals.
    """
    parts = _parts(folders, measure)
    if measure is not None and all(part.board.column is None for part in parts):
        known = sorted({c.name for part in parts for c in part.board.distances})
        raise ProxyError(registry.unknown("measure", measure, known))
    known = sorted({name for part in parts for name in part.board.generators()})
    if generator is not None and generator not in known:
        raise ProxyError(registry.unknown("generator", generator, known))
    studies = [(part, proxies.measure((part.board,), generator)) for part in parts]
    reasons = [f"{part.name}: {_reason(part, generator)}" for part, study in studies if not study.fidelities]
    usable = [(part, study) for part, study in studies if study.fidelities]
    if not usable:
        raise ProxyError("\n".join(reasons))
    alone = figures if len(usable) == 1 else 0  # else the figures of all together have these panels
    reports = [Report(part.name, _findings(study, [part.name], alone)) for part, study in usable]
    if len(usable) > 1:
        together = proxies.measure(tuple(part.board for part, _ in usable), generator)
        names = [part.name for part, _ in usable]
        reports.insert(0, Report(TOGETHER, _findings(together, names, figures)))
        for one in reports[1:]:
            one.findings[:] = [replace(f, name=f"{slug(one.name)}--{f.name}") for f in one.findings]
    return reports, [f"left out: {reason}" for reason in reasons]


def _findings(study: Study, names: Sequence[str], figures: int) -> list[Finding]:
    found = [proxies.describe(study, names, figures), claimed_proxies.describe(study)]
    return [finding for finding in found if finding is not None]


def _parts(folders: Sequence[Path], measure: str | None) -> list[Part]:
    """The datasets of each folder, by names that differ."""
    parts = []
    bases = Counter(folder.resolve().name for folder in folders)
    for folder in folders:
        records = read_records(folder / "records")
        if not records:
            raise RecordError(f"no records in {folder / 'records'}")
        base = folder.resolve().name
        name = base if bases[base] == 1 else str(folder)
        datasets = Results.of(records).datasets
        for dataset, results in datasets.items():
            full = f"{name} ({dataset})" if len(datasets) > 1 else name
            parts.append(Part(full, Board(results, measure)))
    return parts


def _reason(part: Part, generator: str | None) -> str:
    """The reason why a part has no finding, and what to do."""
    board = part.board
    if board.column is None:
        return "no generation distance; add `generation` to the matrix's `evaluators:`"
    counts = Counter(entry.generator for entry in board.entries if generator in (None, entry.generator))
    if max(counts.values(), default=0) < LEAST:
        most = plural(max(counts.values(), default=0), "row")
        return f"{most} of a generator have {board.measure}; a relation takes at least {LEAST}"
    return f"no signals in {LEAST} rows; add some of {listed(signal_evaluators(), 20)} to `evaluators:`"


def signal_evaluators() -> list[str]:
    """The evaluators whose scores of tokenizers are signals."""
    found = []
    for name in registry.names("evaluators"):
        metrics = getattr(registry.get("evaluators", name), "metrics", {})
        if name != "cost" and any(metric.scope == "tokenizer" for metric in metrics.values()):
            found.append(name)
    return found
