"""The leaderboard as LaTeX: tables of booktabs to \\input into a paper, with what their numbers rest on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..leaderboard.columns import cells, first_score, guidance_of, ranked, scored, short_names, shown
from ..leaderboard.guidance import judged, told
from ..leaderboard.ranking import Ranking, marks, rank_header, rank_texts, rankings
from ..leaderboard.results import Results
from ..leaderboard.rows import ARROWS, Column, Row, full_protocol
from ..records.record import Record

WIDEST = 6  # metrics; the CSV has all
TALLEST = 45  # rows that fit a page; a table with more is one per generator
DIRECTIONS = {ARROWS["higher"]: r" $\uparrow$", ARROWS["lower"]: r" $\downarrow$", "": ""}
MARKS = {"best": r"\textbf{{{}}}", "tied": r"$\approx$\,{}", "": "{}"}
NOT_FID = "FD with other than Inception weights is not FID."


def latex(records: Iterable[Record] | Results, title: str) -> str:
    """A table of generation and one of tokenizers for each dataset."""
    parts = [f"% {' '.join(title.split())}: needs \\usepackage{{booktabs,graphicx}}"]
    for dataset, results in Results.of(records).datasets.items():
        mine = ranked(results.rows, "generator")
        for group in _pages([row for row in mine if scored(row, "generator")]):
            parts.append(_table(group, "generator", dataset))
        parts.append(_table(ranked(results.tokenizers, "tokenizer"), "tokenizer", dataset))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text from a matrix as LaTeX that shows it, whatever is in it."""
    from pylatexenc.latexencode import unicode_to_latex

    return unicode_to_latex(" ".join(text.split()), unknown_char_policy="replace", unknown_char_warning=False)


def _pages(rows: list[Row]) -> list[list[Row]]:
    if len(rows) <= TALLEST:
        return [rows]
    generators = dict.fromkeys(row.generator for row in rows if not row.real)
    return [[row for row in rows if row.real or row.generator == name] for name in generators]


def _table(rows: list[Row], scope: str, dataset: str) -> str:
    columns, _ = shown(rows, scope, WIDEST)
    if not columns:  # tokenizers of which nothing is scored
        return ""
    held = rankings(rows, columns)
    ranks = rank_texts(rows, held, first_score(rows, scope))
    mark = marks(held)
    axes = ["tokenizer", "regularizer"]
    if scope == "generator":
        axes = ["generator", *axes] + ["w"] * any(row.guidance is not None for row in rows)
    names = axes + [rank_header(held, first_score(rows, scope))] * any(ranks)
    lines = []
    for i, (row, rank) in enumerate(zip(rows, ranks, strict=True)):
        if scope == "generator" and i and row.generator != rows[i - 1].generator:
            lines.append(r"\midrule")
        labels = {"tokenizer": row.tokenizer, "regularizer": row.regularizer, "generator": row.generator}
        if row.real:
            labels = {"generator": "real"}
        texts = [_label(labels.get(axis, "")) for axis in axes if axis != "w"]
        texts += [guidance_of(row)] * ("w" in axes) + [rank.replace("–", "--")] * any(ranks)
        values = zip(columns, cells(row, columns), strict=True)
        texts += [MARKS[mark.get((i, column), "")].format(_number(text)) for column, text in values]
        lines.append(" & ".join(texts) + r" \\")
    what = "Generation" if scope == "generator" else "Reconstruction and latents"
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{what} on {escape(dataset)}. {_caption(rows, held)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * len(names)}{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join([*("$w$" if name == "w" else name for name in names), *_headers(columns)]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\par\smallskip\raggedright {_footnote(columns)}",
            r"\end{table*}",
        ]
    )


def _label(text: str) -> str:
    r"""A row that opens with [ or * would be read as an argument of the last row's \\."""
    return f"{{}}{escape(text)}" if text[:1] in ("[", "*") else escape(text)


def _number(text: str) -> str:
    """As in other tables, a minus with its own sign."""
    return f"$-${escape(text[1:])}" if text.startswith("-") else escape(text)


def _headers(columns: list[Column]) -> list[str]:
    names = short_names(columns)
    return [
        escape(name)
        + DIRECTIONS[column.better]
        + (rf" \texttt{{{column.protocol}}}" if names.count(name) > 1 else "")
        for name, column in zip(names, columns, strict=True)
    ]


def _caption(rows: Sequence[Row], held: Sequence[Ranking]) -> str:
    """What values, ranks and marks mean."""
    seeds = max(row.seeds for row in rows)
    text = rf"Mean $\pm$ standard deviation over {seeds} seeds." if seeds > 1 else "One seed: no spread."
    bases = {contest.basis for contest in held}
    if held:
        text += r" Ranks are intervals; $\approx$ marks all that may be the first"
        text += " (paired, Holm)" + ", bold one that all others are worse than" * ("seeds" in bases) + "."
    if any(contest.logs for contest in held):
        text += r" Fr\'echet distances are compared by their logarithms."
    if chosen := told(rows, judged(rows).items()):
        text += f" {escape(chosen)}"
    if "resamples" in bases:
        text += " They rest on resamples of one seed's images: training variance is unknown."
    return text


def _footnote(columns: Sequence[Column]) -> str:
    """The protocol of each column; what isn't FID is said not to be."""
    parts = []
    for id in dict.fromkeys(column.protocol for column in columns):
        mine = [column for column in columns if column.protocol == id]
        plain = {k: v for k, v in full_protocol(mine[0].entry).items() if not isinstance(v, dict)}
        said = ", ".join(f"{k} {v}" for k, v in plain.items())
        parts.append(rf"{escape(', '.join(c.name for c in mine))}: \texttt{{{id}}} ({escape(said)}).")
    if any("FD" in column.base and "[" in column.name for column in columns):
        parts.append(NOT_FID)
    return " ".join(parts)
