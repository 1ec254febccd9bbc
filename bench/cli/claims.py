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
        typer.Option("-o", "--output", metavar="DIR", help="Write tables and figures there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test claims that were written before a run, together, and the predictors that were named with them.

    FILE is YAML; results folders in it are relative to its own folder:

    claims: [{paper: SimFlow, claim: noise helps a flow, better: {regularizer: fixed_variance, generator:
    tarflow}, than: {regularizer: none, generator: tarflow}}]

    proxies: [{paper: iFID, number: iFD, better: lower, rows: {generator: lightningdit|tarflow}}]
    """
    from ..tools.planned import claims as planned_claims
    from ..tools.planned import proxies as planned_proxies

    with as_usage_errors(OSError):
        stated, proxies = planned_claims.read_planned(file)
        found = [planned_claims.finding(planned_claims.outcomes_of(file, stated))]
        if proxies:
            found.append(planned_proxies.finding(planned_proxies.outcomes_of(proxies, file)))
    if as_json:
        print_json([finding_json(str(file), one) for one in found])
    else:
        print("\n\n".join(escape_control_characters(finding_text(str(file), one)) for one in found))
    if output is not None:
        write_and_name(output, found, as_json)
