"""The leaderboard as LaTeX: tables of booktabs to \\input into a paper, with what their numbers rest on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..leaderboard.collapse import marked
from ..leaderboard.columns import cells, short_names
from ..leaderboard.details import protocols
from ..leaderboard.notes import notes
from ..leaderboard.ranking import WHOLE, Standings
from ..leaderboard.results import Leaderboard, Results
from ..leaderboard.rows import ARROWS, Column, Row
from ..records.record import Record

WIDEST = 6  # metrics; the CSV has all
TALLEST = 45  # rows that fit a page; a longer table is split by generator
DIRECTIONS = {ARROWS["higher"]: r" $\uparrow$", ARROWS["lower"]: r" $\downarrow$", "": ""}
MARKS = {"best": r"\textbf{{{}}}", "tied": r"$\approx$\,{}", "": "{}"}
NOT_FID = "FD with other than Inception weights is not FID."


def latex(records: Iterable[Record] | Results, title: str) -> str:
    """A table of generation and one of tokenizers for each dataset."""
    parts = [f"% {' '.join(title.split())}: needs \\usepackage{{booktabs,graphicx}}"]
    for dataset, results in Results.of(records).datasets.items():
        boards = [*_pages(results.generation.scored), results.reconstruction]
        parts += [_table(board, dataset) for board in boards if board.shown(WIDEST)[0]]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text from a matrix as LaTeX that prints it, whatever it contains."""
    from pylatexenc.latexencode import unicode_to_latex

    return unicode_to_latex(" ".join(text.split()), unknown_char_policy="replace", unknown_char_warning=False)


def _pages(board: Leaderboard) -> list[Leaderboard]:
    """The board, or one for each generator if it doesn't fit a page."""
    if len(board.rows) <= TALLEST:
        return [board]
    generators = dict.fromkeys(row.generator for row in board.rows if not row.real)
    pages = [[row for row in board.rows if row.real or row.generator == name] for name in generators]
    return [Leaderboard.of(rows, board.scope) for rows in pages]


def _table(board: Leaderboard, dataset: str) -> str:
    columns, _ = board.shown(WIDEST)
    standings = board.standings(columns)
    names = ["tokenizer", "regularizer"]
    if board.scope == "generator":
        names.insert(0, "generator")
    if any(row.guidance is not None for row in board.rows):
        names.append("$w$")
    if standings.rank_header:
        names.append(standings.rank_header)
    said = map(escape, notes(board.rows, columns))
    what = "Generation" if board.scope == "generator" else "Reconstruction and latents"
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{what} on {escape(dataset)}. {_caption(board, standings)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * len(names)}{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join([*names, *_headers(columns)]) + r" \\",
            r"\midrule",
            *_lines(board, columns, standings, names),
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\par\smallskip\raggedright {' '.join([*said, _footnote(columns)])}",
            r"\end{table*}",
        ]
    )


def _lines(board: Leaderboard, columns: list[Column], standings: Standings, names: list[str]) -> list[str]:
    """The body's rows, with a rule between generators."""
    lines, marks, generator = [], standings.marks, None
    for place, (row, rank) in enumerate(zip(board.rows, standings.rank_texts, strict=True)):
        if generator not in (None, row.generator):
            lines.append(r"\midrule")
        generator = row.generator
        texts = [_label(row, name) for name in names if name in ("generator", "tokenizer", "regularizer")]
        if "$w$" in names:
            texts.append(board.guidance_texts[place].replace("–", "--"))
        if standings.rank_header in names:
            texts.append(rank.replace("–", "--"))
        for column, text in zip(columns, cells(row, columns), strict=True):
            texts.append(MARKS[marks.get((place, column), "")].format(_number(text)))
        lines.append(" & ".join(texts) + r" \\")
    return lines


def _label(row: Row, axis: str) -> str:
    r"""A row's label; braces keep a first [ or * from being read as an argument of the last row's \\."""
    text = marked(row) if axis == "regularizer" else getattr(row, axis)
    if row.real:
        text = row.held_out if axis == "generator" else ""
    return f"{{}}{escape(text)}" if text[:1] in ("[", "*") else escape(text)


def _number(text: str) -> str:
    """A cell's text with the sign of minus."""
    return f"$-${escape(text[1:])}" if text.startswith("-") else escape(text)


def _headers(columns: list[Column]) -> list[str]:
    names, headers = short_names(columns), []
    for name, column in zip(names, columns, strict=True):
        header = escape(name) + DIRECTIONS[column.better]
        if names.count(name) > 1:
            header += rf" \texttt{{{column.protocol}}}"
        headers.append(header)
    return headers


def _caption(board: Leaderboard, standings: Standings) -> str:
    """The meaning of values, ranks and marks."""
    seeds = max(row.seeds for row in board.rows)
    text = rf"Mean $\pm$ standard deviation over {seeds} seeds." if seeds > 1 else "One seed: no spread."
    if standings.rankings:
        text += r" Ranks are intervals; $\approx$ marks all that may be the first (paired, Holm)"
        text += ", bold one that all others are worse than." if standings.bases & {*WHOLE} else "."
    if any(ranking.logs for ranking in standings.rankings):
        text += r" Fr\'echet distances are compared by their logarithms."
    if board.guidance_note:
        text += f" {escape(board.guidance_note)}"
    if "resamples" in standings.bases:
        text += " They rest on resamples of one seed's images: training variance is unknown."
    return text


def _footnote(columns: Sequence[Column]) -> str:
    """The protocol of each column, and that distances with other weights aren't FID."""
    parts = []
    for id, (names, protocol) in protocols(columns).items():
        plain = ", ".join(f"{k} {v}" for k, v in protocol.items() if not isinstance(v, dict))
        parts.append(rf"{escape(', '.join(names))}: \texttt{{{id}}} ({escape(plain)}).")
    if any("FD" in column.base and "[" in column.name for column in columns):
        parts.append(NOT_FID)
    return " ".join(parts)
