"""`bench proxies`."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import UsageError, as_usage_errors, print_error_line, print_json
from .safe_text import escape_control_characters
from .shared_options import JsonOption

if TYPE_CHECKING:
    from ..report.analysis.findings import Finding

WIDTH, LINES = 100, 20  # of text; lines of a table
FIGURES = 40  # signals, at most, with a figure of their own: all that papers name, and those beyond chance


def proxies(
    folders: Annotated[list[Path], typer.Argument(help="results folders", metavar="DIR…")],
    generator: Annotated[
        str | None,
        typer.Option(
            "--generator", metavar="G", help="This generator alone.  [default: all, and their mean]"
        ),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option("--measure", metavar="NAME", help="Another generation distance, as gFD[inception]."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write tables and figures there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which cheap numbers foretell generation quality, and whether papers' claims hold here.

    Rows of several folders are compared within each folder alone.
    """
    from ..report.analysis.proxy_folders import report

    if output is not None and (output / "records").is_dir():
        raise UsageError(
            f"{output} is a results folder, whose report has these tables: choose another -o DIR"
        )
    with as_usage_errors(OSError):
        reports, notes = report(folders, generator, measure, FIGURES if output is not None else 0)
    for note in notes:
        print_error_line(f"note: {note}")
    if as_json:
        print_json([_plain(one.name, finding) for one in reports for finding in one.findings])
    else:
        texts = [_text(one.name, finding) for one in reports for finding in one.findings]
        print(escape_control_characters("\n\n\n".join(texts)))
    if output is not None:
        from ..report.write import write_findings

        with as_usage_errors(OSError):
            written = write_findings(output, [finding for one in reports for finding in one.findings])
        if not as_json:
            print("\n" + "\n".join(map(str, written)))


def _text(name: str, finding: Finding) -> str:
    """A finding as people read it in a terminal."""
    from tabulate import tabulate

    table = finding.short_table
    lines = [[_cell(value) for value in row] for row in table.head(LINES).itertuples(index=False)]
    shown = tabulate(lines, list(table.columns), tablefmt="plain", disable_numparse=True)
    more = len(table) - LINES
    rest = [f"{more} more lines: -o DIR writes them all, with more columns."] if more > 0 else []
    parts = [f"{name}: {finding.title}", _wrapped(finding.answer), "\n".join([shown, *rest])]
    return "\n\n".join([*parts, _wrapped(finding.method)])


def _wrapped(text: str) -> str:
    return "\n".join(wrap(text, WIDTH))


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(name: str, finding: Finding) -> dict[str, Any]:
    """A finding as JSON, with all columns of its table."""
    table = finding.table.astype(object)
    lines = table.where(table.notna(), None).to_dict("records")
    fields = {"results": name, "analysis": finding.name, "question": finding.question}
    return fields | {"answer": finding.answer, "method": finding.method, "table": lines}
