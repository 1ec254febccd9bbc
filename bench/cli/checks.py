"""`bench check`, `doctor` and `clean`: checks of parts, of the installation and of the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import registry
from .console import UsageError, err, out, plain_table, print_json
from .safe_text import Text, escape_control_characters
from .shared_options import DebugOption, DeviceOption, JsonOption, MatrixOption, PluginOption, check_device


def check(
    what: Annotated[
        str, typer.Argument(metavar="PART|FILE", help="my_reg.py, or kl, or generators/mar where names clash")
    ],
    option: Annotated[
        list[str] | None, typer.Option("-o", "--option", metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    plugin: PluginOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Test what a part promises, and run it in one small cell. Takes about half a minute."""
    import torch

    from ..tools import check as checking
    from ..tools.small_cell import STEPS

    check_device(device)
    torch.set_num_threads(1)  # as in workers
    targets = checking.targets(what, checking.options(option or ()), plugin or ())
    verdicts = [checking.Verdict(target, device) for target in targets]
    for verdict in verdicts:
        if as_json:
            list(verdict.lines())  # runs the checks
            continue
        part = verdict.target.part
        title = f"{part.name} ({registry.SINGULAR[part.kind]}, {verdict.target.file})"
        out.print(Text(title), soft_wrap=True)
        for line in verdict.lines():
            mark = {True: "[green]\u2713[/]", False: "[red]\u2717[/]", None: "\u2013"}[line.ok]
            out.print(mark, Text(line.text), soft_wrap=True)
            if debug and line.trace:
                err.print(Text(line.trace))
        if verdict.rows:
            print(f"\nThe small cell, after {STEPS} updates; its numbers mean nothing:")
            print(escape_control_characters(verdict.rows))
        print()
        print(escape_control_characters(verdict.summary))
    if as_json:
        print_json([verdict.plain() for verdict in verdicts])
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)


def doctor(
    cache: Annotated[bool, typer.Option("--cache", help="Check every artifact of a matrix instead.")] = False,
    matrix: MatrixOption = Path("matrix.yaml"),
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Check this installation, or the cache. Batches, workers and processes must change no number."""
    from ..store.artifacts import Store, home
    from ..tools import cleaning
    from ..tools import doctor as doctoring

    check_device(device)
    checks = []
    for check in cleaning.checks(Store(home(matrix))) if cache else doctoring.checks(device):
        checks.append(check)
        if not as_json:
            mark = {True: "[green]ok[/]", False: "[red]FAILED[/]", None: "note"}[check.ok]
            out.print(mark, Text(f"{check.name}: {check.found}"), soft_wrap=True)
    if as_json:
        print_json([vars(check) for check in checks])
    if any(check.ok is False for check in checks):
        raise typer.Exit(1)


def clean(
    matrix: MatrixOption = Path("matrix.yaml"),
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR…]", help="Further results folders, beside results/*, whose stages stay."
        ),
    ] = None,
    delete_all: Annotated[bool, typer.Option("--all", help="Delete everything.")] = False,
    yes: Annotated[
        bool, typer.Option("-y", "--yes", help="Delete; without it, only show what would be freed.")
    ] = False,
) -> None:
    """Delete cached artifacts that no results folder needs. Results are kept."""
    from ..store.artifacts import Store, home
    from ..store.disk import size_text
    from ..tools import cleaning

    store = Store(home(matrix))
    if not store.root.is_dir():
        print(f"nothing to free: no {store.root}")
        return
    needed: dict[str, set[str]] = {}
    try:
        for lock in [] if delete_all else cleaning.lock_files(folders or ()):
            needed.setdefault(str(lock.parent), set()).update(cleaning.needs(lock))
    except cleaning.CleanError as error:
        raise UsageError(f"{error}; nothing was removed. --all frees everything") from error
    holdings = list(cleaning.holdings(store, needed))
    table = plain_table(["kind", "kept", "", "to free", ""], left=("kind",))
    for kind, of_kind in cleaning.by_kind(holdings).items():
        kept = [holding for holding in of_kind if holding.needed]
        rest = [holding for holding in of_kind if not holding.needed]
        texts = [text for part in (kept, rest) for text in (str(len(part)), size_text(cleaning.total(part)))]
        table.add_row(kind, *texts)
    out.print(table)
    for name in needed:
        size = size_text(cleaning.total(holding for holding in holdings if name in holding.needed))
        out.print(Text(f"{name} keeps {size}"))
    unneeded = [holding for holding in holdings if not holding.needed]
    if not yes:
        amount = size_text(cleaning.total(unneeded))
        print(f"would free {amount} in {store.root}; bench clean --yes does it")
        return
    busy = [holding for holding in unneeded if not cleaning.free(store, holding)]
    if busy:
        print(f"{sum(holding.kind != 'locks' for holding in busy)} artifacts are in use and were kept")
    elif len(unneeded) == len(holdings):
        store.clear()
    print(f"freed {size_text(cleaning.total(unneeded) - cleaning.total(busy))} in {store.root}")
