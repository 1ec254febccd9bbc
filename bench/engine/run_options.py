"""Options of a run; none of them changes a number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..user_error import UserError


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spare_loaders(processes: int, threads: int) -> int:
    """The loaders of each process: the cores that so many processes leave, at most 8."""
    return min(8, max(0, cores() - processes * threads) // processes)


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
