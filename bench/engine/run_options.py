"""Options of a run; none of them changes a number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..user_error import UserError


class RunError(UserError):
    """A run that cannot start."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run; none of them changes a number."""

    out: Path
    jobs: int | None  # the most stages at a time; None: as many as a Ray cluster holds
    device: str = "cpu"
    fail_fast: bool = False
    keep_records: bool = False
    overwrite: bool = False  # also records that git tracks
    rerun: bool = False
    force_memory: bool = False  # also stages that need more memory than there is
    profile: str = ""  # of the matrix, or several joined by hyphens; shown in tables
    loaders: int = 0  # processes per worker that decode images ahead
    processes: int = 1  # that share each stage of a worker
    engine: str = "local"  # or "ray", or "inline"
    ray_address: str | None = None  # of a cluster; None starts one here
