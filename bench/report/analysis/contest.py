"""Some rows of a generator, ranked among each other with the error of all of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...leaderboard.ranking import comparable, on_shared_images
from ...leaderboard.rows import Column
from ...statistics.significance import Rank, ranks
from .board import Entry, in_words


class Contest(NamedTuple):
    """Rows, the best first, and the ranks that they may have among each other."""

    entries: list[Entry]
    ranks: list[Rank]

    @property
    def tied(self) -> list[str]:
        """The rows that seeds, where there are several, don't separate from the best one."""
        return [e.label for e, rank in zip(self.entries[1:], self.ranks[1:], strict=True) if rank.tied]

    @property
    def winner(self) -> str:
        """`kl`, or `kl, tied with eq`."""
        tied = f", tied with {in_words(self.tied, 2)}" if self.tied else ""
        return self.entries[0].label + tied


def contest(chosen: Sequence[Entry], among: Sequence[Entry], column: Column) -> Contest:
    """The chosen rows of `among`, which are all of the generator's, ranked by a distance."""
    observations, _ = comparable([entry.value.observations for entry in among], column)
    entries = sorted(chosen, key=lambda entry: entry.mean)
    own = [observations[among.index(entry)] for entry in entries]
    return Contest(entries, ranks(own, False, on_shared_images(column), among=observations))
