"""Compares a record with what was made in its place, number by number: what explains a difference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...leaderboard.numbers import plural
from ...leaderboard.rows import full_protocol, reason_line
from ...options.words import listed
from ...records.provenance import flat
from ...records.record import Record
from ...statistics.significance import ALPHA, holm
from .spread import Spread, of_seeds, rounding, same_training

Verdict = Literal["equal", "within rounding", "within seeds' spread", "outside", "not told"]
FACTS = (
    "latentbench",
    "python",
    "packages",
    "git_commit",
    "device",
    "machine",
    "threads",
    "precision",
    "parts",
)


@dataclass(frozen=True)
class ComparedNumber:
    """A metric of a record and of what was made in its place."""

    cell: str
    metric: str
    recorded: float | None
    made: float | None
    spread: Spread
    verdict: Verdict
    why: str = ""
    p: float | None = None  # of a difference by seeds, corrected over all of them

    @property
    def units(self) -> float | None:
        """The difference in units of its spread."""
        if self.recorded is None or self.made is None or not self.spread.size:
            return None
        return abs(_gap(self.recorded, self.made, self.spread)) / self.spread.size


@dataclass(frozen=True)
class Comparison:
    """All numbers of the cells that were made again, and how the two makings differ."""

    numbers: list[ComparedNumber]
    notes: list[str]
    failed: list[str]  # cells that could not be made, with the reason

    @property
    def outside(self) -> list[ComparedNumber]:
        return [one for one in self.numbers if one.verdict == "outside"]

    @property
    def passed(self) -> bool:
        """Whether nothing lies outside, and all cells were made."""
        return not self.outside and not self.failed


def compare(records: Sequence[Record], pairs: Sequence[tuple[Record, Record]]) -> Comparison:
    """Compares records with those that were made in their place.

    Args:
        records: all of the folder, whose seeds give the spread.
        pairs: (recorded, made).
    """
    numbers: list[ComparedNumber] = []
    notes: list[str] = []
    failed: list[str] = []
    for recorded, made in pairs:
        name = " · ".join(recorded.cell.values())
        if made.status != "done":
            failed.append(f"{name}: {made.status}: {reason_line(made)}")
            continue
        notes += [f"{name}: {text}" for text in _differences(recorded, made)]
        numbers += [_compared(records, recorded, made, metric, name) for metric in recorded.metrics]
        more = listed([metric for metric in made.metrics if metric not in recorded.metrics])
        notes += [f"{name}: the record lacks {more}"] if more else []
    return Comparison(_corrected(numbers), list(dict.fromkeys(notes)), failed)


def _compared(
    records: Iterable[Record], recorded: Record, made: Record, metric: str, cell: str
) -> ComparedNumber:
    a, b = recorded.metrics[metric], made.metrics.get(metric)
    value = a["value"]
    nothing = Spread("unknown", 0.0)
    if b is None:
        return ComparedNumber(cell, metric, value, None, nothing, "outside", "it has no number now")
    line = ComparedNumber(cell, metric, value, b["value"], nothing, "outside")
    if full_protocol(a) != full_protocol(b):
        why = f"another protocol: {_protocol_gaps(a, b)}"
        same_parts = recorded.provenance.get("parts") == made.provenance.get("parts")
        return replace(line, verdict="outside" if same_parts else "not told", why=why)
    alike = same_training(recorded, made, a["scope"])
    keys = ("value", "note", "bound", "replicates", "classes", "class_bounds")
    if all(a.get(key) == b.get(key) for key in keys):
        return replace(line, verdict="equal")
    if value is None or b["value"] is None or a.get("bound") or b.get("bound"):
        if value == b["value"] and a.get("bound") == b.get("bound"):
            return replace(
                line, verdict="within rounding" if not alike else "outside", why="its classes differ"
            )
        verdict: Verdict = "outside" if alike else "not told"
        return replace(line, verdict=verdict, why="a limit, or not finite")
    if alike:
        spread = rounding(b)
        off = [x for x in ("replicates", "classes") if _apart(a.get(x), b.get(x), 10 * spread.size)]
        if abs(value - b["value"]) > spread.size or off:
            why = "the training was the same, so only rounding can differ"
            return replace(line, spread=spread, why=f"its {' and '.join(off)} differ; {why}" if off else why)
        return replace(line, spread=spread, verdict="within rounding")
    spread = of_seeds(records, recorded, made, metric)
    if spread.kind == "unknown":
        return replace(
            line, spread=spread, verdict="not told", why="no row has two seeds, so no spread is known"
        )
    return replace(line, spread=spread, verdict="within seeds' spread", p=_p(value, b["value"], spread))


def _corrected(numbers: list[ComparedNumber]) -> list[ComparedNumber]:
    """The numbers with Holm's correction over all that are judged by seeds, and the verdicts that follow."""
    tested = [one.p for one in numbers if one.p is not None]
    corrected = iter(holm(tested).tolist() if tested else ())
    found = []
    for one in numbers:
        if one.p is not None:
            p = next(corrected)
            one = replace(one, p=p, verdict="outside" if p < ALPHA else one.verdict)
        found.append(one)
    return found


def _p(recorded: float, made: float, spread: Spread) -> float:
    """The two-sided p of a difference, by Student's t."""
    from scipy import special

    return float(2 * special.stdtr(spread.df, -abs(_gap(recorded, made, spread)) / spread.size))


def _gap(recorded: float, made: float, spread: Spread) -> float:
    return math.log(made / recorded) if spread.logs else made - recorded


def _apart(a: Any, b: Any, most: float) -> bool:
    """Whether replicates or classes differ by more than rounding explains."""
    if a == b:
        return False
    if type(a) is not type(b) or a is None or len(a) != len(b):
        return True
    pairs = [(a[k], b.get(k)) for k in a] if isinstance(a, dict) else list(zip(a, b, strict=True))
    return any((x is None) != (y is None) or (x is not None and abs(x - y) > most) for x, y in pairs)


def _protocol_gaps(a: dict[str, Any], b: dict[str, Any]) -> str:
    x, y = flat(full_protocol(a)), flat(full_protocol(b))
    keys = [key for key in dict.fromkeys([*x, *y]) if x.get(key) != y.get(key)]
    return listed([f"{key} {x.get(key)} in the record, {y.get(key)} now" for key in keys])


def _differences(recorded: Record, made: Record) -> list[str]:
    """How the makings of two records differ, in sentences."""
    ours = [flat({k: r.provenance[k] for k in FACTS if k in r.provenance}) for r in (recorded, made)]
    facts = [
        f"{key} {str(ours[0].get(key))[:40]}, now {str(ours[1].get(key))[:40]}"
        for key in dict.fromkeys([*ours[0], *ours[1]])
        if ours[0].get(key) != ours[1].get(key)
    ]
    texts = [f"made otherwise: {listed(facts, 12)}"] if facts else ["made with the same versions and machine"]
    if recorded.provenance.get("parts") != made.provenance.get("parts"):
        commit = str(recorded.provenance.get("git_commit") or "that made it")[:12]
        texts.append(
            f"the versions of its parts differ: numbers may too. The commit {commit} has the record's"
        )
    if recorded.key != made.key:
        texts.append("the record's key isn't that of the cell: its matrix, data or parts were others")
    for kind in dict.fromkeys([*recorded.curves, *made.curves]):
        a, b = recorded.curves.get(kind), made.curves.get(kind)
        if kind in ("tokenizer", "prior", "generator"):
            texts.append(f"losses of the {kind}: {'equal to the last bit' if a == b else _first_gap(a, b)}")
    return texts


def _first_gap(a: Any, b: Any) -> str:
    """The first step at which two curves differ, in words."""
    if not a or not b or a.keys() != b.keys() or a.get("step") != b.get("step"):
        return "recorded at other steps"
    for place, step in enumerate(a.get("step", [])):
        if any(a[name][place] != b[name][place] for name in a):
            return f"equal up to step {a['step'][place - 1] if place else 0}, then different ones by {step}"
    return "different"


def summary(comparison: Comparison) -> list[str]:
    """The verdict on all cells in sentences, and what it means."""
    counts: dict[str, int] = {}
    for one in comparison.numbers:
        counts[one.verdict] = counts.get(one.verdict, 0) + 1
    shares = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    texts = [f"{plural(len(comparison.numbers), 'number')}: {shares}"] if comparison.numbers else []
    tested = sum(one.p is not None for one in comparison.numbers)
    if tested:
        texts.append(
            f"{tested} are judged by the spread of seeds: about {ALPHA * tested:.2g} of them would lie "
            f"outside by chance at the 5 % level, so Holm's correction keeps the chance of any at 5 %. An "
            f"edit of less than a few units can't be told from another training"
        )
    if counts.get("not told"):
        texts.append(
            "what is not told is neither confirmed nor refuted: make it with the record's commit and kind of "
            "machine"
        )
    end = "reproduced" if comparison.passed else "NOT reproduced"
    if comparison.passed and not any(one.verdict != "not told" for one in comparison.numbers):
        end = "nothing could be told"
    return [*texts, end]
