"""`lb.run`: trains and scores the cells of a matrix, in this process or in workers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.open_plan import OpenPlan
from ..engine.run import run as run_plan
from ..engine.run_options import RunOptions, spare_loaders
from ..leaderboard.numbers import plural
from ..records.record import Record
from .opening import ArgumentError, MatrixLike, names, opened
from .progress import shown_progress
from .results import Results


def run(
    matrix: MatrixLike,
    *,
    profile: str | Sequence[str] = (),
    filter: str | None = None,
    seeds: int | Sequence[int] | None = None,
    output: str | Path | None = None,
    jobs: int = 0,
    device: str = "cpu",
    parts: Sequence[type] | type = (),
    offline: bool = False,
    progress: bool = True,
    keep_records: bool = False,
    overwrite: bool = False,
    rerun: bool = False,
    force_memory: bool = False,
) -> Results:
    """Trains and scores every cell of a matrix, writes its results folder, and returns what is in it.

    What is in the cache is not made again. A script needs no `if __name__ == "__main__":`.

    Args:
        matrix: a dict, a YAML file, or the name of a packaged matrix such as "digits".
        profile: a profile of the matrix, or several, laid over it in order.
        filter: some of the cells alone: "regularizer=kl*|none,generator=mar".
        seeds: the number of seeds, or a list of them, in place of the matrix's.
        output: the results folder; results/NAME unless given.
        jobs: the number of worker processes; 0 runs all stages in this process.
        device: "cpu" or "cuda".
        parts: classes under `@register("name")` that this notebook or script defines.
        offline: fail at once where the network is needed.
        progress: show one line that updates.
        keep_records: a record in the results folder counts as done.
        overwrite: also replace records that git tracks.
        rerun: make everything anew.
        force_memory: run although a stage needs more memory than there is.

    Raises:
        MatrixError: with all problems of the matrix, each with its line, or with its keys in a dict.
        UserError: the base of all errors that say what to do.
    """
    check_jobs(jobs)
    choice = {"profile": profile, "filter": filter, "seeds": seeds, "device": device, "parts": parts}
    with opened(matrix, **choice, offline=offline, fetch=True) as plan:  # type: ignore[arg-type]
        out = Path(output or Path("results") / "-".join((plan.matrix.name, *names(profile))))
        return run_opened(
            plan,
            out,
            jobs,
            device,
            progress,
            keep_records=keep_records,
            overwrite=overwrite,
            rerun=rerun,
            force_memory=force_memory,
            profile="-".join(names(profile)),
        )


def check_jobs(jobs: int) -> None:
    """Raises ArgumentError for what is no number of workers."""
    if type(jobs) is not int or jobs < 0:
        raise ArgumentError(f"jobs is a number of workers, or 0 for this process, not {jobs!r}")


def run_opened(plan: OpenPlan, out: Path, jobs: int, device: str, progress: bool, **others: Any) -> Results:
    """Runs the chosen cells of a plan; warnings are for whoever has called the caller.

    Args:
        others: fields of `RunOptions`.
    """
    options = RunOptions(
        out=out,
        jobs=jobs or 1,
        device=device,
        loaders=spare_loaders(jobs, plan.matrix.threads) if jobs else 0,
        engine="local" if jobs else "inline",
        **others,
    )
    with shown_progress(plan, options.rerun, progress) as display:
        records = run_plan(plan, options, display)
    keys = {cell.key for cell in plan.cells}
    _warn_of_failures([record for record in records if record.key in keys])
    return Results(records, (out,), plan)


def _warn_of_failures(records: Sequence[Record]) -> None:
    failed = [record for record in records if record.status == "failed"]
    if failed:
        first = f"{' · '.join(failed[0].cell.values())}: {failed[0].reason}"
        text = f"{len(failed)} of {plural(len(records), 'cell')} failed, the first {first}"
        warnings.warn(f"{text} (`.failed` has all)", stacklevel=4)
