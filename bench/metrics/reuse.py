"""A cache for values that several metrics and cells compute from the same reference."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import TypeVar

import numpy as np
from torch import Tensor

KEPT = 16  # results of each function
Result = TypeVar("Result")


def once(function: Callable[..., Result]) -> Callable[..., Result]:
    """Caches the latest results of a function of a reference; tensors are compared by their content.

    A worker scores many cells against the same reference, and each time reads it from disk into a new tensor.
    """
    cache: OrderedDict[tuple[Hashable, ...], Result] = OrderedDict()

    @wraps(function)
    def cached(*arguments: Tensor | Hashable) -> Result:
        key = tuple(map(_content, arguments))
        if key not in cache:
            cache[key] = function(*arguments)
        cache.move_to_end(key)
        if len(cache) > KEPT:
            cache.popitem(last=False)
        return cache[key]

    return cached


def _content(argument: Tensor | Hashable) -> Hashable:
    if not isinstance(argument, Tensor):
        return argument
    array = np.ascontiguousarray(argument.detach().cpu().numpy())
    return hashlib.sha256(array.data).digest(), argument.shape, argument.dtype
