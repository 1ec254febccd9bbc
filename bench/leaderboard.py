"""Records become tables: leaderboard.csv for programs, leaderboard.md for people.

A column holds one metric under one protocol, so numbers that cannot be compared never stand in one column.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from .records import Record, RecordError, comparable, in_order, natural, protocol_id, read, replace_text

if TYPE_CHECKING:
    import pandas as pd

# Columns of a table in this order; other metrics follow alphabetically.
ORDER = {
    "generator": ("gfid", "gfd", "kd", "is", "precision", "recall", "memorisation"),
    "tokenizer": (
        "psnr",
        "ssim",
        "lpips",
        "rfid",
        "rfd",
        "rkd",
        "knn_nll",
        "knn_nll_reverse",
        "knn_nll_real",
    ),
}
COSTS = ("s", "MiB", "M", "GFLOP")  # units of metrics that belong into the cost table
COST_ORDER = ("seconds", "gflop", "parameters")
ARROWS = {"higher": "↑", "lower": "↓"}
IDENTITY = (
    "dataset",
    "tokenizer",
    "regularizer",
    "generator",
    "guidance",
    "status",
    "seeds_done",
    "seeds",
)
WIDEST = 10  # metrics in a Markdown table; the CSV has all
ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Column:
    """One metric under one protocol; `entry` is a record's, for what all of them say about the metric."""

    name: str  # without guidance, e.g. "gFD@360[effnet_lite0]"
    protocol: str  # short id
    scope: str
    entry: dict[str, Any] = field(compare=False)

    @property
    def base(self) -> str:
        """What precedes any "[" or "@"."""
        return re.split(r"[\[@]", self.name)[0]

    @property
    def better(self) -> str:
        """An arrow."""
        return ARROWS.get(self.entry.get("better") or "", "")


class Value(NamedTuple):
    """A metric over seeds: mean and standard deviation (ddof = 1) of the finite values, n of them."""

    mean: float | None
    std: float | None
    n: int
    note: str = ""  # of a value that isn't finite: "nan", "inf"


@dataclass(frozen=True)
class Row:
    """A line of a table: the seeds of one row label, at one guidance."""

    dataset: str
    tokenizer: str
    regularizer: str
    generator: str
    guidance: float | None
    status: str
    seeds_done: int
    seeds: int
    reason: str
    values: dict[Column, Value]
    cost: dict[str, float]

    @property
    def real(self) -> bool:
        """Whether this is the row of the held-out images."""
        return self.tokenizer == self.regularizer == self.generator == "real"


T = TypeVar("T", Record, Row)


def write(folder: str | Path, records: Iterable[Record], title: str | None = None) -> list[Path]:
    """Writes `folder`/leaderboard.csv and .md from records in any order; returns the paths.

    Without a title it is the provenance's "matrix" (where all records agree), or the folder's name.
    """
    folder, records = Path(folder), in_order(records)
    if title is None:
        named = {str(record.provenance.get("matrix") or "") for record in records}
        title = named.pop() if len(named) == 1 else ""
    folder.mkdir(parents=True, exist_ok=True)
    table = frame(records).to_csv(index=False, lineterminator="\n")
    texts = {"leaderboard.csv": table, "leaderboard.md": markdown(records, title or folder.resolve().name)}
    for name, text in texts.items():
        replace_text(folder / name, text)
    return [folder / name for name in texts]


def report(folders: Sequence[str | Path], out: str | Path, title: str | None = None) -> list[Path]:
    """Rebuilds the tables in `out` from FOLDER/records of one or several results folders alone."""
    found: dict[tuple[str, ...], tuple[str | Path, Record]] = {}
    for folder in folders:
        records = read(Path(folder) / "records")
        if not records:
            raise RecordError(f"no records in {Path(folder) / 'records'}")
        for record in records:
            cell = tuple(record.cell.values())
            other, known = found.get(cell, (folder, record))
            if record.status == known.status == "done" and comparable(record) != comparable(known):
                raise RecordError(
                    f"{other} and {folder} have different numbers for the cell {'/'.join(cell)}"
                )
            if cell not in found or (record.status == "done" and known.status != "done"):
                found[cell] = (folder, record)
    return write(out, [record for _, record in found.values()], title)


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (dataset, tokenizer, regularizer, generator, guidance), over seeds; all plain numbers.

    A metric's columns are NAME, NAME_std (empty for one seed) and NAME_n, the seeds that the mean is over. A
    name with several protocols is followed by {id}. `guidance` is empty for the `real` row and for cells
    without generation metrics.
    """
    import pandas as pd

    rows = _rows(in_order(records))
    columns = _columns(rows)
    data: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in IDENTITY}
    data["guidance"] = pd.array(data["guidance"], dtype="Float64")
    for column in columns:
        twins = sum(other.name == column.name for other in columns)
        name = column.name if twins == 1 else f"{column.name}{{{column.protocol}}}"
        values = [row.values.get(column, Value(None, None, 0)) for row in rows]
        data[name] = pd.array([v.mean for v in values], dtype="Float64")
        data[f"{name}_std"] = pd.array([v.std for v in values], dtype="Float64")
        data[f"{name}_n"] = [v.n for v in values]
    for name in _first_seen(row.cost for row in rows):
        data[f"cost_{name}"] = pd.array([row.cost.get(name) for row in rows], dtype="Float64")
    return pd.DataFrame({**data, "reason": [row.reason for row in rows]})


def markdown(records: Iterable[Record], title: str) -> str:
    """The leaderboard as a page of tables, with all that is needed to read its numbers."""
    records = in_order(records)
    rows = _rows(records)
    parts = [f"# {escape(title)}", _how_to_read(rows)]
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    for dataset in datasets:
        mine = [row for row in rows if row.dataset == dataset]
        trained = _tokenizer_rows([record for record in records if record.cell["dataset"] == dataset])
        suffix = f" ({escape(dataset)})" if len(datasets) > 1 else ""
        tables = {"Generation": _generation(mine), "Tokenizers": _tokenizers(trained), "Cost": _cost(mine)}
        parts += [f"## {heading}{suffix}\n\n{table}" for heading, table in tables.items() if table]
    sections = {
        "Failed and skipped": _missing(records),
        "Protocols": _protocols(_columns(rows)),
        "Metrics": _metrics(_columns(rows)),
        "Provenance": _provenance(records),
    }
    parts += [f"## {heading}\n\n{text}" for heading, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def summary(records: Iterable[Record]) -> str:
    """For the terminal: the leading rows of each generator, at most 25 lines of 100 columns."""
    records = in_order(records)
    scope = "generator"
    rows = [row for row in _rows(records) if _scored(row, scope)]
    if not rows:
        scope, rows = "tokenizer", _tokenizer_rows(records)
    columns, _ = _of(rows, scope, most=3)
    columns, groups = columns[:4], _grouped(_ranked(rows, scope), ("dataset", "generator"))
    each = max(1, min(3, 20 // max(1, len(groups))))
    lines = [["dataset", "generator", "regularizer", "tokenizer", "w", *_headers(columns)]]
    lines += [_line(row, columns) for group in list(groups.values())[:20] for row in group[:each]]
    if len({row.dataset for row in rows}) == 1:
        lines = [line[1:] for line in lines]
    widths = [min(22, max(map(len, column))) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(_fit, line, widths)).rstrip()[:100] for line in lines]
    counts = {status: sum(r.status == status for r in records) for status in ("done", "failed", "skipped")}
    tally = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no"
    return "\n".join([*(text if rows else []), f"{tally} cells"])


def escape(text: str) -> str:
    """Text from a matrix or a plugin as one line of Markdown that a table cell can hold."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|$~])", r"\\\1", text)
    text = re.sub(r"\](?=[(\[:])", r"\]", text)  # a link, not kl[weight=0.01]
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)  # emphasis, not effnet_lite0


def number(value: float) -> str:
    """Four significant digits."""
    size = abs(value)
    if size >= 1e6:
        exponent = min(4, int(math.log10(size) / 3))
        return f"{value / 1000**exponent:#.4g}".rstrip(".") + f" {' kMGT'[exponent]}"
    if size >= 1000 or (float(value).is_integer() and size < 1000):
        return f"{value:.0f}"
    return f"{value:.2e}" if size < 1e-3 else f"{value:#.4g}".rstrip(".")


def spread(mean: float, std: float) -> str:
    """Mean ± standard deviation, as many digits as two significant ones of the deviation give."""
    if std == 0 or std < 1e-6 * abs(mean):
        return f"{number(mean)} ± {number(std)}"
    if max(abs(mean), std) < 1e-3:
        return f"{mean:.2e} ± {std:.1e}"
    decimals = max(0, 1 - math.floor(math.log10(std)))
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


# Records to rows


def _rows(records: list[Record]) -> list[Row]:
    """Seeds gathered; one row per guidance. Metrics that a failed cell did get (its tokenizer's) count."""
    rows = []
    for (dataset, tokenizer, regularizer, generator), mine in _grouped(records, IDENTITY[:4]).items():
        guidances: list[float | None] = [*sorted({w for record in mine for w in _guidances(record)})]
        rows += [
            Row(
                dataset,
                tokenizer,
                regularizer,
                generator,
                guidance,
                status=_status(mine),
                seeds_done=sum(record.status == "done" for record in mine),
                seeds=len(mine),
                reason=_reason(mine),
                values=_aggregate([_at(record, guidance) for record in mine]),
                cost=_mean_cost([_cost_at(record, guidance) for record in mine]),
            )
            for guidance in guidances or [None]
        ]
    return rows


def _tokenizer_rows(records: list[Record]) -> list[Row]:
    """One row per tokenizer and regularizer: its cells share the tokenizer of a seed, which counts once."""
    rows = []
    trained = [record for record in records if not record.real]
    for (dataset, tokenizer, regularizer), mine in _grouped(trained, IDENTITY[:3]).items():
        per_seed: dict[str, dict[Column, dict[str, Any]]] = {}
        for record in mine:
            seen = per_seed.setdefault(record.cell["seed"], {})
            seen.update({column: entry for column, entry in _at(record, None).items() if column not in seen})
        values, done = _aggregate(per_seed.values()), sum(map(bool, per_seed.values()))
        if values:
            labels = (dataset, tokenizer, regularizer, "")
            rows.append(Row(*labels, None, _status(mine), done, len(per_seed), "", values, {}))
    return rows


def _grouped(items: Iterable[T], names: Sequence[str]) -> dict[tuple[str, ...], list[T]]:
    """Records or rows by some of their labels."""
    groups: dict[tuple[str, ...], list[T]] = {}
    for item in items:
        labels = item.cell if isinstance(item, Record) else vars(item)
        groups.setdefault(tuple(labels[name] for name in names), []).append(item)
    return groups


def _split(name: str) -> tuple[str, float | None]:
    """("gFD@360[x]", 1.5) of "gFD@360[x]@1.5"."""
    found = re.fullmatch(r"(.+)@([-+]?[\d.]+(?:e[-+]?\d+)?)", name)
    return (found[1], float(found[2])) if found else (name, None)


def _guidances(record: Record) -> set[float]:
    generated = () if record.real else (n for n, m in record.metrics.items() if m["scope"] == "generator")
    return {w for name in generated if (w := _split(name)[1]) is not None}


def _at(record: Record, guidance: float | None) -> dict[Column, dict[str, Any]]:
    """The record's metrics at one guidance, and those that don't depend on it."""
    found = {}
    for name, entry in record.metrics.items():
        suffixed = entry["scope"] == "generator" and not record.real
        base, w = _split(name) if suffixed else (name, None)
        if w is None or w == guidance:
            found[Column(base, protocol_id(_full_protocol(entry)), entry["scope"], entry)] = entry
    return found


def _full_protocol(entry: dict[str, Any]) -> dict[str, Any]:
    """With n: a distance over 128 samples isn't one over 1,437, whether or not the evaluator says so."""
    return {"n": entry["n"], **entry["protocol"]}


def _aggregate(seeds: Iterable[dict[Column, dict[str, Any]]]) -> dict[Column, Value]:
    gathered: dict[Column, list[dict[str, Any]]] = {}
    for entries in seeds:
        for column, entry in entries.items():
            gathered.setdefault(column, []).append(entry)
    return {column: _value(entries) for column, entries in gathered.items()}


def _value(entries: list[dict[str, Any]]) -> Value:
    finite = [entry["value"] for entry in entries if entry["value"] is not None]
    notes = dict.fromkeys(entry.get("note", "nan") for entry in entries if entry["value"] is None)
    mean = statistics.fmean(finite) if finite else None
    std = statistics.stdev(finite) if len(finite) > 1 else None
    return Value(mean, std, len(finite), ", ".join(notes))


def _cost_at(record: Record, guidance: float | None) -> dict[str, float]:
    split = {name: _split(name) for name in record.cost}
    chosen = {name: base for name, (base, w) in split.items() if w is None or w == guidance}
    return {base: value for name, base in chosen.items() if (value := record.cost[name]) is not None}


def _mean_cost(costs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(c[name] for c in costs if name in c) for name in _first_seen(costs)}


def _status(records: list[Record]) -> str:
    statuses = {record.status for record in records}
    return next(status for status in ("done", "failed", "skipped") if status in statuses)


def _reason(records: list[Record]) -> str:
    lines = {record.cell["seed"]: _line_of(record) for record in records if record.status != "done"}
    if len(lines) == len(records) and len(set(lines.values())) == 1:
        return next(iter(lines.values()))
    return "; ".join(f"seed {seed}: {line}" for seed, line in lines.items())


def _line_of(record: Record) -> str:
    return " ".join((record.reason or "").split())


# Columns and order


def _columns(rows: list[Row]) -> list[Column]:
    """All columns in the order of tables; protocols of one metric by their id."""

    def place(column: Column) -> tuple[Any, ...]:
        order, base = ORDER[column.scope], column.base.lower()
        rank = order.index(base) if base in order else len(order)
        names = (natural(base), "@" in column.name, natural(column.name))
        return column.scope == "generator", rank, *names, column.protocol

    return sorted({column for row in rows for column in row.values}, key=place)


def _of(rows: list[Row], scope: str, most: int = WIDEST) -> tuple[list[Column], list[str]]:
    """The columns of a scope's first `most` scores, and the names of the others.

    Of the numbers at the `real` row's n only the distances are shown: the others say little more.
    """
    columns = [c for c in _columns(rows) if c.scope == scope and c.entry.get("unit") not in COSTS]
    names = list(dict.fromkeys(column.name for column in columns))
    minor = {c.name for c in columns if "@" in c.name and c.base not in ("gFD", "gFID")}
    shown = [name for name in names if name not in minor][:most]
    return [c for c in columns if c.name in shown], [name for name in names if name not in shown]


def _ranked(rows: list[Row], scope: str) -> list[Row]:
    """The real row, then by generator and the scope's first metric that has a direction, best first."""
    directed = [column for column in _of(rows, scope)[0] if column.better]
    first = [column for column in directed if column.name == directed[0].name]  # one per protocol

    def place(row: Row) -> tuple[Any, ...]:
        labels = [natural(label) for label in (row.regularizer, row.tokenizer)]
        head = (row.dataset, not row.real, natural(row.generator))
        for i, column in enumerate(first):
            mean = row.values[column].mean if column in row.values else None
            if mean is not None:
                return *head, i, -mean if column.better == ARROWS["higher"] else mean, *labels
        return *head, len(first), 0.0, *labels

    return sorted(rows, key=place)


def _scored(row: Row, scope: str) -> bool:
    return any(column.scope == scope for column in row.values)


def _first_seen(dicts: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in dicts for name in each))


# Sections of the page


def _how_to_read(rows: list[Row]) -> str:
    single = all(row.seeds == 1 for row in rows)
    return (
        "Compare numbers down a column: the arrow says which way is better, the six characters after it name "
        "the protocol (below), `w` is the guidance (1 is none), and `real` are held-out images at their own "
        "number. "
        + ("1 seed: no spread." if single else "Values are mean ± standard deviation over seeds.")
        + " Every number is in leaderboard.csv."
    )


def _generation(rows: list[Row]) -> str:
    columns, others = _of(rows, "generator")
    if not columns:
        return ""
    lines = []
    for row in _ranked(rows, "generator"):
        labels = [row.generator, row.tokenizer, row.regularizer] if not row.real else ["real", "", ""]
        if not _scored(row, "generator"):
            values = [row.status] + [""] * (len(columns) - 1)
        else:
            values = _cells(row, columns)
        lines.append([*map(escape, labels), _guidance(row), *_seeds(row, rows), *values])
    header = ["generator", "tokenizer", "regularizer", "w", *_seeds_header(rows)]
    return _section(header, lines, columns, others)


def _tokenizers(rows: list[Row]) -> str:
    rows = _ranked(rows, "tokenizer")
    columns, others = _of(rows, "tokenizer")
    lines = []
    for row in rows:
        labels = [escape(row.tokenizer), escape(row.regularizer), *_seeds(row, rows)]
        lines.append([*labels, *_cells(row, columns)])
    header = ["tokenizer", "regularizer", *_seeds_header(rows)]
    return _section(header, lines, columns, others) if columns else ""


def _cost(rows: list[Row]) -> str:
    """Metrics counted in a unit of cost, and what was measured while running."""
    lines, spent = [], [(row, _spent(row)) for row in rows if not row.real]
    names = sorted(_first_seen(cost for _, cost in spent), key=_cost_place)
    for row, cost in sorted(spent, key=lambda pair: natural(pair[0].generator)):
        values = [number(cost[name]) if name in cost else "" for name in names[:WIDEST]]
        if cost:
            labels = map(escape, (row.generator, row.tokenizer, row.regularizer))
            lines.append([*labels, _guidance(row), *values])
    header = ["generator", "tokenizer", "regularizer", "w"]
    header += [escape(name.replace("_", " ")) for name in names[:WIDEST]]
    return _table(header, lines, 4) + _others(names[WIDEST:]) if names else ""


def _spent(row: Row) -> dict[str, float]:
    counted = {c.name: v.mean for c, v in row.values.items() if c.entry.get("unit") in COSTS}
    return {name: mean for name, mean in counted.items() if mean is not None} | row.cost


def _cost_place(name: str) -> int:
    return next((i for i, word in enumerate(COST_ORDER) if word in name), len(COST_ORDER))


def _missing(records: list[Record]) -> str:
    """Seeds of one cell with one reason share a line."""
    seeds: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        if record.status != "done":
            labels = [record.cell[name] for name in IDENTITY[:4]]
            seeds.setdefault((*labels, record.status, _line_of(record)), []).append(record.cell["seed"])
    lines = []
    for (*labels, status, reason), mine in seeds.items():
        short = reason if len(reason) <= 300 else reason[:299] + "…"
        lines.append([escape(text) for text in (*labels, ", ".join(mine), status, short)])
    header = [*IDENTITY[:4], "seeds", "status", "reason"]
    return _table(header, lines, len(header)) if lines else ""


def _protocols(columns: list[Column]) -> str:
    lines = []
    for id in dict.fromkeys(column.protocol for column in columns):
        mine = [column for column in columns if column.protocol == id]
        names = ", ".join(escape(column.name) for column in mine)
        lines.append(f"- `{id}` {names}: {escape(compact(_full_protocol(mine[0].entry)))}")
    return "\n".join(lines)


def _metrics(columns: list[Column]) -> str:
    lines: dict[str, str] = {}
    for column in columns:
        unit, about = column.entry.get("unit") or "", column.entry.get("about") or ""
        head = " ".join(
            filter(None, (escape(column.base), column.better, escape(f"({unit})") if unit else ""))
        )
        if about:
            lines.setdefault(column.base, f"- {head}: {escape(about)}")
    return "\n".join(lines.values())


def _provenance(records: list[Record]) -> str:
    """Each field with all its values: records of one table may come from several machines and days."""
    seeds = dict.fromkeys(sorted((record.cell["seed"] for record in records), key=natural))
    lines = [f"- cells: {len(records)}, seeds {escape(', '.join(seeds))}"]
    for name in _first_seen(record.provenance for record in records):
        texts = dict.fromkeys(compact(r.provenance[name]) for r in records if name in r.provenance)
        if name == "date" and len(texts) > 1:
            texts = dict.fromkeys((f"{min(texts)} to {max(texts)}",))
        more = f"; … ({len(texts)} in all)" if len(texts) > 4 else ""
        lines.append(f"- {escape(name)}: {escape('; '.join(list(texts)[:4]))}{more}")
    return "\n".join(lines)


# Cells of a table


def compact(value: Any) -> str:
    """A protocol or a budget as one line; a checksum by its first twelve digits."""
    if isinstance(value, dict):
        return ", ".join(
            f"{k} ({compact(v)})" if isinstance(v, dict) else f"{k} {compact(v)}" for k, v in value.items()
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(compact, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{28,}\b", r"\1", str(value))


def _section(labels: list[str], lines: list[list[str]], columns: list[Column], others: list[str]) -> str:
    """A table of metrics; what is the same for all rows, the extractor, is said once, below."""
    table = _table([*labels, *map(escape, _headers(columns))], lines, len(labels))
    extractors = _extractors(columns)
    if len(extractors) == 1:
        full = next(column.name for column in columns if extractors[0] in column.name)
        table += f"\n\nFeatures: {escape(extractors[0][1:-1])} (the full names are like {escape(full)})."
    return table + _others(others)


def _headers(columns: list[Column]) -> list[str]:
    extractors = _extractors(columns)
    hidden = extractors[0] if len(extractors) == 1 else ""
    return [" ".join(filter(None, (c.name.replace(hidden, ""), c.better, c.protocol))) for c in columns]


def _extractors(columns: list[Column]) -> list[str]:
    return list(dict.fromkeys(part for column in columns for part in re.findall(r"\[.*\]", column.name)))


def _table(header: list[str], lines: list[list[str]], labels: int) -> str:
    from tabulate import tabulate

    align = ["left"] * labels + ["right"] * (len(header) - labels)
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=align)


def _others(names: list[str]) -> str:
    return f"\n\nIn leaderboard.csv too: {escape(', '.join(names))}." if names else ""


def _fit(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)


def _line(row: Row, columns: list[Column]) -> list[str]:
    labels = ("real", "", "") if row.real else (row.generator, row.regularizer, row.tokenizer)
    return [row.dataset, *labels, _guidance(row), *_cells(row, columns)]


def _cells(row: Row, columns: list[Column]) -> list[str]:
    return [_cell(row.values[column], row.seeds_done) if column in row.values else "" for column in columns]


def _cell(value: Value, seeds: int) -> str:
    if value.mean is None:
        return value.note
    text = number(value.mean) if value.std is None else spread(value.mean, value.std)
    return text if value.n >= seeds else f"{text} ({value.n} of {seeds})"


def _guidance(row: Row) -> str:
    return "" if row.guidance is None else f"{row.guidance:g}"


def _seeds_header(rows: list[Row]) -> list[str]:
    return [] if all(row.seeds == 1 for row in rows) else ["seeds"]


def _seeds(row: Row, rows: list[Row]) -> list[str]:
    """No cell where every row has one seed."""
    text = str(row.seeds) if row.seeds_done == row.seeds else f"{row.seeds_done}/{row.seeds} seeds"
    return [text for _ in _seeds_header(rows)]
