"""`bench report`, `merge`, `compact`, `compare` and `audit`: commands that read results or images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import registry
from .console import UsageError, as_usage_errors, out, print_error_line, print_json
from .safe_text import Text, escape_control_characters
from .shared_options import JsonOption, OfflineOption, OutOption, PluginOption, load_plugins

if TYPE_CHECKING:
    import pandas as pd


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="results folders, or archives of `bench submit`", metavar="DIR…")
    ],
    output: OutOption = None,
    index: Annotated[
        bool,
        typer.Option("--index", help="Write DIR/index.html alone: a card for each results folder below DIR."),
    ] = False,
) -> None:
    """Rebuild tables, analyses and the page from records. Nothing is trained."""
    if index:
        _write_index(folders, output)
        return
    from ..records.archive import is_archive, unpacked
    from ..report.places import no_pictures_note
    from ..report.write import rebuild_report

    if len(folders) > 1 and output is None:
        raise UsageError("several folders need -o DIR")
    if output is None and is_archive(folders[0]):
        raise UsageError("an archive needs -o DIR")
    out = output or folders[0]
    replaced = out not in folders and (out / "leaderboard.csv").is_file()
    with as_usage_errors(OSError), unpacked(folders) as places:
        written = rebuild_report(places, out)
        note = no_pictures_note(places)
    if replaced:
        print_error_line(f"note: the report that was in {out} is replaced")
    if note:
        print_error_line(f"note: {note}")
    for file in written:
        print(file)


def _write_index(folders: list[Path], output: Path | None) -> None:
    from ..report.page.index import write_index

    if len(folders) > 1 or output is not None:
        raise UsageError("--index takes one folder, in which index.html is written, and no -o")
    with as_usage_errors(OSError):
        print(write_index(folders[0]))


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="results folders, or archives of `bench submit`", metavar="DIR…")
    ],
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
    """Join the records of several machines or groups. Refuses what would not compare."""
    from ..records.archive import unpacked
    from ..report.summary import terminal_summary
    from ..tools.merge import merge as merge_folders

    with as_usage_errors(OSError), unpacked(folders) as places:
        where = dict(zip(folders, places, strict=True))
        merged = merge_folders(places, output, allow or (), [where.get(one, one) for one in prefer or ()])
    for note in merged.notes:
        print_error_line(f"note: {note}")
    print(escape_control_characters(terminal_summary(merged.records)))
    print(f"\n{len(merged.records)} records of {len(folders)} folders are in {output}")
    for file in merged.written:
        print(file)


def compact(
    folders: Annotated[list[Path], typer.Argument(help="results folders", metavar="DIR…")],
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures", help="Also draw samples and figures in fewer colours: 16 greys, or 64 colours."
        ),
    ] = False,
    pack: Annotated[
        bool,
        typer.Option(
            "--pack", help="Put the records into one file, records.tar.xz; without it, unpack them."
        ),
    ] = False,
) -> None:
    """Rewrite records in fewer bytes. All numbers stay the same to the last bit."""
    from ..leaderboard.numbers import plural
    from ..store.disk import size_text
    from ..tools.compact import compact as compact_folder

    for folder in folders:
        with as_usage_errors(OSError):
            shrunk = compact_folder(folder, pictures, pack)
        sizes = [
            f"{plural(one.files, one.kind)}, {size_text(one.before)} -> {size_text(one.after)}"
            for one in shrunk
        ]
        print(f"{folder}: {'; '.join(sizes)}")


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
            help="Exit with 3 if B is significantly worse in METRIC (by more than AMOUNT), with 2 if that "
            "cannot be tested. Only metrics named here or by --metric are compared.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two results folders, or two rows of one. Shows B - A, paired over cells and seeds."""
    from ..tools import compare as comparing

    gates = [comparing.gate(text) for text in fail_on or ()]
    comparison = comparing.compare(comparing.side(a), comparing.side(b), metric or (), gates)
    regressions = comparing.regressions(comparison, gates)
    untested = comparing.untested(comparison, gates)
    if as_json:
        print_json(comparing.to_json(comparison) | {"regressions": regressions, "untested": untested})
    else:
        print(escape_control_characters(comparing.text(comparison)))
    for regression in regressions:
        print_error_line(f"regression: {regression}")
    for line in untested:
        print_error_line(f"cannot be tested: {line}")
    if regressions or untested:
        raise typer.Exit(3 if regressions else 2)


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
    """Score one image set under several protocols. Shows how far they disagree."""
    load_plugins(plugin)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from ..tools import audit as auditing

    with as_usage_errors(ValueError, OSError):
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
                raise UsageError(f"--reference {name!r} is neither a path nor a dataset ({known})")
        samples = auditing.read(images)
        table = auditing.audit(samples, references, extractor)
    for image_set in (samples, *references):
        for note in image_set.notes:
            print_error_line(f"note: {image_set.name}: {note}")
    if as_json:
        print_json(table.to_dict("records"))
    else:
        _print_audit(table)


def _print_audit(table: pd.DataFrame) -> None:
    from ..leaderboard.numbers import number

    rows = [list(table.columns[:8])]
    for row in table.itertuples(index=False):
        rows.append([number(value) if isinstance(value, float) else str(value) for value in row[:8]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)).rstrip())
    distance = table.columns[2]
    low, high = number(table[distance].min()), number(table[distance].max())
    text = f"the same images score {distance} {low} to {high}: compare under one protocol only"
    out.print(Text(text), soft_wrap=True)
