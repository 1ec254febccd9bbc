"""Writes the report of a results folder: leaderboard.csv, .md, .tex, .html and analysis/."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..leaderboard.folders import ResultsFolder, one_each
from ..leaderboard.results import Results
from ..records.files import RecordError, read_records
from ..records.record import Record
from ..store.disk import replace_bytes, replace_text
from .csv import csv
from .dataframe import frame
from .markdown import markdown
from .places import ANALYSES, ANALYSIS, check_output
from .png import DRAWN, fewer_colours, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .analysis.findings import Finding

DPI = 150  # of figures


def write_report(
    folder: str | Path,
    records: Iterable[Record],
    title: str | None = None,
    to_come: str = "",
    folders: Sequence[str | Path] = (),
) -> list[Path]:
    """Writes `folder`/leaderboard.csv, .md, .html and .tex and analysis/ from records in any order.

    Returns the paths. The default title is the provenance's "matrix" (if all records agree), else the
    folder's name.

    Args:
        to_come: a sentence on what a run will still add. With it the report says that it is partial, and
            leaves out what takes long: ranks in the tables, LaTeX and analyses.
        folders: the folders with the page's pictures; by default `folder`.
    """
    from .page import page  # jinja2 takes a while

    folder, results = Path(folder), Results.of(records)
    if title is None:
        named = {str(record.provenance.get("matrix") or "") for record in results.records}
        title = named.pop() if len(named) == 1 else ""
    title = title or folder.resolve().name
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"leaderboard.csv": csv(frame(results, not to_come))}
    findings: list[Finding] = []
    if not to_come:
        from .analysis.findings import all_of
        from .latex import latex

        findings = all_of(results)
        texts["leaderboard.tex"] = latex(results, title)
    sources = [Path(source) for source in folders or (folder,)]
    texts["leaderboard.md"] = markdown(results, title, findings, to_come, sources)
    for name, text in texts.items():
        replace_text(folder / name, text)
    written = [folder / name for name in texts]
    if not to_come:
        written += _analyses(folder / ANALYSIS, findings)
    return [*written, page.write(folder, results, findings, title, sources, to_come)]


def rebuild_report(folders: Sequence[str | Path], out: str | Path, title: str | None = None) -> list[Path]:
    """Writes the report in `out` from the records and pictures of one or several results folders.

    Raises:
        RecordError: a folder has no records, one cannot be read, or folders contradict each other.
        NotWritable: `out` cannot be written, or has files or records that are none of these.
    """
    sources = [ResultsFolder(Path(folder), read_records(Path(folder) / "records")) for folder in folders]
    for source in sources:
        if not source.records:
            raise RecordError(f"no records in {source.folder / 'records'}")
    check_output(Path(out), [source.folder for source in sources])
    return write_report(out, one_each(sources)[0], title, folders=folders)


def _analyses(folder: Path, findings: Sequence[Finding]) -> list[Path]:
    """Writes NAME.csv and NAME.png of each finding, and then removes all others."""
    written = write_findings(folder, findings)
    for old in {file for pattern in ANALYSES for file in folder.glob(pattern)}.difference(written):
        old.unlink(missing_ok=True)
    return written


def write_findings(folder: Path, findings: Sequence[Finding]) -> list[Path]:
    """Writes NAME.csv and NAME.png of each finding, and NAME--KEY.png of its further figures."""
    written = []
    for finding in findings:
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / f"{finding.name}.csv")
        replace_text(written[-1], csv(finding.table))
        for name, figure in finding.figures.items():
            written.append(folder / f"{name}.png")
            _lay_out(figure)
            replace_bytes(written[-1], _drawn(figure))
    return written


def _drawn(figure: Figure) -> bytes:
    """A figure on white as a PNG with a palette, a fifth of the bytes that one in full colour takes."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    with Image.open(buffer) as picture:  # figures have no background, and converting would drop the opacity
        white = Image.new("RGBA", picture.size, "white")
        return png(fewer_colours(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"), DRAWN))


def _lay_out(figure: Figure) -> None:
    """Lays out a figure once, so that saving it (here and for the page) doesn't draw it twice."""
    figure.set_dpi(DPI)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
