"""Outputs of operations on the meta device, remembered by their inputs' shapes.

Torch works out the shapes of many outputs in Python, which takes most of the time of counting a deep network.
Its blocks repeat the same operations on the same shapes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .storage import storage_id


class MetaOutputs:
    """Calls operations, and makes the outputs of a repeated one without working out their shapes again."""

    def __init__(self) -> None:
        self._known: dict[Any, list[Any] | None] = {}  # None: its outputs can't be made anew

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs of function(*args, **kwargs), an operator of torch as `__torch_dispatch__` gets it."""
        try:
            key = _described((function, args, kwargs))
        except _HasValues:
            return function(*args, **kwargs)
        layouts = self._known.get(key)
        if layouts is not None:
            made = [_made(layout) for layout in layouts]
            return made[0] if len(made) == 1 else tuple(made)
        output = function(*args, **kwargs)
        if key not in self._known:
            self._known[key] = _layouts(output, (args, kwargs))
        return output


class _HasValues(Exception):
    """An input is a tensor with values, or can't be a key."""


def _described(value: Any) -> Any:
    """A key of an input: all that the layouts of outputs depend on."""
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise _HasValues
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    if isinstance(value, dict):
        return tuple((name, _described(item)) for name, item in value.items())
    if value.__hash__ is None or isinstance(value, torch.Generator):
        raise _HasValues
    return type(value), value  # 1, 1.0 and True promote tensors differently


def _layouts(output: Any, inputs: Any) -> list[Any] | None:
    """Shape, strides and dtype of each output; None where an output shares memory or isn't a meta tensor."""
    outputs = output if isinstance(output, tuple) else (output,)
    if not all(isinstance(made, Tensor) and made.is_meta for made in outputs):
        return None
    storages = set(map(storage_id, outputs))
    given = {storage_id(value) for value in tree_leaves(inputs) if isinstance(value, Tensor)}
    if storages & given or len(storages) < len(outputs):
        return None
    return [(made.shape, made.stride(), made.dtype) for made in outputs]


def _made(layout: Any) -> Tensor:
    shape, stride, dtype = layout
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
