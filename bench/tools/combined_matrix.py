"""The one matrix that plans to exactly the cells of several, if there is one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from ..leaderboard.rows import LABELS
from ..records.record import Record

SECTIONS = ("dataset", "tokenizers", "regularizers", "generators")
FREE = ("name", "seeds", "skip", "plugins", *SECTIONS)  # what a union may have more of than its parts


def union(matrices: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> dict[str, Any] | None:
    """The one matrix whose cells are exactly these records, if there is one."""
    first = matrices[0] if matrices else {}
    if any(without(m, FREE) != without(first, FREE) for m in matrices) or not first:
        return None
    joined: dict[str, Any] = dict(first)
    joined["name"] = "+".join(sorted({part for m in matrices for part in str(m["name"]).split("+")}))
    for section in SECTIONS:
        rows: dict[str, Any] = {}
        for one in matrices:
            for label, row in rows_of(one, section).items():
                if rows.setdefault(label, row) != row:
                    return None
        joined[section] = rows
    joined["dataset"] = list(joined["dataset"].values())
    joined["plugins"] = sorted({plugin for m in matrices for plugin in m["plugins"]})
    joined["skip"] = unique(skip for m in matrices for skip in m.get("skip") or ())
    seeds = [m["seeds"] for m in matrices]
    if all(isinstance(each, list) for each in seeds):
        joined["seeds"] = sorted({seed for each in seeds for seed in each})
    elif all(isinstance(each, dict) for each in seeds):
        joined["seeds"] = {step: sorted({s for each in seeds for s in each[step]}) for step in seeds[0]}
    else:
        return None
    planned, outcomes = _cells(joined), {tuple(r.cell.values()): r.status for r in records if not r.real}
    skips = all(outcomes.get(cell) == "skipped" for cell, skipped in planned.items() if skipped)
    return joined if planned.keys() == outcomes.keys() and skips else None


def resolved(data: Mapping[str, Any]) -> bool:
    """Whether this is what `matrix.resolved` writes, as far as merging reads it."""
    named, seeds = isinstance(data.get("name"), str), data.get("seeds")
    nested = isinstance(seeds, dict) and set(seeds) == {"tokenizer", "generator", "sampling"}
    lists = seeds.values() if isinstance(seeds, dict) and nested else [seeds]
    whole = all(isinstance(each, list) and all(type(seed) is int for seed in each) for each in lists)
    sections = [data.get(name) for name in SECTIONS]
    rows = [list(s.values()) if isinstance(s, Mapping) else s for s in sections]
    parts = all(isinstance(s, list) and all(isinstance(r, dict) and "use" in r for r in s) for s in rows)
    skips = data.get("skip") or []
    return named and whole and parts and isinstance(skips, list) and all(isinstance(s, dict) for s in skips)


def rows_of(matrix: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Rows by label; datasets are a list, of rows that are labelled or have the parts' names."""
    rows = matrix.get(section) or {}
    if isinstance(rows, Mapping):
        return dict(rows)
    return {row.get("label", row["use"]): row for row in rows}


def unique(items: Iterable[Any]) -> list[Any]:
    """Plain data, each once, in order."""
    return list({json.dumps(item, sort_keys=True): item for item in items}.values())


def without(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The rest of a mapping."""
    return {key: item for key, item in value.items() if key not in set(names)}


def _cells(matrix: Mapping[str, Any]) -> dict[tuple[str, ...], bool]:
    """{labels: whether the matrix itself skips them} of all cells but real images'."""
    seeds = matrix["seeds"]
    if isinstance(seeds, dict):
        steps = product(*(seeds[step] for step in ("tokenizer", "generator", "sampling")))
        texts = [".".join(map(str, each)) for each in steps]
    else:
        texts = [str(seed) for seed in seeds]
    sections = [rows_of(matrix, name) for name in SECTIONS]
    found = {}
    for labels in product(*sections, texts):
        found[labels] = any(_skips(skip, labels, sections) for skip in matrix.get("skip") or ())
    return found


def _skips(skip: Mapping[str, str], labels: Sequence[str], sections: Sequence[Mapping[str, Any]]) -> bool:
    from ..matrix.matrix import MatrixRow

    rows = [
        MatrixRow(label, section[label]["use"], {}) for label, section in zip(labels, sections, strict=False)
    ]
    return all(row.fits(skip.get(name, "*")) for name, row in zip(LABELS, rows, strict=True))
