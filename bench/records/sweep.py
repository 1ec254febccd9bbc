"""A sweep of guidance: the distance at each guidance that was tried, and the one that it chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = ("w", "samples", "chosen")  # of a curve, beside the distance


def edge(chosen: float, tried: Sequence[float]) -> str:
    """ "+" if the chosen guidance is the largest of several, "-" if it is the least; else empty.

    A better one may lie beyond. Nothing lies below 1, no guidance, that a row could pass to be better guided,
    nor below 0.
    """
    if len(tried) > 1 and chosen == max(tried):
        return "+"
    return "-" if len(tried) > 1 and chosen == min(tried) and chosen not in (0, 1) else ""


@dataclass(frozen=True)
class Sweep:
    """The guidances that one cell tried; a distance is None where samples weren't finite."""

    metric: str  # full name of the distance, the less the better
    samples: int  # at each guidance
    tried: tuple[float, ...]
    distances: tuple[float | None, ...]

    @property
    def chosen(self) -> float:
        """The guidance with the least distance, of several the smallest.

        Raises:
            ValueError: if no guidance has a distance.
        """
        known = [(d, w) for d, w in zip(self.distances, self.tried, strict=True) if d is not None]
        if not known:
            raise ValueError("no guidance of the sweep gives finite samples")
        return min(known)[1]

    @property
    def edge(self) -> str:
        """The sign of a choice at the end of what was tried; see `edge`."""
        return edge(self.chosen, self.tried)

    def curve(self) -> dict[str, list[Any]]:
        """The sweep as a record's curve: columns of equal length; `chosen` is 1 at the chosen guidance."""
        return {
            "w": [*self.tried],
            self.metric: [*self.distances],
            "samples": [self.samples] * len(self.tried),
            "chosen": [int(w == self.chosen) for w in self.tried],
        }

    @classmethod
    def of(cls, curves: Mapping[str, Mapping[str, Sequence[Any]]]) -> Sweep | None:
        """The sweep in a record's curves; None without one."""
        curve = curves.get("guidance")
        if not curve:
            return None
        metric = next(name for name in curve if name not in COLUMNS)
        return cls(metric, int(curve["samples"][0]), tuple(curve["w"]), tuple(curve[metric]))
