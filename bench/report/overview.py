"""A report's first lines: when and how it was made, what was trained, and which regularizer is best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..leaderboard.details import Unfinished, provenance, unfinished
from ..leaderboard.numbers import plural
from ..leaderboard.results import Results
from ..leaderboard.rows import LABELS, tokenizer_seed
from ..options.words import joined, listed
from ..records.generators import JOINT
from ..records.labels import natural, without_name
from ..records.record import Record
from .places import LOCK
from .verdict import Verdict, verdicts

NAMED = 4  # labels in a list; more are counted
WHICH_TOKENIZER = "Which tokenizer reconstructs best?"  # where nothing was generated


@dataclass(frozen=True)
class Overview:
    """The first lines of a report, as sentences."""

    date: str  # `2026-01-01`, or a range
    commit: str  # empty where records name none
    command: str  # that makes the results again; empty where no matrix lies in the folder
    trained: str
    answer: str
    unfinished: list[str]  # one line for each reason
    verdicts: dict[str, list[Verdict]]  # by dataset

    @property
    def verdicts_of_all(self) -> list[Verdict]:
        return [verdict for of_dataset in self.verdicts.values() for verdict in of_dataset]


def overview(results: Results, folders: Sequence[Path] = ()) -> Overview:
    """The overview of all datasets; `folders` are the results folders that the records are from."""
    by_dataset = {name: verdicts(of_dataset) for name, of_dataset in results.datasets.items()}
    found = [verdict for of_dataset in by_dataset.values() for verdict in of_dataset]
    fields = provenance(results.records)
    commits = fields.get("git_commit", [])
    return Overview(
        date=", ".join(fields.get("date", [])),
        commit=listed([commit[:7] for commit in commits], 2),
        command=command(folders),
        trained=trained(results, found),
        answer=answer(found),
        unfinished=unfinished_lines(results.records),
        verdicts=by_dataset,
    )


def command(folders: Sequence[Path]) -> str:
    """The command that trains everything again, from the folder's own resolved matrix."""
    return f"bench run --matrix {LOCK}" if len(folders) == 1 and (folders[0] / LOCK).is_file() else ""


def trained(results: Results, found: Sequence[Verdict]) -> str:
    """A sentence on the tokenizers and generators, with their steps of training, and one on the seeds."""
    records = [record for record in results.records if not record.real]
    if not records:
        return ""
    budget = _budget(records)
    begun = [record for record in records if record.status != "skipped"] or records
    parts = [_tokenizers(begun, budget), *_generators(found, budget)]
    return f"{'; '.join(parts)}. {_spread(records, budget, found)}"


def _tokenizers(records: Sequence[Record], budget: dict[str, Any]) -> str:
    labels = {axis: _labels(records, axis) for axis in ("tokenizer", "dataset", "regularizer")}
    several = len(labels["tokenizer"]) > 1
    text = f"The tokenizer{'s' if several else ''} {_words(labels['tokenizer'])}"
    text += " were each" if several else " was"
    steps, batch = budget.get("tokenizer_steps"), budget.get("batch")
    if steps == 0:
        as_is = "they are" if several else "it is"
        return f"{text} scored on {_words(labels['dataset'])} as {as_is}, without training"
    regularizers = labels["regularizer"]
    pairs = {(record.cell["tokenizer"], record.cell["regularizer"]) for record in records}
    all_pairs = len(pairs) == len(labels["tokenizer"]) * len(regularizers)
    with_ = f"{'each of' if all_pairs else 'up to'} {len(regularizers)} regularizers"
    if len(regularizers) == 1:
        with_ = f"the regularizer {regularizers[0]}"
    text += f" trained on {_words(labels['dataset'])} with {with_}"
    return f"{text} ({steps:,} steps, batches of {batch})" if steps and batch else text


def _generators(found: Sequence[Verdict], budget: dict[str, Any]) -> list[str]:
    """Clauses on the generators that learned or were fitted to the latents."""
    found = [verdict for verdict in found if verdict.generator]
    own = _unique(v for v in found if v.best.part("generator") == JOINT)
    learned = _unique(v for v in found if v.best.trains_generator and v.generator not in own)
    fitted = _unique(v for v in found if v.generator not in (*own, *learned))
    parts = []
    if learned:
        steps = f" ({budget['generator_steps']:,} steps)" if budget.get("generator_steps") else ""
        whose = "their" if any(verdict.tokenizers > 1 for verdict in found) else "its"
        parts.append(f"{_words(learned)} then learned to generate {whose} latents{steps}")
    if fitted:
        were = "was" if len(fitted) == 1 else "were"
        parts.append(f"{_words(fitted)} {were} fitted to them{' as a baseline' if learned else ''}")
    if own:
        parts.append(f"{_words(own)} is the regularizer's own generator, which learned along with it")
    return parts


def _unique(found: Iterable[Verdict]) -> list[str]:
    return list(dict.fromkeys(verdict.generator for verdict in found))


def _spread(records: Sequence[Record], budget: dict[str, Any], found: Sequence[Verdict]) -> str:
    """A sentence on what the numbers' error is from."""
    if budget.get("tokenizer_steps") == 0 and not any(verdict.generator for verdict in found):
        return "Nothing was trained: the error of a number is that of the held-out images."
    by_row: dict[tuple[str, ...], set[str]] = {}
    for record in records:
        if record.status == "done":
            by_row.setdefault(tuple(record.cell[axis] for axis in LABELS), set()).add(record.cell["seed"])
    counts = [len(seeds) for seeds in by_row.values()] or [0]
    tokenizers = len({tokenizer_seed(seed) for seeds in by_row.values() for seed in seeds})
    if max(counts) < 2:
        return "There is one seed."
    nested = f" ({plural(tokenizers, 'tokenizer seed')})" if tokenizers != max(counts) else ""
    several = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else max(counts)
    return f"Every number is a mean over {several} seeds{nested}."


def answer(found: Sequence[Verdict]) -> str:
    """The best regularizer for each generator in a sentence; baselines and single rows only if alone."""
    found = [v for v in found if not v.baseline and v.rows > 1] or [v for v in found if not v.baseline]
    if not found:
        return "No cell has a number yet."
    by = " or ".join(dict.fromkeys(verdict.metric.rpartition(" ")[0] or verdict.metric for verdict in found))
    several = len({verdict.dataset for verdict in found}) > 1
    texts: dict[str, list[str]] = {}  # datasets by what is best there
    for dataset in dict.fromkeys(verdict.dataset for verdict in found):
        best = _best([verdict for verdict in found if verdict.dataset == dataset])
        texts.setdefault(best, []).append(dataset)
    said = "; ".join(f"on {_words(names)} {best}" if several else best for best, names in texts.items())
    if all(verdict.level == "unknown" for verdict in found):
        if len(found) == sum(verdict.rows == 1 for verdict in found):
            return f"By {by}, {said}; there is nothing to compare it with."
        return f"One seed cannot name a winner. In this run, by {by}, {said}."
    return f"By {by}, {said}."


def _best(found: Sequence[Verdict]) -> str:
    """`lightningdit works best with simflow, repa or none (a tie); mar with lzn`."""
    best, equal, works = [], [], "works best "
    for verdict in found:
        names = [verdict.name, *verdict.ties]
        text = _words(names, "or") + (" (a tie)" if verdict.ties else "")
        if not verdict.generator:
            kind = "tokenizer" if question(found) == WHICH_TOKENIZER else "regularizer"
            best.append(f"the best {kind} is {text}")
        elif 1 < verdict.rows == len(names):
            equal.append(f"{verdict.generator} shows no difference between the {len(names)} regularizers")
        else:
            best.append(f"{verdict.generator} {works}with {text}")
            works = ""
    return "; ".join([*best, *equal])


def question(found: Sequence[Verdict]) -> str:
    """The question that a report's first table answers."""
    generators = {verdict.generator for verdict in found}
    if generators == {""} and any(verdict.tokenizers > 1 for verdict in found):
        return WHICH_TOKENIZER
    return f"Which regularizer is best{' for which generator' if len(generators) > 1 else ''}?"


def best_header(found: Sequence[Verdict]) -> str:
    """The header over the best rows: a best mean that isn't separated from the others is called that."""
    if all(verdict.level == "unknown" for verdict in found):
        return "best in this run"
    if all(verdict.level == "sure" for verdict in found):
        return "best tokenizer" if question(found) == WHICH_TOKENIZER else "best regularizer"
    return "best mean"


def unfinished_lines(records: Iterable[Record]) -> list[str]:
    """A sentence for each status and reason: how many cells were skipped or failed, which, and why."""
    groups: dict[tuple[str, str], list[Unfinished]] = {}
    for one in unfinished(records):
        name = dict(zip(LABELS, one.labels, strict=True))["regularizer"]
        groups.setdefault((one.status, without_name(one.reason, name)), []).append(one)
    lines = []
    for (status, reason), of_group in groups.items():
        reasons = {one.reason for one in of_group}
        shown = reasons.pop() if len(reasons) == 1 else reason
        count = sum(len(one.seeds.split(", ")) for one in of_group)
        verb = {"failed": "failed", "skipped": f"{'was' if count == 1 else 'were'} skipped"}
        did = verb.get(status, f"{'has' if count == 1 else 'have'} {status}")
        labels = [
            list(dict.fromkeys(filter(None, axis)))
            for axis in zip(*(o.labels for o in of_group), strict=True)
        ]
        rows = " with ".join(_words(names, most=3) for names in labels[2:] if names)
        lines.append(f"{plural(count, 'cell')} {did}: {rows} ({_cut(shown) or 'no reason is known'}).")
    return lines


def _cut(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _budget(records: Sequence[Record]) -> dict[str, Any]:
    """The budget of all records; empty if they differ."""
    budgets = [record.provenance.get("budget") for record in records]
    first = budgets[0]
    return first if isinstance(first, dict) and all(budget == first for budget in budgets) else {}


def _labels(records: Iterable[Record], axis: str) -> list[str]:
    return sorted({record.cell[axis] for record in records}, key=natural)


def _words(names: Sequence[str], last: str = "and", most: int = NAMED) -> str:
    """`a, b and c`; of more than `most` the first, and the number of the others."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} {last} {len(names) - most + 1} more"
    return joined(names, last)
