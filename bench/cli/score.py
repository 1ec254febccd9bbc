"""`bench score`."""

from __future__ import annotations

import shlex
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from .console import out, print_error_line
from .safe_text import Text
from .shared_options import DeviceOption, OfflineOption, OutOption, PluginOption, check_device, load_plugins

if TYPE_CHECKING:
    from pathlib import Path

    from ..leaderboard.rows import Value
    from ..python.results import Results

SHOWN = (
    "rFID",
    "rFD",
    "rKID",
    "rKD",
    "PSNR",
    "SSIM",
    "LPIPS",
    "probe_accuracy",
    "effective_rank",
    "latent_std",
)


def score(
    tokenizers: Annotated[
        list[str],
        typer.Argument(
            metavar="TOKENIZER…",
            help="folders of diffusers or bench export, ids OWNER/NAME[:SUBFOLDER], names of parts, or "
            "results folders with trained ones, RESULTS[:AXIS=PATTERN,…]",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="PATH|NAME", help="A folder of images or parquet files, a dataset, or {use: …}."
        ),
    ] = "digits",
    size: Annotated[
        int | None,
        typer.Option("--size", metavar="N", min=1, help="Side of a folder's images.  [default: 256]"),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            "--held-out",
            metavar="FRACTION",
            help="Fraction that is scored of data without a split `val`. Leave it alone for tokenizers that "
            "were trained on the same folder.  [default of a folder: 0.1]",
        ),
    ] = None,
    features: Annotated[
        str, typer.Option("--features", metavar="NAME", help="The extractor; inception gives rFID.")
    ] = "effnet_lite0",
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw latents from the posterior instead of taking its mean.")
    ] = False,
    output: OutOption = None,
    plugin: PluginOption = None,
    device: DeviceOption = "cpu",
    offline: OfflineOption = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace records that git tracks, too.")
    ] = False,
) -> None:
    """Score tokenizers as they are on images, side by side. Nothing is trained."""
    check_device(device)
    load_plugins(plugin)
    from ..python.score import score as scored

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        results = scored(
            tokenizers,
            data,
            size=size,
            held_out=held_out,
            features=features,
            sample=sample,
            output=output,
            device=device,
            plugins=plugin or (),
            offline=offline,
            overwrite=overwrite,
        )
    for warning in said:
        if warning.category is UserWarning:
            print_error_line(f"note: {warning.message}".replace("held_out=", "--held-out "))
    wrong, deciding = _print(results, data)
    folder = results.folders[0]
    page = Text(f"protocols and pictures: {folder}/leaderboard.html; the pictures alone: {folder}/samples")
    out.print(page, soft_wrap=True)
    _point_to_compare(results, folder, deciding)
    if wrong:
        raise typer.Exit(1)


def _print(results: Results, data: str) -> tuple[bool, str]:
    """Prints a column for each tokenizer, best first.

    Returns:
        Whether some have no numbers, and the metric that ranks go by.
    """
    from tabulate import tabulate

    from ..leaderboard.results import Results as Tables
    from ..leaderboard.rows import reason_line

    board = Tables.of(results.records).reconstruction
    columns = sorted(
        (column for column in board.columns if column.base in SHOWN), key=lambda c: SHOWN.index(c.base)
    )
    standings = board.standings(board.deciding)
    table = [["metric", *(row.tokenizer for row in board.rows)]]
    if standings.rank_header:
        table.append([f"rank by {board.deciding[0].name}", *standings.rank_texts])
    for column in columns:
        name = " ".join(filter(None, (column.name, column.better, column.protocol)))
        texts = (_text(row.values[column]) if column in row.values else "" for row in board.rows)
        table.append([name, *texts])
    if columns:
        count = max(column.entry["n"] for column in columns)
        out.print(Text(f"{count:,} held-out images of {data}; in brackets 95 % over resampled images"))
        lines = tabulate(table, headers="firstrow", tablefmt="plain", disable_numparse=True)
        out.print(Text(lines), soft_wrap=True)
    wrong = [record for record in results.records if record.status != "done" and not record.real]
    for record in wrong:
        print_error_line(f"{record.cell['tokenizer']}: {record.status}: {reason_line(record)}")
    return bool(wrong), board.deciding[0].name if board.deciding else ""


def _point_to_compare(results: Results, folder: Path, deciding: str) -> None:
    """Names the command for differences in pairs: intervals that overlap say little about those.

    It has the metric that decides: with more of them each p is corrected for more lines.
    """
    labels = dict.fromkeys(r.cell["tokenizer"] for r in results.records if r.status == "done" and not r.real)
    if len(labels) > 1:
        rows = " ".join(shlex.quote(f"{folder}:tokenizer={label}") for label in list(labels)[:2])
        decides = f" --metric {shlex.quote(deciding)}" if deciding else ""
        text = f"the difference on the same images: bench compare {rows}{decides}"
        out.print(Text(text), soft_wrap=True)


def _text(value: Value) -> str:
    """A value with its interval."""
    from ..leaderboard.columns import value_text
    from ..leaderboard.numbers import number

    interval = "" if value.interval is None else f" [{'–'.join(map(number, value.interval))}]"
    return value_text(value, 1) + interval
