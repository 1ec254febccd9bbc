"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import registry
from ..store.user_paths import user_path
from .console import UsageError

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
    list[Path] | None,
    typer.Option("--plugin", metavar="PATH", help="A file or package with further parts."),
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
        help="Also keep artifacts at this URL: s3://…, gs://…, file:///….  [default: $LATENTBENCH_HOME]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Fail at once if the network is needed.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def load_plugins(paths: list[Path] | None) -> None:
    for path in paths or ():
        registry.load_plugin(user_path(path))


def check_device(device: str) -> None:
    """Raises UsageError for a device that is unknown or not on this machine."""
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device takes cpu or cuda, not {device!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch finds no CUDA device here")
