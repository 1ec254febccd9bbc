"""The command line: `bench run`, `plan`, `list`, `info`, `report`, `compare`, `check`, `clean`.

Exit codes: 0 done; 1 some cells failed (the report is written); 2 usage or matrix error; 3 worse
(`compare --fail-on`); 128 + N ended by signal N: 130 is Ctrl-C's, 143 SIGTERM's.
Anything that needs torch is imported by the command that needs it.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .. import __version__, registry
from .safe_text import Text, escape_control_characters

if TYPE_CHECKING:
    from ..engine.tracking import Tracking
    from ..matrix.matrix import Matrix
    from ..plan.plan import Cell, Plan
    from ..records.record import Record
    from ..store.artifacts import Store

app = typer.Typer(
    help="Which latent regularizer gives the best tokenizer for which generator?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

MatrixOption = Annotated[Path, typer.Option("-m", "--matrix", metavar="FILE", help="The matrix to run.")]
OutOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Results folder.  [default: results/NAME]"),
]
ProfileOption = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="P", help="A profile of the matrix, such as smoke; several in order."),
]
FilterOption = Annotated[
    str | None,
    typer.Option(
        "--filter", "-k", metavar="EXPR", help="Only some cells: 'regularizer=kl*|none,generator=mar'."
    ),
]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", metavar="N", min=1, help="Seeds 0 … N-1 in place of the matrix's.")
]
PluginOption = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="PATH", help="A Python file with further parts.")
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where to compute.")]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="The I-th of N shares of the cells: for arrays of jobs."),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Keep artifacts there as well: s3://…, gs://…, file:///….  [default: $LATENTBENCH_HOME]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Fail at once if the network is needed.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def run(
    matrix: MatrixOption = Path("matrix.yaml"),
    output: OutOption = None,
    profile: ProfileOption = None,
    filter: FilterOption = None,
    seeds: SeedsOption = None,
    jobs: Annotated[
        str,
        typer.Option(
            "-j",
            "--jobs",
            metavar="N|auto",
            help="Stages at a time; auto: one per core, with cuda per GPU, on a cluster all it holds.",
        ),
    ] = "auto",
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Workers here, or tasks of a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            envvar="RAY_ADDRESS",
            help="A Ray cluster whose nodes share the folder of artifacts.  [default: one of this machine]",
        ),
    ] = None,
    loaders: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Processes per worker that decode images ahead; auto: the cores that are left.",
        ),
    ] = "auto",
    processes: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Processes that share each stage of a worker; torchrun gives its own."
        ),
    ] = 1,
    plugin: PluginOption = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed stage.")] = False,
    keep_records: Annotated[
        bool, typer.Option("--keep-records", help="A record in the results folder counts as done.")
    ] = False,
    rerun: Annotated[bool, typer.Option("--rerun", help="Make everything anew, cached or not.")] = False,
    offline: OfflineOption = False,
    shard: ShardOption = None,
    store_url: StoreOption = None,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="tensorboard, wandb, mlflow, …: losses and scores, in DIR/track."),
    ] = None,
    device: DeviceOption = "cpu",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only failures and the last lines.")] = False,
    debug: DebugOption = False,
) -> None:
    """Train and score every cell of a matrix, and write the leaderboard."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if engine == "ray":
            _fail("--engine ray starts a stage's processes itself: give --processes in place of torchrun", 2)
        from ..engine import companions

        if int(os.environ["RANK"]) > 0:
            companions.serve_torchrun()
            return
        atexit.register(companions.dismiss_torchrun)
        processes, jobs = int(os.environ["WORLD_SIZE"]), "1"
    if engine not in ("local", "ray"):
        _fail(f"--engine takes local or ray, not {engine!r}", 2)
    if engine == "ray" and find_spec("ray") is None:
        _fail("--engine ray: ray isn't installed; `pip install ray` does it", 2)
    abroad = engine == "ray" and ray_address is not None
    workers = max(1, _units(device) // processes) if jobs == "auto" else _jobs(jobs)
    from ..engine import run as running
    from ..engine import run_options
    from ..report.summary import terminal_summary
    from .progress import Display

    if track:
        _check_trackers(track)
    if shard and rerun:
        _fail("--rerun would remove what other shards have made; `bench clean` before them does it", 2)
    traces: list[str] = []
    with _resumable():
        chosen = (matrix, profile, filter, seeds, plugin, device, shard, store_url)
        loaded, plan, cells, store = _open(*chosen, fetch=True)
        if not cells:
            print(f"nothing to do: shard {shard} has no cells")
            return
        folder = output or Path("results") / "-".join((loaded.name, *(profile or ())))
        readers = _loaders(loaders, workers * processes * loaded.threads, workers * processes)
        options = run_options.RunOptions(
            folder,
            None if abroad and jobs == "auto" else workers,
            device,
            fail_fast,
            keep_records,
            rerun,
            "-".join(profile or ()),
            readers,
            processes,
            engine,
            ray_address,
        )
        needed = plan.needed(cells)
        cached = 0 if rerun else sum(store.has(stage) for stage in needed)
        out.print(_headline(loaded, cells, len(needed), cached, options.jobs), soft_wrap=True)
        display = Display(out, len(needed), cached, quiet)
        tracking = _tracking(track, folder, loaded, plan, store)

        def hear(event: Any) -> None:
            display.hear(event)
            if tracking:
                tracking.hear(event)
            if event.trace:
                traces.append(event.trace)

        def announce(cell: Cell, record: Record) -> None:
            display.cell(cell, record)
            if tracking:
                tracking.cell(cell, record)

        try:
            with display, tracking or nullcontext():
                found = running.run(loaded, plan, cells, store, options, hear, announce)
        except run_options.RunError as error:
            _fail(str(error), 2)
    if debug:
        for trace in traces:
            err.print(Text(trace))
    mine = {cell.key for cell in cells}
    found = [record for record in found if record.key in mine]
    failed = [record for record in found if record.status == "failed"]
    print()
    print(escape_control_characters(terminal_summary(found)))
    print()
    for record in failed:
        print(escape_control_characters(f"failed: {' · '.join(record.cell.values())}: {record.reason}"))
    print(f"leaderboard: {folder / 'leaderboard.html'}, .md, .tex and .csv")
    pictures = [str(folder / kind) for kind in ("samples", "figures") if (folder / kind).is_dir()]
    print(f"records:     {folder / 'records'}   pictures: {' and '.join(pictures) or 'none'}")
    print(f"next:        bench report {folder}   (rebuilds all of it from the records)")
    if failed:
        if not debug:
            print(f"{len(failed)} of {len(found)} cells failed; --debug shows tracebacks")
        raise typer.Exit(1)


@app.command()
def plan(
    matrix: MatrixOption = Path("matrix.yaml"),
    profile: ProfileOption = None,
    filter: FilterOption = None,
    seeds: SeedsOption = None,
    plugin: PluginOption = None,
    device: DeviceOption = "cpu",
    accelerator: Annotated[
        str | None,
        typer.Option(
            "--accelerator", metavar="A", help="h100, a100, rtx4090 or cpu.  [default: cpu; h100 with cuda]"
        ),
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", min=0.001, max=1, help="The share of its peak that is used.")
    ] = 0.35,
    every: Annotated[bool, typer.Option("--stages", help="A line for each stage.")] = False,
    shard: ShardOption = None,
    store_url: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is shared, what is cached and what all of it will take; runs nothing."""
    from ..plan.cost import ACCELERATORS
    from ..plan.forecast import HEADER, STAGE_HEADER, forecast

    chosen = accelerator or ("h100" if device == "cuda" else "cpu")
    if chosen not in ACCELERATORS:
        _fail(registry.unknown("accelerator", chosen, list(ACCELERATORS)), 2)
    loaded, made, cells, store = _open(matrix, profile, filter, seeds, plugin, device, shard, store_url)
    needed = made.needed(cells)
    cached = [s.id for s in needed if store.has(s)]
    found = forecast(made, cells, cached, chosen, loaded.precision, utilisation)
    if as_json:
        text = {
            "name": loaded.name,
            "home": str(store.root),
            "accelerator": {"name": chosen, "utilisation": utilisation, "precision": loaded.precision},
            "totals": found.totals(),
            "cells": [
                {"cell": c.identity, "key": c.key, "skipped": c.skipped, "scores": list(c.scores.values())}
                for c in cells
            ],
            "stages": [
                {
                    "kind": s.kind,
                    "key": s.key,
                    "label": s.label,
                    "cached": s.id in found.cached,
                    "cells": made.uses[s.id],
                    "parents": s.parents,
                    **found.plain(s),
                }
                for s in needed
            ],
        }
        print(json.dumps(text, indent=1))
        return
    for header, rows in ((STAGE_HEADER, found.by_stage()),) * every + ((HEADER, found.by_kind()),):
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in header:
            table.add_column(name, justify="left" if name in ("kind", "stage", "state") else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        out.print(table)
    for reason in dict.fromkeys(cell.skipped for cell in cells if cell.skipped):
        first, *others = (cell for cell in cells if cell.skipped == reason)
        more = f" and {len(others)} more" if others else ""
        out.print(Text(f"skipped: {first.name}{more}: {reason}"), soft_wrap=True)
    for sentence in found.sentences():
        out.print(Text(sentence), soft_wrap=True)
    out.print(_headline(loaded, cells, len(needed), len(cached), None), soft_wrap=True)
    saved = sum(found.uses[s.id] - 1 for s in needed)
    places = f"{store.root} and {store.url}" if store.url else store.root
    out.print(f"sharing saves {saved} stages; artifacts are kept in {places}", soft_wrap=True)


@app.command("list")
def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="regularizers, tokenizers, generators, … matrices or published")
    ] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the parts that a matrix can name, packaged matrices, or the papers' published numbers."""
    if kind == "published":
        return _published(as_json)
    _plugins(plugin)
    from ..matrix.yaml_text import packaged

    known = [*registry.FOLDERS, "matrices", "published"]
    if kind is not None and kind not in known:
        _fail(registry.unknown("kind of part", kind, known), 2)
    kinds = [kind] if kind in registry.FOLDERS else [] if kind else list(registry.FOLDERS)
    found = {k: [s for _, s in sorted(registry.sources(k).items())] for k in kinds}
    presets = packaged() if kind in (None, "matrices") else {}
    if as_json:
        rows = {
            k: [{"name": s.name, "about": s.about, "problem": s.problem} for s in v] for k, v in found.items()
        }
        if presets:
            rows["matrices"] = [{"name": m, "about": about, "problem": None} for m, about in presets.items()]
        print(json.dumps(rows, indent=1))
        return
    for k, parts in found.items():
        out.print(f"[bold]{k}[/]")
        for source in parts:
            text = source.about if source.problem is None else f"cannot be used: {source.problem}"
            out.print(Text(f"  {source.name:<16} {text}"), soft_wrap=True)
    if presets:
        out.print("[bold]matrices[/] (bench run --matrix NAME)")
    for name, about in presets.items():
        out.print(Text(f"  {name:<16} {about}"), soft_wrap=True)


@app.command()
def info(
    kind: Annotated[str, typer.Argument(help="regularizers, tokenizers, generators, …")],
    name: Annotated[str, typer.Argument(help="the part's name")],
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a part is, and its options with defaults and ranges."""
    import inspect

    _plugins(plugin)
    kind = next((k for k, one in registry.SINGULAR.items() if kind == one), kind)
    try:
        cls = registry.get(kind, name)
        source = registry.sources(kind)[name]
    except registry.PartError as error:
        _fail(str(error), 2)
    from ..matrix import parts
    from ..options.options import SIZE, options_of, sizes_of

    groups = {"options": options_of(cls)}
    if kind == "generators":
        groups["sampler"] = options_of(cls, "sample")
    sizes: dict[str, Any] = {}
    at = ""
    if sizes_of(cls):
        from ..models import build

        at = build.COUNTED[kind][0]
        counts = build.parameters_of_sizes(kind, name)
        sizes = {
            size: {"parameters": counts[size], "at": at, "options": dict(options)}
            for size, options in sizes_of(cls).items()
        }
    if as_json:
        shown = {
            title: {
                key: {"annotation": o.annotation, "default": str(o.default), "choices": o.choices}
                for key, o in options.items()
            }
            for title, options in groups.items()
        }
        about = {"name": name, "kind": kind, "file": str(source.file), **shown, "sizes": sizes}
        print(json.dumps(about, indent=1))
        return
    out.print(Text(f"{name} ({registry.SINGULAR[kind]}, {source.file})"), soft_wrap=True)
    for text in (cls.__doc__, getattr(vars(cls).get("__init__"), "__doc__", None)):
        if text:
            out.print(Text(inspect.cleandoc(text)), soft_wrap=True)
    for title, options in groups.items():
        if options:
            out.print(f"\n[bold]{title}[/]")
        for key, option in options.items():
            out.print(Text(f"  {key:<18} {option.default!s:<12} {option.choices}"), soft_wrap=True)
    if sizes:
        out.print(f"\n[bold]sizes[/] (parameters for {at})", soft_wrap=True)
    for size, facts in sizes.items():
        meant = ", ".join(f"{key}: {value}" for key, value in facts["options"].items())
        out.print(Text(f"  {size:<18} {facts['parameters']:>13,}  {meant}"), soft_wrap=True)
    beside = (*([SIZE] if sizes else []), *parts.FRAME.get(kind, ()))
    if beside:
        out.print(f"\nA row of a matrix also takes: {', '.join(beside)} (README: The matrix)", soft_wrap=True)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="results folders", metavar="DIR…")],
    output: OutOption = None,
) -> None:
    """Rebuild the tables, the analyses and the page from records and pictures alone."""
    from ..records.files import RecordError
    from ..report.write import rebuild_report

    if len(folders) > 1 and output is None:
        _fail("several folders need -o DIR", 2)
    try:
        written = rebuild_report(folders, output or folders[0])
    except (RecordError, OSError) as error:
        _fail(str(error), 2)
    for file in written:
        print(file)


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="results folders", metavar="DIR…")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where they are joined.")],
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="WHAT", help="Join in spite of: versions, dirty, precision."),
    ] = None,
    prefer: Annotated[
        list[Path] | None,
        typer.Option("--prefer", metavar="DIR", help="Whose numbers a cell has, if they differ."),
    ] = None,
) -> None:
    """Join the records of several machines or groups, if nothing that matters differs."""
    from ..records.files import RecordError
    from ..report.summary import terminal_summary
    from ..tools import merge as merging

    try:
        found = merging.merge(folders, output, allow or (), prefer or ())
    except (RecordError, OSError) as error:
        _fail(str(error), 2)
    for note in found.notes:
        err.print(Text(f"note: {note}"), soft_wrap=True)
    print(escape_control_characters(terminal_summary(found.records)))
    print(f"\n{len(found.records)} records of {len(folders)} folders are in {output}")
    for file in found.written:
        print(file)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="results/NAME, or results/NAME:regularizer=none")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is set against A, in the same way.")],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="PATTERN", help="Only these: 'gFD', 'gFD@*', '*'; may be repeated."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="METRIC[:AMOUNT|%]",
            help="Exit with 3 if B is significantly worse in it (by more than AMOUNT), with 2 if that can't "
            "be tested; only what is named here or by --metric is compared.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set two results folders, or two rows of one, against each other: B - A, paired over cells and seeds."""
    from ..tools import compare as comparing

    try:
        gates = [comparing.gate(text) for text in fail_on or ()]
        found = comparing.compare(comparing.side(a), comparing.side(b), metric or (), gates)
    except comparing.CompareError as error:
        _fail(str(error), 2)
    failed, untested = comparing.regressions(found, gates), comparing.untested(found, gates)
    if as_json:
        more = {"regressions": failed, "untested": untested}
        print(json.dumps(comparing.to_json(found) | more, indent=1))
    else:
        print(escape_control_characters(comparing.text(found)))
    for regression in failed:
        err.print(Text(f"regression: {regression}"), soft_wrap=True)
    for line in untested:
        err.print(Text(f"cannot be tested: {line}"), soft_wrap=True)
    if failed or untested:
        raise typer.Exit(3 if failed else 2)


@app.command()
def audit(
    images: Annotated[
        Path, typer.Argument(help="a folder of images, an .npz or .npy, or a samples artifact")
    ],
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference", "-r", metavar="NAME|PATH", help="A dataset, or images.  [default: digits]"
        ),
    ] = None,
    features: Annotated[
        str, typer.Option("--features", metavar="NAME", help="effnet_lite0, inception, timm:MODEL, …")
    ] = "effnet_lite0",
    plugin: PluginOption = None,
    offline: OfflineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score one image set under several protocols, and show how far they disagree."""
    _plugins(plugin)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from ..leaderboard.numbers import number
    from ..nn.weights import OfflineError
    from ..tools import audit as auditing

    try:
        part, _, model = features.partition(":")
        extractor = registry.create("features", part, **({"model": model} if model else {}))
        references = []
        for name in reference or ["digits"]:
            if name in registry.names("datasets"):
                references += auditing.of_dataset(registry.create("datasets", name), name)
            elif Path(name).exists():
                references.append(auditing.read(Path(name)))
            else:
                known = ", ".join(registry.names("datasets"))
                _fail(f"--reference {name!r} is neither a path nor a dataset ({known})", 2)
        table = auditing.audit(auditing.read(images), references, extractor)
    except OfflineError as error:
        _fail(str(error), 4)
    except (ValueError, OSError, registry.PartError) as error:
        _fail(str(error), 2)
    if as_json:
        print(json.dumps(table.to_dict("records"), indent=1))
        return
    shown = [list(table.columns[:8])]
    for row in table.itertuples(index=False):
        shown.append([number(v) if isinstance(v, float) else str(v) for v in row[:8]])
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    distance = table.columns[2]
    low, high = table[distance].min(), table[distance].max()
    said = (
        f"the same images score {distance} {number(low)} to {number(high)}: compare under one protocol only"
    )
    out.print(Text(said), soft_wrap=True)


@app.command()
def check(
    what: Annotated[
        str, typer.Argument(metavar="PART|FILE", help="my_reg.py, or kl, or generators/mar where names clash")
    ],
    option: Annotated[
        list[str] | None, typer.Option("-o", "--option", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Test what a part promises, and run it in one small cell; about half a minute."""
    import torch

    from ..tools import check as checking

    torch.set_num_threads(1)  # as workers have it
    try:
        chosen = checking.targets(what, checking.options(option or ()), plugin or ())
    except (checking.CheckError, registry.PartError) as error:
        _fail(str(error), 2)
    verdicts = [checking.Verdict(one) for one in chosen]
    for verdict in verdicts:
        part = verdict.target.part
        if not as_json:
            title = f"{part.name} ({registry.SINGULAR[part.kind]}, {verdict.target.file})"
            out.print(Text(title), soft_wrap=True)
        for line in verdict.lines():
            if not as_json:
                mark = {True: "[green]\u2713[/]", False: "[red]\u2717[/]", None: "\u2013"}[line.ok]
                out.print(mark, Text(line.text), soft_wrap=True)
                if debug and line.trace:
                    err.print(Text(line.trace))
        if not as_json:
            print(escape_control_characters("\n".join(filter(None, ("", verdict.rows)))))
            print(escape_control_characters(verdict.summary))
    if as_json:
        print(json.dumps([verdict.plain() for verdict in verdicts], indent=1))
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def doctor(
    cache: Annotated[bool, typer.Option("--cache", help="Check every artifact of a matrix instead.")] = False,
    matrix: MatrixOption = Path("matrix.yaml"),
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check this installation, and that nothing changes a number that must not."""
    from ..store.artifacts import Store, home
    from ..tools import cleaning
    from ..tools import doctor as doctoring

    _check_device(device)
    found = []
    for check in cleaning.checks(Store(home(matrix))) if cache else doctoring.checks(device):
        found.append(check)
        if not as_json:
            mark = {True: "[green]ok[/]", False: "[red]FAILED[/]", None: "note"}[check.ok]
            out.print(mark, Text(f"{check.name}: {check.found}"), soft_wrap=True)
    if as_json:
        print(json.dumps([vars(check) for check in found], indent=1))
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


@app.command()
def clean(
    matrix: MatrixOption = Path("matrix.yaml"),
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR…]", help="Further results folders, beside results/*, whose stages stay."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Also what listed results need.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Really remove them.")] = False,
) -> None:
    """Free what no results here need of the cache beside a matrix (or in $LATENTBENCH_HOME); results stay."""
    from ..store.artifacts import Store, home
    from ..store.disk import size_text
    from ..tools import cleaning

    store = Store(home(matrix))
    if not store.root.is_dir():
        print(f"nothing to free: no {store.root}")
        return
    try:
        needed: dict[str, set[str]] = {}
        for lock in [] if every else cleaning.listed(folders or ()):
            needed.setdefault(str(lock.parent), set()).update(cleaning.needs(lock))
    except cleaning.CleanError as error:
        _fail(f"{error}; nothing was removed. --all frees everything", 2)
    held = list(cleaning.holdings(store, needed))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("kind", "kept", "", "to free", ""):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, mine in cleaning.by_kind(held).items():
        kept, rest = [h for h in mine if h.needed], [h for h in mine if not h.needed]
        table.add_row(
            kind, *(t for part in (kept, rest) for t in (str(len(part)), size_text(cleaning.total(part))))
        )
    out.print(table)
    for name in needed:
        out.print(Text(f"{name} keeps {size_text(cleaning.total(h for h in held if name in h.needed))}"))
    unneeded = [holding for holding in held if not holding.needed]
    amount = size_text(cleaning.total(unneeded))
    if not yes:
        print(f"would free {amount} in {store.root}; bench clean --yes does it")
        return
    busy = [holding for holding in unneeded if not cleaning.free(store, holding)]
    if busy:
        print(f"{sum(h.kind != 'locks' for h in busy)} are being worked on and stay")
    elif len(unneeded) == len(held):
        store.clear()
    print(f"freed {size_text(cleaning.total(unneeded) - cleaning.total(busy))} in {store.root}")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if show:
        print(__version__)
        raise typer.Exit()


def main() -> None:
    """The entry point of `bench`."""
    from ..store.disk import DiskFull
    from ..store.hashes import Corrupt
    from ..store.mirror import RemoteError

    try:
        app()
    except (Corrupt, DiskFull, RemoteError) as error:
        err.print(Text(f"error: {error}"), soft_wrap=True)
        sys.exit(1)


def _open(
    file: Path,
    profile: list[str] | None,
    filter: str | None,
    seeds: int | None,
    plugins: list[Path] | None,
    device: str,
    shard: str | None,
    url: str | None,
    fetch: bool = False,
) -> tuple[Matrix, Plan, list[Cell], Store]:
    """The matrix, its whole plan, the chosen cells and the store; user errors end here, with exit code 2."""
    from ..matrix.load import load_matrix
    from ..matrix.yaml_text import MatrixError
    from ..plan.make import NetworkNeeded, make_plan
    from ..plan.shards import deal
    from ..plan.shards import parse as parse_shard
    from ..records.labels import parse_filter, selects
    from ..store import mirror

    _check_device(device)
    try:
        accept = parse_filter(filter)
        share = parse_shard(shard) if shard else None
        loaded = load_matrix(file, profile=profile, seeds=seeds, plugins=tuple(plugins or ()))
        made = make_plan(loaded, device=device, fetch=fetch)
    except MatrixError as error:
        for problem in error.problems:
            err.print(Text(str(problem)), soft_wrap=True)
        count, code = len(error.problems), 4 if isinstance(error, NetworkNeeded) else 2
        _fail(f"{count} problem{'s' if count > 1 else ''} in {file}; nothing was run", code)
    except (registry.PartError, ValueError) as error:
        _fail(str(error), 2)
    for problem in loaded.warnings:
        err.print(Text(f"warning: {problem}"), soft_wrap=True)
    cells = [cell for cell in made.cells if selects(accept, cell.identity)]
    if not any(cell.tokenizer != "real" for cell in cells):
        _fail(f"no cell matches --filter {filter!r}", 2)
    if share:
        from ..plan.estimate import costs

        flops = {one: cost.flops for one, cost in costs(made, made.needed(cells)).items()}
        cells = deal(made, cells, share[1], flops)[share[0] - 1]
    try:
        return loaded, made, cells, mirror.store(file, url)
    except mirror.RemoteError as error:
        return _fail(str(error), 2)


def _headline(matrix: Matrix, cells: list[Cell], needed: int, cached: int, jobs: int | None) -> Text:
    real = [cell for cell in cells if cell.tokenizer != "real"]
    skipped = sum(cell.skipped is not None for cell in real)
    text = f"{matrix.name}: {len(real)} cells"
    text += f" ({skipped} skipped)" if skipped else ""
    text += f", {needed} stages, {cached} cached"
    return Text(text + (f"; {jobs} worker{'s' if jobs > 1 else ''}" if jobs else ""))


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        _fail(f"--device takes cpu or cuda, not {device!r}", 2)
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            _fail("--device cuda: torch finds no CUDA device here", 2)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _units(device: str) -> int:
    """What a worker takes one of: cores, or GPUs."""
    if device != "cuda":
        return _cores()
    import torch

    return torch.cuda.device_count()


def _loaders(text: str, busy: int, workers: int) -> int:
    if text == "auto":
        return min(8, max(0, _cores() - busy) // workers)
    if not text.isdigit():
        _fail(f"--loaders takes a number of processes or auto, not {text!r}", 2)
    return int(text)


def _jobs(text: str) -> int:
    if text == "auto":
        return _cores()
    if not text.isdigit() or int(text) < 1:
        _fail(f"-j takes a number of workers or auto, not {text!r}", 2)
    return int(text)


def _check_trackers(names: list[str]) -> None:
    from ..engine import tracking

    try:
        tracking.check(names)
    except tracking.TrackerError as error:
        _fail(str(error), 2)


def _tracking(
    names: list[str] | None, folder: Path, matrix: Matrix, plan: Plan, store: Store
) -> Tracking | None:
    if not names:
        return None
    from ..engine.tracking import Tracking

    def warn(text: str) -> None:
        err.print(Text(f"warning: {text}"), soft_wrap=True)

    return Tracking(names, folder / "track", matrix.name, plan, store, warn)


def _published(as_json: bool) -> None:
    """Every figure of the papers, a line for each setting of a table."""
    from itertools import groupby

    from ..leaderboard.published import figures

    if as_json:
        print(json.dumps({"published": [figure._asdict() for figure in figures()]}, indent=1))
        return
    for (paper, table, data), group in groupby(figures(), lambda f: (f.paper, f.table, f.data)):
        out.print(f"[bold]{paper}, table {table}[/] ({data})")
        for (setting, generator), mine in groupby(group, lambda f: (f.setting, f.generator)):
            values = [f"{f.metric}{' guided' if f.guided else ''} {f.value:g}" for f in mine]
            out.print(Text(f"  {setting:<28} {', '.join(values)}  [{generator}]"), soft_wrap=True)


def _plugins(paths: list[Path] | None) -> None:
    for path in paths or ():
        try:
            registry.load_plugin(path)
        except registry.PartError as error:
            _fail(str(error), 2)


@contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end with exit code 130, 143 and 129 and the command to go on with.

    It must not undo what is done.
    """

    asked: list[int] = []

    def stop(number: int, frame: Any) -> None:
        asked.append(number)  # for Ray makes another exception of it
        raise KeyboardInterrupt

    # One that is ignored stays so: `nohup` asks for it. Other threads than the first take no signals.
    first = threading.current_thread() is threading.main_thread()
    heard = [s for s in (signal.SIGTERM, signal.SIGHUP) if first and signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    except KeyboardInterrupt:
        number = asked[-1] if asked else signal.SIGINT
        again = shlex.join(["bench", *(word for word in sys.argv[1:] if word != "--rerun")])
        with suppress(OSError):  # the terminal may be gone
            out.print(f"\ninterrupted; finished stages are kept. Go on with:\n  {again}", soft_wrap=True)
        raise typer.Exit(128 + number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(message: str, code: int) -> Any:
    err.print(Text(f"error: {message}"), soft_wrap=True)
    raise typer.Exit(code)
