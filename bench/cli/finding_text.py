"""Findings as people read them in a terminal, as JSON, and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from .console import as_usage_errors

if TYPE_CHECKING:
    from ..report.analysis.findings import Finding

WIDTH, LINES = 100, 20  # of text; lines of a table


def finding_text(name: str, finding: Finding) -> str:
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


def finding_json(name: str, finding: Finding) -> dict[str, Any]:
    """A finding as JSON, with all columns of its table."""
    table = finding.table.astype(object)
    lines = table.where(table.notna(), None).to_dict("records")
    fields = {"results": name, "analysis": finding.name, "question": finding.question}
    return fields | {"answer": finding.answer, "method": finding.method, "table": lines}


def write_and_name(output: Path, findings: Sequence[Finding], quiet: bool) -> None:
    """Writes the tables and figures of findings into a folder, and prints their paths unless `quiet`."""
    from ..report.write import write_findings

    with as_usage_errors(OSError):
        written = write_findings(output, findings)
    if not quiet:
        print("\n" + "\n".join(map(str, written)))
