"""`bench submit`, `leaderboards` and `reproduce`: results of several groups."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import as_usage_errors, err, out, plain_table, print_error_line, print_json
from .interrupts import resumable
from .run import EngineOption, check_engine
from .safe_text import Text, escape_control_characters
from .shared_options import (
    DeviceOption,
    FilterOption,
    JsonOption,
    OfflineOption,
    PluginOption,
    check_device,
)

if TYPE_CHECKING:
    from ..records.record import Record
    from ..tools.reproduction.cells import Candidate


def submit(
    folder: Annotated[Path, typer.Argument(help="a results folder", metavar="DIR")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The archive.  [default: NAME.zip]"),
    ] = None,
    contributor: Annotated[
        str, typer.Option("--contributor", metavar="NAME", help="Who sends it, as leaderboards name them.")
    ] = "",
    min_seeds: Annotated[
        int, typer.Option("--min-seeds", metavar="N", min=1, help="Seeds that each trained row must have.")
    ] = 3,
    tables: Annotated[
        bool, typer.Option("--tables", help="Also pack leaderboard.csv and leaderboard.md.")
    ] = False,
) -> None:
    """Check a results folder and pack its records. Lists all that is wrong with it."""
    from ..leaderboard.numbers import plural
    from ..store.disk import size_text
    from ..tools.submission.submit import submit as submit_folder

    with as_usage_errors(OSError):
        sent = submit_folder(folder, output, contributor, min_seeds, tables)
    for note in sent.notes:
        print_error_line(f"note: {note}")
    print(f"{sent.path}: {plural(sent.records, 'record')}, {size_text(sent.size)}")


def leaderboards(
    places: Annotated[
        list[Path], typer.Argument(help="results folders, and archives of `bench submit`", metavar="PLACE…")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page.")] = Path(
        "leaderboards.html"
    ),
) -> None:
    """Write one page of several groups' results. Each row says who made it, when and with which commit."""
    from ..leaderboard.contributions import read_contributions
    from ..records.archive import unpacked
    from ..report.page.leaderboards import write_leaderboards
    from ..store.disk import size_text

    with as_usage_errors(OSError), unpacked(places) as folders:
        names = [place.stem if place.is_file() else place.resolve().name for place in places]
        page = write_leaderboards(output, read_contributions(folders, names))
    print(f"{page}: {size_text(page.stat().st_size)}")


def reproduce(
    folder: Annotated[Path, typer.Argument(help="a results folder", metavar="DIR")],
    filter: FilterOption = None,
    list_cells: Annotated[
        bool, typer.Option("--list", help="List the cells with their estimated cost; make none.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Keep what is made here, and go on from it the next time."
        ),
    ] = None,
    plugin: PluginOption = None,
    engine: EngineOption = "local",
    device: DeviceOption = "cpu",
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make cells of a results folder again and compare every number. Without -k, the cheapest cell."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    check_engine(engine)
    check_device(device)
    from ..tools.reproduction.cells import candidates

    with as_usage_errors(OSError):
        records, found = candidates(folder, filter, device, plugin or (), fetch=not list_cells)
    if list_cells:
        _list_cells(found)
        return
    from ..tools.reproduction import text
    from ..tools.reproduction.verdicts import compare

    chosen = found if filter else found[:1]
    with resumable(), _work_folder(output) as work:
        made = _remake(chosen, work, engine, device, as_json)
    comparison = compare(records, [(c.record, r) for c, r in zip(chosen, made, strict=True)])
    if as_json:
        print_json(text.to_json(comparison))
    else:
        for note in comparison.notes:
            print_error_line(f"note: {note}")
        print(escape_control_characters(text.text(comparison)))
    if not comparison.passed:
        raise typer.Exit(1)


def _list_cells(found: Sequence[Candidate]) -> None:
    """Prints the cells, the cheapest first, with the hours that a run of each alone takes."""
    from ..plan.forecast import span

    table = plain_table(["cell", "time, estimated"], left=("cell",))
    for one in found:
        table.add_row(Text(one.cell.name), span(one.hours))
    out.print(table)
    print("choose by -k, as in -k 'regularizer=kl,seed=0'")


@contextmanager
def _work_folder(kept: Path | None) -> Iterator[Path]:
    """The folder where cells are made: the one to keep, or one that is removed in the end."""
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="latentbench-") as folder:
        yield Path(folder)


def _remake(chosen: Sequence[Candidate], work: Path, engine: str, device: str, quiet: bool) -> list[Record]:
    from ..engine.run_options import RunOptions, cores
    from ..plan.forecast import span
    from ..tools.reproduction.cells import remake
    from .progress import Display

    hours = span(sum(one.hours for one in chosen))
    print_error_line(f"making {', '.join(one.cell.name for one in chosen)}: about {hours} by an estimate")
    needed = len({stage.id for one in chosen for stage in one.plan.needed([one.cell])})
    display = Display(err if quiet else out, needed, 0, cores(), quiet=quiet)

    def options(folder: Path) -> RunOptions:
        return RunOptions(out=folder, jobs=cores(), device=device, engine=engine)

    with display:
        return remake(chosen, work, options, display)
