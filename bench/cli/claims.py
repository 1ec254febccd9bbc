"""`bench claims`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import as_usage_errors, print_json
from .finding_text import finding_json, finding_text, write_and_name
from .safe_text import escape_control_characters
from .shared_options import JsonOption


def claims(
    file: Annotated[
        Path, typer.Argument(help="claims, each with the two rows that it compares", metavar="FILE")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write claims.csv and claims.png there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test claims that were written before a run, together.

    FILE is YAML; results folders in it are relative to its own folder:

    claims: [{paper: SimFlow, claim: noise helps a flow, better: {regularizer: fixed_variance, generator:
    tarflow}, than: {regularizer: none, generator: tarflow}}]
    """
    from ..tools.planned_claims import finding, outcomes_of

    with as_usage_errors(OSError):
        found = finding(outcomes_of(file))
    if as_json:
        print_json(finding_json(str(file), found))
    else:
        print(escape_control_characters(finding_text(str(file), found)))
    if output is not None:
        write_and_name(output, [found], as_json)
