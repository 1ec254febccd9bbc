"""The errors by which parts speak to the frame."""

from __future__ import annotations


class Unfit(ValueError):
    """Raised by a constructor that cannot work with the spec it is given; such a cell is skipped."""


class Diverged(Exception):
    """A training that went wrong by itself: a loss that is not finite, a latent that collapsed.

    It is a result, cached like any other; the row is reported as failed with this reason.
    """
