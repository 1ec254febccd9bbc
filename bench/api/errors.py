"""The errors that a part raises to tell the frame that a cell cannot be run or has failed."""

from __future__ import annotations


class Unfit(ValueError):
    """The part does not work with the other parts of the cell; the cell is skipped with this reason.

    Constructors raise it for a spec that they cannot use.
    """


class BrokenContract(Exception):
    """A part returned something else than its interface promises; the message names the part."""


class Diverged(Exception):
    """The training failed by itself: a loss is not finite, or the latent collapsed.

    Such a failure is a cached result; the cell is reported as failed with this reason.
    """
