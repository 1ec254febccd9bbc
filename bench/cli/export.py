"""`bench export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import as_usage_errors, print_error_line
from .shared_options import PluginOption, load_plugins


def export(
    folder: Annotated[Path, typer.Argument(help="a results folder", metavar="DIR")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where it is written.")],
    filter: Annotated[
        str | None,
        typer.Option(
            "--filter", "-k", metavar="EXPR", help="Which tokenizer: 'tokenizer=conv,regularizer=kl,seed=1'."
        ),
    ] = None,
    latents: Annotated[
        Literal["lightningdit", "mar"] | None,
        typer.Option("--latents", help="Write latents of both splits in this layout, not the tokenizer."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Write a trained tokenizer as a diffusers folder, or its latents for other trainers."""
    load_plugins(plugin)
    from ..records.labels import parse_filter
    from ..store.user_paths import user_path
    from ..tools.find_tokenizer import find_trained

    with as_usage_errors(ValueError):
        accept = parse_filter(filter)
    trained = find_trained(user_path(folder), accept)
    target = user_path(output)
    if latents:
        from ..tools.latent_files import export_latents

        for line in export_latents(trained, target, latents):
            print(line)
        return
    from ..tools.export import export_tokenizer

    done = export_tokenizer(trained, target)
    for note in done.notes:
        print_error_line(f"note: {note}")
    if done.difference is None:
        print_error_line("note: diffusers isn't installed, so the folder was not loaded and compared")
    else:
        print(f"largest difference from the trained tokenizer: {done.difference[0]:.1e} in pixels of [-1, 1]")
    print(f"{done.class_name}: {target}   (README.md is its model card)")
