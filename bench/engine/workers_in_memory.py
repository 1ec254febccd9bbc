"""The number of workers that a machine's memory holds."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from ..plan.cost import Cost

WORKER_BYTES = 700e6  # of a worker without a stage: Python, torch and the parts' libraries


def workers_in_memory(costs: Iterable[Cost], memory: float, most: int) -> int:
    """The most workers, from 1 to `most`, whose stages fit into memory if the largest are made at once.

    Args:
        costs: estimates of the stages that are to be made.
        memory: bytes of main memory, where networks are computed too.
    """
    sizes = sorted((cost.known_memory(of_cpu=True) for cost in costs), reverse=True)[:most]
    held = sum(total <= memory for total in accumulate(size + WORKER_BYTES for size in sizes))
    return most if not sizes or held == len(sizes) else max(1, held)
