"""`bench proxies`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import UsageError, as_usage_errors, print_error_line, print_json
from .finding_text import finding_json, finding_text, write_and_name
from .safe_text import escape_control_characters
from .shared_options import JsonOption

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
    from ..records.packed_folder import has_records
    from ..report.analysis.proxy_folders import report

    if output is not None and ((output / "records").is_dir() or has_records(output)):
        raise UsageError(
            f"{output} is a results folder, whose report has these tables: choose another -o DIR"
        )
    with as_usage_errors(OSError):
        reports, notes = report(folders, generator, measure, FIGURES if output is not None else 0)
    for note in notes:
        print_error_line(f"note: {note}")
    if as_json:
        print_json([finding_json(one.name, finding) for one in reports for finding in one.findings])
    else:
        texts = [finding_text(one.name, finding) for one in reports for finding in one.findings]
        print(escape_control_characters("\n\n\n".join(texts)))
    if output is not None:
        write_and_name(output, [finding for one in reports for finding in one.findings], as_json)
