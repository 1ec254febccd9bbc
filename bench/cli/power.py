"""`bench power`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import UsageError, as_usage_errors, print_json
from .safe_text import escape_control_characters
from .shared_options import JsonOption

if TYPE_CHECKING:
    from ..leaderboard.power_table import Spread


def power(
    folder: Annotated[
        Path | None, typer.Argument(help="a results folder, whose spread over seeds counts", metavar="[DIR]")
    ] = None,
    deviation: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", min=0.01, help="The spread over seeds, in place of a folder's."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Rows of a generator.  [default: the folder's]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Numbers of seeds.  [default: 2,3,5,8,12]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how large a difference of gFD so many seeds show, for a study that is to be planned.

    The spread is the standard deviation over seeds, pooled over rows. The test is that of ranks: at 5 % over
    all pairs of rows, and over all comparisons with one control; the power is 80 %. Differences are shares of
    the better row's gFD.
    """
    from ..leaderboard.power_table import SEEDS, Spread, power_table, spreads
    from ..records.files import read_records

    if folder is not None and deviation is not None:
        raise UsageError("bench power takes a results folder or --deviation, not both")
    if folder is None and deviation is None:
        raise UsageError("bench power needs a results folder, or --deviation PERCENT and --rows N")
    if folder is None and rows is None:
        raise UsageError("--deviation needs --rows N: more rows are more comparisons")
    counts = _counts(seeds) if seeds is not None else SEEDS
    if folder is not None:
        with as_usage_errors(OSError):
            records = read_records(folder / "records")
        if not records:
            raise UsageError(f"no records in {folder / 'records'}")
        found = spreads(records)
        if not found:
            raise UsageError(
                f"{folder} has no generator with rows of two seeds, ranked by a Fréchet distance"
            )
        found = [replace(one, rows=rows or one.rows) for one in found]
    else:
        found = [Spread("", "", "", rows or 0, (deviation or 0) / 100)]
    tables = [(spread, power_table(spread, counts)) for spread in found]
    if as_json:
        print_json([asdict(spread) | {"table": table} for spread, table in tables])
    else:
        several = len({spread.dataset for spread in found}) > 1
        print(escape_control_characters("\n\n".join(_text(*table, several) for table in tables)))


def _counts(text: str) -> list[int]:
    counts = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(counts) < 2:
        raise UsageError(f"--seeds takes whole numbers from 2 on, such as 2,3,5, not {text!r}")
    return counts


def _text(spread: Spread, table: list[dict[str, float]], several: bool) -> str:
    """One generator's table; `several` says whether datasets must be named."""
    from tabulate import tabulate

    named = [spread.dataset, spread.generator] if several else [spread.generator]
    head = f"{' · '.join(named)}: " if spread.generator else ""
    about = f" of {spread.measure}" if spread.measure else ""
    lines = [
        [f"{seeds}", *(f"{share:.2g}" for share in shares)] for seeds, *shares in map(dict.values, table)
    ]
    shown = tabulate(lines, list(table[0]), tablefmt="plain", disable_numparse=True)
    deviation = f"a deviation of {100 * spread.deviation:.2g} % over seeds"
    return f"{head}{spread.rows} rows, {deviation}{about}\n{shown}"
