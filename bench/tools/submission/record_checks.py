"""Checks of records by themselves: edited values, protocols, seeds and provenance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from ...leaderboard.rows import LABELS, full_protocol, shared_name
from ...metrics.names import base_name, kind_of_metric
from ...options.words import listed
from ...records.digest import KEY
from ...records.generators import trains_generator
from ...records.labels import natural
from ...records.provenance import flat
from ...records.record import Record
from .findings import Finding

Named = Mapping[str, Record]  # by the name of the file in the folder

# A value and the mean of its 100 replicates differ by a tenth of their standard deviation by chance, in the
# 781 committed records by 0.52 at the most. Ranks and entropies saturate, which biases their resamples: there
# the most is 2.3.
FROM_MEAN, FROM_BIASED_MEAN = 2.0, 6.0
BIASED = ("effective_rank", "spectral_entropy")
# Metrics that are means over items: the mean of all lies among the means of classes.
MEANS = re.compile(r"PSNR|SSIM|LPIPS|accuracy|label_agreement|coverage|density|precision|recall|memorisation")
OWN = re.compile(
    r"prior_|.*_own$"
)  # metrics against a row's own prior or reference: their protocol is its own
RERUN = "take the file that the run wrote, or make the cell anew"


def record_findings(records: Named, least_seeds: int) -> Iterator[Finding]:
    """All findings on records by themselves.

    Args:
        least_seeds: how many seeds each row that is trained must have.
    """
    for file, record in records.items():
        if file != f"records/{record.filename}":
            yield Finding((file,), f"its cell belongs in {record.filename}", "give it that name")
        for name, entry in record.metrics.items():
            yield from _metric_findings(file, record, name, entry)
    yield from _repeated_cells(records)
    yield from _protocols(records)
    yield from _seeds(records, least_seeds)
    yield from _copies(records)
    yield from _provenance(records)


def _metric_findings(file: str, record: Record, name: str, entry: Mapping[str, Any]) -> Iterator[Finding]:
    value, replicates = entry["value"], entry.get("replicates")
    if not entry["protocol"]:
        yield Finding((file,), f"the metric {name} has no protocol", "make the cell anew with its evaluator")
    if type(entry["n"]) is not int or entry["n"] < 1:
        yield Finding((file,), f"the metric {name} has n = {entry['n']!r}", RERUN)
    if value is None or not isinstance(value, int | float):
        if entry.get("note") not in ("nan", "inf", "-inf"):
            yield Finding((file,), f"the metric {name} has neither a value nor a note of why", RERUN)
        return
    if replicates and None not in replicates and not entry.get("bound"):
        yield from _away_from_replicates(file, name, float(value), replicates)
    classes = [v for v in (entry.get("classes") or {}).values() if v is not None]
    if len(classes) > 1 and MEANS.search(base_name(name)):
        low, high = min(classes), max(classes)
        room = (high - low) / 2 + 1e-9 * abs(value)  # images without a class count in the mean alone
        if not low - room <= value <= high + room:
            what = f"the metric {name} is {value:.6g}, its classes {low:.6g} to {high:.6g}: an edited value"
            yield Finding((file,), what, RERUN)


def _away_from_replicates(
    file: str, name: str, value: float, replicates: Sequence[float]
) -> Iterator[Finding]:
    spread = stdev(replicates) if len(replicates) > 1 else 0.0
    middle = fmean(replicates)
    most = FROM_BIASED_MEAN if kind_of_metric(name).startswith(BIASED) else FROM_MEAN
    if abs(value - middle) > most * spread + 1e-6 * max(abs(value), abs(middle)):
        what = f"the metric {name} is {value:.6g}, the mean of its resamples {middle:.6g} ± {spread:.2g}"
        yield Finding((file,), f"{what}: an edited value", RERUN)


def _repeated_cells(records: Named) -> Iterator[Finding]:
    files: dict[tuple[str, ...], list[str]] = {}
    for file, record in records.items():
        files.setdefault(tuple(record.cell.values()), []).append(file)
    for cell, names in files.items():
        if len(names) > 1:
            yield Finding(tuple(names), f"several records of the cell {'/'.join(cell)}", "leave one of them")


def _protocols(records: Named) -> Iterator[Finding]:
    """Metrics whose rows differ in protocol: they would stand in columns of their own, unranked."""
    found: dict[tuple[str, ...], dict[str, tuple[dict[str, Any], list[str]]]] = {}
    for file, record in records.items():
        for name, entry in record.metrics.items():
            protocol, shared = full_protocol(entry), shared_name(record, name)
            own = OWN.match(base_name(name))
            row = (
                tuple(record.cell[axis] for axis in LABELS[1:3]) if own else ("real",) if record.real else ()
            )
            key = (record.cell["dataset"], shared, *row)
            by_text = found.setdefault(key, {})
            by_text.setdefault(json.dumps(protocol, sort_keys=True), (protocol, []))[1].append(file)
    differing: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (_, name, *_), by_text in found.items():
        if len(by_text) > 1:
            fewest = min(by_text.values(), key=lambda pair: len(pair[1]))[1]
            differing.setdefault((_gaps([p for p, _ in by_text.values()]), tuple(fewest)), []).append(name)
    for (gaps, files), names in differing.items():
        yield Finding(
            files,
            f"{listed(list(dict.fromkeys(names)))}: another protocol than in other rows ({gaps})",
            "make these rows anew with the evaluators of the others, or submit two folders",
        )


def _gaps(protocols: Sequence[dict[str, Any]]) -> str:
    """The keys in which protocols differ, each with its values."""
    plain = [flat(protocol) for protocol in protocols]
    texts = []
    for key in dict.fromkeys(key for one in plain for key in one):
        values = list(dict.fromkeys(json.dumps(one.get(key)) for one in plain))
        if len(values) > 1:
            texts.append(f"{key} {' and '.join(values)}")
    return listed(texts)


def _seeds(records: Named, least: int) -> Iterator[Finding]:
    """Rows that lack seeds which other rows of the dataset have, or have too few."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for file, record in records.items():
        if not record.real and record.status != "skipped":
            rows.setdefault(tuple(record.cell[a] for a in LABELS), {})[record.cell["seed"]] = file
    for row, files in rows.items():
        everyone = {seed for other, seeds in rows.items() if other[0] == row[0] for seed in seeds}
        name = " · ".join(row)
        if missing := sorted(everyone - files.keys(), key=natural):
            what = f"the row {name} lacks the seeds {', '.join(missing)}, which other rows have"
            yield Finding(
                tuple(files.values()), what, "run them too; a seed that fails stays as a failed record"
            )
        trains = any(_trains(records[file]) for file in files.values())
        if trains and len(files) < least:
            seeds = ", ".join(sorted(files, key=natural))
            what = f"the row {name} has the seeds {seeds}; {least} are asked for"
            advice = "run more seeds, or state with --min-seeds how many there are: ranks then rest on fewer"
            yield Finding(tuple(files.values()), what, advice)


def _trains(record: Record) -> bool:
    budget = record.provenance.get("budget")
    steps = budget.get("tokenizer_steps") if isinstance(budget, dict) else None
    return steps != 0 or "generator" in record.curves


def _copies(records: Named) -> Iterator[Finding]:
    """Seeds of one trained row with the same numbers to the last bit: one was copied."""
    seen: dict[str, list[str]] = {}
    for file, record in records.items():
        if record.real or not record.metrics or not _trains(record):
            continue
        by_generator = {n: e["value"] for n, e in record.metrics.items() if e["scope"] == "generator"}
        if by_generator and not trains_generator(record):
            continue  # a formula fits the same generator to the same latents
        row = [record.cell[axis] for axis in LABELS]
        values = by_generator or {n: e["value"] for n, e in record.metrics.items()}
        # The same tokenizer scored twice has the same numbers; a nested seed begins with the tokenizer's.
        split = "" if by_generator else record.cell["seed"].split(".")[0]
        text = json.dumps([row, values])
        seen.setdefault(text, []).append(f"{split}\0{file}")
    for marked in seen.values():
        files = [text.partition("\0")[2] for text in marked]
        tokenizers = {text.partition("\0")[0] for text in marked}
        if len(files) > 1 and (tokenizers == {""} or len(tokenizers) > 1):
            what = "several seeds have the same numbers to the last bit: a record was copied"
            yield Finding(tuple(files), what, "make the seeds anew")


def _provenance(records: Named) -> Iterator[Finding]:
    for file, record in records.items():
        facts = record.provenance
        if not facts:
            yield Finding((file,), "it doesn't say what made it", "make it anew with this version")
            continue
        if not facts.get("git_commit"):
            what = "its git commit isn't known: it was made with an installed package"
            yield Finding((file,), what, "name the release when you send it", refuses=False)
        elif not re.fullmatch(r"[0-9a-f]{40}", str(facts["git_commit"])):
            yield Finding((file,), f"git_commit is {facts['git_commit']!r}, not 40 hex digits", RERUN)
        if facts.get("git_dirty"):
            what = "it was made with code that was not committed"
            yield Finding(
                (file,), what, "commit, and make it anew: `bench merge` refuses it too", refuses=False
            )
        if not facts.get("latentbench") or not facts.get("packages"):
            yield Finding((file,), "it doesn't say with which versions it was made", "make it anew")
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(facts.get("date", ""))):
            yield Finding((file,), f"its date is {facts.get('date')!r}, not YYYY-MM-DD", RERUN)
        if KEY not in facts:
            what = "no digest, so an edit can't be told: it is from an older version"
            yield Finding((file,), what, "nothing; records that are made now have one", refuses=False)
        seed = facts.get("seed")
        if seed is not None and not record.real and str(seed) != record.cell["seed"]:
            yield Finding(
                (file,), f"its cell has the seed {record.cell['seed']}, its provenance {seed}", RERUN
            )
        bad = [name for name, cost in record.cost.items() if cost is not None and not math.isfinite(cost)]
        if bad:
            yield Finding((file,), f"the costs {listed(bad)} aren't finite", RERUN)
