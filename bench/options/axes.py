"""Axes: options whose value is a list of values, each of which makes a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from .options import SIZE, Fault, OptionError, check_options, options_of, sizes_of
from .words import label_text

Values = list[tuple[str, dict[str, Any]]]  # of an axis: a value's text in labels, and its options


@dataclass(frozen=True)
class Variants:
    """The rows of one entry of a matrix: common options, and axes that multiply each other."""

    options: dict[str, Any]
    axes: dict[str, Values]

    @property
    def count(self) -> int:
        """The number of rows."""
        return math.prod(len(values) for values in self.axes.values())

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """A suffix for the label, such as "[weight=0.01]", and the options; the last axis moves fastest."""
        for values in product(*self.axes.values()):
            suffix = ",".join(f"{name}={text}" for name, (text, _) in zip(self.axes, values, strict=True))
            options = self.options.copy()
            for _, chosen in values:
                options |= chosen
            yield f"[{suffix}]" if values else "", options


def check_axes(
    target: Callable[..., Any], options: Mapping[str, Any], *, also: Iterable[str] = (), where: str = ""
) -> tuple[Variants, list[Fault]]:
    """Like `check_options`, with lists as axes; no value is checked twice, and no rows are made yet."""
    known, sizes = options_of(target), sizes_of(target)

    def is_axis(name: str, value: Any) -> bool:
        if name == SIZE and sizes:
            return isinstance(value, list)
        return name in known and known[name].is_axis(value)

    lists = {name: value for name, value in options.items() if is_axis(name, value)}
    rest = {name: value for name, value in options.items() if name not in lists}
    clean, faults = check_options(target, rest, also=also, given=lists, where=where)
    axes: dict[str, Values] = {name: [] for name in lists}
    for name, values in lists.items():
        if not values:
            faults.append(((name,), f"the axis {name!r} is empty; it needs at least one value"))
        for i, value in enumerate(values):
            if name not in known:
                chosen, wrong = check_options(target, {SIZE: value}, given=known, where=where)
                faults += [((SIZE, i), message) for _, message in wrong]
                if not wrong:
                    axes[name].append((value, {n: chosen[n] for n in sizes[value] if n not in options}))
                continue
            try:
                item = known[name].read(value)
            except OptionError as error:
                faults += error.below(name, i)
            else:
                # A part's label is what was written, without the defaults that `read` adds.
                text = label_text(value if known[name].needs else item)
                axes[name].append((text, {name: item}))
    return Variants({name: value for name, value in clean.items() if name not in lists}, axes), faults
