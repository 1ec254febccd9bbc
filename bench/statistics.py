"""What can be said of a metric from a few seeds: intervals, shares of variance, differences, ranks, ties.

    observation   a metric of one cell: its value, the seeds behind it, and the value's bootstrap replicates
    row           the observations of one row label (or of two that are compared), one per cell

Two sources of error are kept apart. Training (and sampling) varies between seeds. The images that a metric is
over vary between bootstrap replicates; where all seeds are scored on the same images (`shared`: tokenizer
metrics on the held-out split), spread over seeds doesn't contain that second part and it is added.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Observation:
    """A metric of one cell."""

    value: float
    seed: str  # "0", or nested: "tokenizer.generator.sampling"
    replicates: tuple[float, ...] = ()
