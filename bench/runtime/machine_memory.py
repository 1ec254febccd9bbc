"""The main memory that this process may use: the machine's, or less where a control group limits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def main_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory: the least of the machine's and of the limits of this process's control groups.

    A container's limit, or that of a job on a cluster, is such a limit. What other processes use isn't
    subtracted.

    Args:
        root: the folder that has `proc` and `sys`.
    """
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([installed, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of this process's control groups and of the groups that hold these, of either version."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2 has one tree
            yield from _limits_above(mounted, group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_above(mounted / "memory", group, "memory.limit_in_bytes")


def _limits_above(top: Path, group: str, name: str) -> Iterator[int]:
    """The limits in the files of this name from the top of a tree down to a group.

    In a container the top is often the container's own group, and the rest of the path isn't there.
    """
    folder = top / group.lstrip("/")
    for level in [folder, *folder.parents]:
        if not level.is_relative_to(top):
            return
        try:
            text = (level / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdigit():  # `max` is no limit
            yield int(text)
