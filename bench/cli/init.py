"""`bench init`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..store.user_paths import user_path
from .console import UsageError, as_usage_errors, err, out, print_error_line
from .safe_text import Text
from .shared_options import OfflineOption, PluginOption, load_plugins

if TYPE_CHECKING:
    from rich.console import Console

    from ..tools.first_matrix import FirstMatrix

DEFAULT = "matrix.yaml"
PRINTED = "-"  # in place of a file


def init(
    data: Annotated[
        str,
        typer.Argument(
            metavar="[DATA]",
            help="a folder of images or parquet files, a dataset's name, or a row of a matrix, {use: …}",
        ),
    ] = "digits",
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            "--tokenizer",
            metavar="T",
            help="A diffusers folder, an id OWNER/NAME[:SUBFOLDER] or a part; repeatable.  [default: vit]",
        ),
    ] = None,
    regularizer: Annotated[
        list[str] | None,
        typer.Option("--regularizer", metavar="R", help="Repeatable.  [default: none, kl, fixed_variance]"),
    ] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option("--generator", metavar="G", help="Repeatable.  [default: gaussian, lightningdit]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", metavar="N", min=4, help="Side of images.  [default: theirs, at most 64]"),
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Where it is written; - prints it.")
    ] = DEFAULT,
    plugin: PluginOption = None,
    offline: OfflineOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented matrix for some images and tokenizers, to run and then to edit."""
    target = _target(output, overwrite)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    load_plugins(plugin)
    from ..matrix.yaml_text import MatrixError
    from ..store.disk import replace_text
    from ..tools.first_matrix_text import first_matrix_text
    from ..tools.fit_first_matrix import Wishes, fit_first_matrix

    name = None if target is None or target.stem == "matrix" else target.stem
    wishes = Wishes(
        data, tokenizer or (), regularizer or (), generator or (), size, [str(p) for p in plugin or ()], name
    )
    try:
        first = fit_first_matrix(wishes)
    except MatrixError as error:
        for problem in error.problems:
            print_error_line(problem)
        raise UsageError("nothing was written", error.exit_code) from error
    text = first_matrix_text(first, output if target else DEFAULT)
    if target:
        with as_usage_errors(OSError):
            replace_text(target, text)
    else:
        print(text, end="")
    _tell(first, output, err if target is None else out)


def _target(output: str, overwrite: bool) -> Path | None:
    """The file to write; None for the standard output.

    Raises:
        UsageError: it must not be written there.
    """
    if output == PRINTED:
        return None
    target = user_path(output)
    if target.is_dir():
        raise UsageError(f"{target} is a folder: -o names a file, such as {target / DEFAULT}")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent} to write {target.name} into")
    if os.path.lexists(target) and not overwrite:
        raise UsageError(
            f"{target} is there already: -o FILE writes another file, and --overwrite replaces it"
        )
    return target


def _tell(first: FirstMatrix, output: str, console: Console) -> None:
    """Says what was written and what can be done with it."""
    from ..plan.forecast import span
    from ..tools.first_matrix_text import commands

    for cell, reason in first.skipped:
        console.print(Text(f"skipped: {cell}: {reason}"), soft_wrap=True)
    what = f"{first.cells} cell{'s' if first.cells > 1 else ''} on {first.description[0]}"
    console.print(Text(what), soft_wrap=True)
    if output == PRINTED:
        return
    console.print(Text(f"wrote {output}; next:"), soft_wrap=True)
    plan, smoke, run = commands(output)
    width = max(map(len, (plan, smoke, run)))
    notes = ("what it costs", "a first try", f"about {span(first.hours)} on one CPU core")
    for command, note in zip((plan, smoke, run), notes, strict=True):
        console.print(Text(f"  {command:<{width}}  # {note}"), soft_wrap=True)
