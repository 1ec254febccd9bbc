"""Parameters, and floating-point operations counted on the meta device, whose tensors have no values.

A multiply-add is two operations; matrix products, convolutions and attention are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from .meta_outputs import MetaOutputs


class TooLong(Exception):
    """Counting took more calls of torch's functions than it was allowed."""


def parameters(*modules: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, shared ones once, frozen ones included unless `trainable`."""
    unique = {id(p): p for module in modules for p in module.parameters()}
    return sum(p.numel() for p in unique.values() if p.requires_grad or not trainable)


def flops(step: Callable[..., None], *arguments: Any) -> int:
    """Operations of step(*copies of the arguments), for records.

    The copies are on the meta device or, where a step can't go on without values, where the originals are.

    Raises:
        RuntimeError: if torch's counter fails, as under `autograd.grad` in a step.
    """

    def count(device: str | None) -> int:
        copies = copied(arguments, device)
        # Fused attention isn't counted on CPU tensors; as two matrix products it is on every device.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step(*copies)
        return counter.get_total_flops()

    try:
        return count("meta")
    except RuntimeError:
        return count(None)


@torch.no_grad()
def forward_flops(function: Callable[..., Any], *arguments: Any, calls: int | None = None) -> int:
    """Operations of function(*copies of the arguments on the meta device) without a backward pass.

    Raises:
        RuntimeError: if shapes depend on values.
        TooLong: after this many calls of torch's functions.
    """
    copies = copied(arguments, "meta")
    with OperationCounter() as counter, nullcontext() if calls is None else _CallLimit(calls):
        function(*copies)
    return counter.flops


def copied(arguments: tuple[Any, ...], device: str | None) -> list[Any]:
    """Deep copies, modules and tensors on `device` if it is given."""
    copies = [copy.deepcopy(argument) for argument in arguments]
    return [c.to(device) if device and isinstance(c, (nn.Module, Tensor)) else c for c in copies]


class OperationCounter(TorchDispatchMode):
    """Counts by torch's formulas, without `FlopCounterMode`'s sums by module, which fail in `autograd.grad`.

    `.item()` of a meta tensor returns 0, so that code which reads a value can still be counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.outputs = 0, MetaOutputs()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()
        output = self.outputs.call(function, args, kwargs or {})
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output


class _CallLimit(TorchFunctionMode):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls_left = calls

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise TooLong
        return function(*args, **(kwargs or {}))
