"""Records become what is read: leaderboard.csv for programs, .md, .tex, .html and a summary for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..leaderboard.columns import cells, first_score, guidance_of, headers, ranked, scored, shown
from ..leaderboard.folders import Source, one_each
from ..leaderboard.ranking import contests, rank_texts
from ..leaderboard.rows import Column, Results, Row, grouped, joined
from ..records.records import Record, RecordError, read_records
from ..store.disk import replace_text
from .csv import csv
from .dataframe import frame
from .markdown import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .analysis.findings import Finding

DPI = 150  # of the analyses' figures


def write_report(
    folder: str | Path,
    records: Iterable[Record],
    title: str | None = None,
    complete: bool = True,
    folders: Sequence[str | Path] = (),
) -> list[Path]:
    """Writes `folder`/leaderboard.csv and .md from records in any order; returns the paths.

    Ranks, analyses, LaTeX and the page are made when the records are complete. Without a title it is the
    provenance's "matrix" (where all records agree), or the folder's name. `folders` hold the page's pictures,
    `folder` itself if none is given.
    """
    folder, results = Path(folder), Results.of(records)
    if title is None:
        named = {str(record.provenance.get("matrix") or "") for record in results.records}
        title = named.pop() if len(named) == 1 else ""
    title = title or folder.resolve().name
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"leaderboard.csv": csv(frame(results, complete))}
    found: list[Finding] = []
    if complete:
        from .analysis.findings import all_of
        from .latex import latex

        found = all_of(results)
        texts["leaderboard.tex"] = latex(results, title)
    texts["leaderboard.md"] = markdown(results, title, found, complete)
    for name, text in texts.items():
        replace_text(folder / name, text)
    written = [folder / name for name in texts]
    if complete:
        from .page import page

        written += _analyses(folder / "analysis", found)
        written.append(page.write(folder, results, found, title, [Path(f) for f in folders or (folder,)]))
    return written


def rebuild_report(folders: Sequence[str | Path], out: str | Path, title: str | None = None) -> list[Path]:
    """Rebuilds all in `out` from FOLDER/records and pictures of one or several results folders alone."""
    sources = [Source(Path(folder), read_records(Path(folder) / "records")) for folder in folders]
    for one in sources:
        if not one.records:
            raise RecordError(f"no records in {one.folder / 'records'}")
    return write_report(out, one_each(sources)[0], title, folders=folders)


def _analyses(folder: Path, found: Sequence[Finding]) -> list[Path]:
    """NAME.csv and NAME.png of each; those of analyses that the records no longer allow are removed."""
    for old in (*folder.glob("*.csv"), *folder.glob("*.png")):
        old.unlink(missing_ok=True)
    written = []
    for finding in found:
        folder.mkdir(exist_ok=True)
        written.append(folder / f"{finding.name}.csv")
        replace_text(written[-1], csv(finding.table))
        if finding.figure is not None:
            written.append(folder / f"{finding.name}.png")
            _lay_out(finding.figure)
            finding.figure.savefig(written[-1], dpi=DPI, facecolor="white")
    return written


def _lay_out(figure: Figure) -> None:
    """For good: else whoever saves it, here and for the page, draws it twice."""
    figure.set_dpi(DPI)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def terminal_summary(records: Iterable[Record]) -> str:
    """For the terminal: the leading rows of each generator, at most 25 lines of 100 columns."""
    results, scope = Results.of(records), "generator"
    rows = [row for row in joined(results.rows) if scored(row, scope)]
    if not rows:
        scope, rows = "tokenizer", joined(results.tokenizers)
    rows = ranked(rows, scope)
    columns, _ = shown(rows, scope, most=3)
    best = first_score(rows, scope)
    held = contests(rows, best)
    ranks = dict(zip(map(id, rows), rank_texts(rows, held, best), strict=True))
    groups = grouped(rows, ("dataset", "generator"))
    each = max(1, min(3, 19 // max(1, len(groups))))
    leading = [row for group in list(groups.values())[:19] for row in group[:each]]
    columns = [column for column in columns if any(column in row.values for row in leading)][:4]
    lines = [["dataset", "generator", "regularizer", "tokenizer", "w", "rank", *headers(columns)]]
    lines += [_line(row, ranks[id(row)], columns) for row in leading]
    used = [any(line[i] for line in lines[1:]) for i in range(len(lines[0]))]
    used[0] = len({row.dataset for row in rows}) > 1
    lines = [[text for text, keep in zip(line, used, strict=True) if keep] for line in lines]
    widths = [min(22, max(map(len, column))) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(_fit, line, widths)).rstrip()[:100] for line in lines]
    cells = [record for record in results.records if not record.real]
    counts = {status: sum(r.status == status for r in cells) for status in ("done", "failed", "skipped")}
    tally = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "no"
    if not rows:
        return f"{tally} cells"
    most = max((len(group) for group in groups.values() if not group[0].real), default=0)
    part = f"best {each} of up to {most} rows" if most > each else "all rows"
    what = "a generator" if scope == "generator" else "of tokenizers"
    by = f" by {best[0].name}" if best else ""
    note = "; one seed: ranks are sampling noise only" * any(c.basis == "resamples" for c in held)
    return "\n".join([f"{part} {what}{by}{note}"[:100], *text, f"{tally} cells"])


def _line(row: Row, rank: str, columns: list[Column]) -> list[str]:
    labels = ("real", "", "") if row.real else (row.generator, row.regularizer, row.tokenizer)
    return [row.dataset, *labels, guidance_of(row), rank, *cells(row, columns)]


def _fit(text: str, width: int) -> str:
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)
