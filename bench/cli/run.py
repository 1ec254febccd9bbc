"""`bench run`."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import UsageError, err, out, print_error_line
from .interrupts import resumable
from .open_plan import contents, headline, open_plan
from .safe_text import Text, escape_control_characters
from .shared_options import (
    DebugOption,
    DeviceOption,
    FilterOption,
    MatrixOption,
    OfflineOption,
    OutOption,
    PluginOption,
    ProfileOption,
    SeedsOption,
    ShardOption,
    StoreOption,
)

if TYPE_CHECKING:
    from ..engine.open_plan import OpenPlan
    from ..engine.run_options import RunOptions
    from ..engine.tracking import Tracking
    from ..records.record import Record


JobsOption = Annotated[
    str,
    typer.Option(
        "-j",
        "--jobs",
        metavar="N|auto",
        help="Number of stages to run in parallel (auto: one per core, as memory allows, or per GPU; all "
        "resources of a Ray cluster).",
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        metavar="local|ray|inline",
        help="Worker processes, tasks of a Ray cluster, or in this process, for debugging.",
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto",
        envvar="RAY_ADDRESS",
        help="A Ray cluster whose nodes share the folder of artifacts.  [default: one of this machine]",
    ),
]
LoadersOption = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Processes per worker that decode images ahead; auto: the cores that are left.",
    ),
]
ProcessesOption = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, help="Processes that share each stage of a worker; torchrun gives its own."
    ),
]
FailFastOption = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed stage.")]
KeepRecordsOption = Annotated[
    bool, typer.Option("--keep-records", help="A record in the results folder counts as done.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Run into a folder whose records git tracks, and replace them.")
]
ForceMemoryOption = Annotated[
    bool, typer.Option("--force-memory", help="Run although a stage needs more memory than there is.")
]
RerunOption = Annotated[bool, typer.Option("--rerun", help="Make everything anew, cached or not.")]
TrackOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="tensorboard, wandb, mlflow, …: losses and scores, in DIR/track."),
]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Only failures and the last lines.")]


def run(
    matrix: MatrixOption = Path("matrix.yaml"),
    output: OutOption = None,
    profile: ProfileOption = None,
    filter: FilterOption = None,
    seeds: SeedsOption = None,
    jobs: JobsOption = "auto",
    engine: EngineOption = "local",
    ray_address: RayAddressOption = None,
    loaders: LoadersOption = "auto",
    processes: ProcessesOption = 1,
    plugin: PluginOption = None,
    fail_fast: FailFastOption = False,
    keep_records: KeepRecordsOption = False,
    overwrite: OverwriteOption = False,
    rerun: RerunOption = False,
    force_memory: ForceMemoryOption = False,
    offline: OfflineOption = False,
    shard: ShardOption = None,
    store_url: StoreOption = None,
    track: TrackOption = None,
    device: DeviceOption = "cpu",
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train and score every cell of a matrix; write the leaderboard."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if engine == "ray":
            raise UsageError(
                "--engine ray starts a stage's processes itself: give --processes in place of torchrun"
            )
        from ..engine import companions

        if int(os.environ["RANK"]) > 0:
            companions.serve_torchrun()
            return
        atexit.register(companions.dismiss_torchrun)
        processes, jobs = int(os.environ["WORLD_SIZE"]), "1"
    check_engine(engine)
    _check_trackers(track)
    workers = _worker_count(jobs, engine, device, processes)
    if shard and rerun:
        raise UsageError(
            "--rerun would remove what other shards have made; `bench clean` before them does it"
        )
    with resumable() as begun:
        from ..engine.run_options import RunOptions

        opened = open_plan(matrix, profile, filter, seeds, plugin, device, shard, store_url, fetch=True)
        if not opened.cells:
            print(f"nothing to do: shard {shard} has no cells")
            return
        if jobs == "auto" and engine == "local" and device == "cpu":
            workers = _that_memory_holds(opened, rerun, workers)
        whole_cluster = engine == "ray" and ray_address is not None and jobs == "auto"
        options = RunOptions(
            out=output or Path("results") / "-".join((opened.matrix.name, *(profile or ()))),
            jobs=None if whole_cluster else workers,
            device=device,
            fail_fast=fail_fast,
            keep_records=keep_records,
            overwrite=overwrite,
            rerun=rerun,
            force_memory=force_memory,
            profile="-".join(profile or ()),
            loaders=_loader_count(loaders, workers * processes, opened.matrix.threads),
            processes=processes,
            engine=engine,
            ray_address=ray_address,
        )
        begun.append(opened.matrix.name)
        records, traces = _run(opened, options, track, quiet)
    if debug:
        for trace in traces:
            err.print(Text(trace))
    own = {cell.key for cell in opened.cells}
    _print_end(options.out, records, [record for record in records if record.key in own], debug)


def check_engine(engine: str) -> None:
    """Raises UsageError for an engine that is unknown or not installed."""
    if engine not in ("local", "ray", "inline"):
        raise UsageError(f"--engine takes local, ray or inline, not {engine!r}")
    if engine == "ray" and find_spec("ray") is None:
        raise UsageError("--engine ray: ray isn't installed; `pip install ray` does it")


def _check_trackers(names: list[str] | None) -> None:
    """Raises TrackerError for trackers that are unknown or not installed."""
    if names:
        from ..engine import tracking

        tracking.check(names)


def _worker_count(jobs: str, engine: str, device: str, processes: int) -> int:
    if jobs != "auto" and (not jobs.isdigit() or int(jobs) < 1):
        raise UsageError(f"-j takes a number of workers or auto, not {jobs!r}")
    if engine == "inline":
        return 1
    if jobs != "auto":
        return int(jobs)
    return max(1, _units(device) // processes)


def _that_memory_holds(opened: OpenPlan, rerun: bool, most: int) -> int:
    """The number of workers that memory holds, at most one for each core; the user is told of fewer."""
    from ..engine.workers_in_memory import workers_in_memory
    from ..runtime.machine_memory import main_memory

    count = workers_in_memory(opened.estimates(rerun).values(), main_memory(), most)
    if count < most:
        _warn(
            f"memory holds {count} of the {most} workers that the cores would keep busy (-j N overrides this)"
        )
    return count


def _loader_count(loaders: str, processes: int, threads: int) -> int:
    from ..engine.run_options import spare_loaders

    if loaders == "auto":
        return spare_loaders(processes, threads)
    if not loaders.isdigit():
        raise UsageError(f"--loaders takes a number of processes or auto, not {loaders!r}")
    return int(loaders)


def _units(device: str) -> int:
    """The number of cores or GPUs, of which each process of a worker takes one."""
    if device != "cuda":
        from ..engine.run_options import cores

        return cores()
    import torch

    return torch.cuda.device_count()


def _run(
    opened: OpenPlan, options: RunOptions, track: list[str] | None, quiet: bool
) -> tuple[list[Record], list[str]]:
    """The records of the results folder, and the tracebacks of failed stages."""
    from ..engine.run import run as run_plan
    from .progress import Display

    needed = len(opened.needed)
    cached = 0 if options.rerun else sum(opened.store.has(stage) for stage in opened.needed)
    for line in (*contents(opened), headline(opened, cached, options.jobs)):
        out.print(line, soft_wrap=True)
    display = Display(out, needed, cached, options.jobs or 1, options.out / "leaderboard.html", quiet)
    with display, _tracking(opened, options, track) as trackers:
        records = run_plan(opened, options, display, *trackers)
    return records, display.traces


@contextmanager
def _tracking(opened: OpenPlan, options: RunOptions, track: list[str] | None) -> Iterator[list[Tracking]]:
    """A watcher that sends a run's losses and scores to trackers, if the user wants some."""
    if not track:
        yield []
        return
    from ..engine.tracking import Tracking

    folder, project = options.out / "track", opened.matrix.name
    with Tracking(track, folder, project, opened.plan, opened.store, _warn) as tracking:
        yield [tracking]


def _warn(text: str) -> None:
    print_error_line(f"warning: {text}")


def _print_end(folder: Path, present: list[Record], records: list[Record], debug: bool) -> None:
    """Prints the folder's best rows, the run's failed cells and where all is; exits with 1 if a cell failed.

    Args:
        present: the records in the folder, which its tables show; some may be other shards'.
        records: those of the run's own cells.
    """
    from ..leaderboard.numbers import plural
    from ..report.summary import terminal_summary

    failed = [record for record in records if record.status == "failed"]
    without = sorted({name for record in records for name, why in record.missing.items() if why["failed"]})
    print()
    print(escape_control_characters(terminal_summary(present)))
    if others := sum(not record.real for record in present) - sum(not record.real for record in records):
        print(f"{plural(others, 'cell')} of these came from other runs into this folder")
    print()
    for record in failed:
        print(escape_control_characters(f"failed: {' · '.join(record.cell.values())}: {record.reason}"))
    if without:
        names = escape_control_characters(", ".join(without))
        print(f"no numbers of {names} in some cells: the leaderboard says why")
    print(f"leaderboard: {folder / 'leaderboard.html'}, .md, .tex and .csv")
    pictures = [str(folder / kind) for kind in ("samples", "figures") if (folder / kind).is_dir()]
    print(f"records:     {folder / 'records'}   pictures: {' and '.join(pictures) or 'none'}")
    print(f"next:        bench report {folder}   (rebuilds all of it from the records)")
    if failed:
        if not debug:
            print(f"{len(failed)} of {len(records)} cells failed; --debug shows tracebacks")
    if failed or without:
        raise typer.Exit(1)
