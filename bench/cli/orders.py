"""`bench orders`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import UsageError, as_usage_errors, print_json
from .finding_text import finding_json, finding_text, write_and_name
from .safe_text import escape_control_characters
from .shared_options import JsonOption


def orders(
    sets: Annotated[
        list[str],
        typer.Argument(help="results/NAME, or results/NAME:generator=tarflow; two or more", metavar="SET…"),
    ],
    measure: Annotated[
        str | None,
        typer.Option("--measure", metavar="NAME", help="Another generation distance, as gFD[inception]."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write the table and the figure there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how alike sets of rows order the regularizers: the first beside each of the others.

    Sets may differ in dataset, tokenizer, budget and generator. The agreement of single seeds of one set
    says what the seed alone changes.
    """
    from ..tools import orders as order_tools
    from ..tools.compare import side

    if len(sets) < 2:
        raise UsageError("orders are of two sets of rows or more, such as results/a results/b")
    with as_usage_errors(OSError):
        found = order_tools.finding(order_tools.agreements([side(text) for text in sets], measure))
    if as_json:
        print_json(finding_json(sets[0], found))
    else:
        print(escape_control_characters(finding_text(sets[0], found)))
    if output is not None:
        write_and_name(output, [found], as_json)
