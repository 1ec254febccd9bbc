"""Generators that are fitted in closed form: tables put them after the generators that were trained."""

from __future__ import annotations

from collections.abc import Iterable

from .rows import Row


def baselines(rows: Iterable[Row]) -> set[str]:
    """The generators that no row trained, such as `gaussian`; empty where no generator was trained."""
    done = [row for row in rows if not row.real and row.generator and row.seeds_done]
    trained = {row.generator for row in done if row.trains_generator}
    return {row.generator for row in done} - trained if trained else set()
