"""Linear layers by oneDNN, forward and backward: on AMD's CPUs MKL's products are half as fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST = 2**21  # multiplications: fewer take no longer than the other way to them does
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Products(TorchFunctionMode):
    """`with Products():` takes oneDNN where a linear layer is large, on the CPU and in float32.

    Results are those of MKL up to rounding, and everything else is as it was.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        chosen = linear if func is nn.functional.linear else func
        return chosen(*args, **(kwargs or {}))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., F), (G, F), (G,) -> (..., G)."""
    if not suits(input, weight):
        return nn.functional.linear(input, weight, bias)
    if torch.is_grad_enabled() and any(
        one is not None and one.requires_grad for one in (input, weight, bias)
    ):
        return _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call,no-any-return]
    return product(input, weight, bias)


def suits(input: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN has the layer, and whether it is worth it."""
    return (
        AVAILABLE
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in (input, weight))
        and input.is_contiguous()
        and weight.dim() == 2
        and weight.is_contiguous()
        and input.numel() * len(weight) >= LEAST
    )


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of contiguous tensors, without gradients."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return product(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        to_input, to_weight, to_bias = ctx.needs_input_grad
        rows, given = gradients[0].reshape(-1, len(weight)), input.flatten(0, -2)
        # A gradient that is to have one itself goes the way that has some. The weight's would have to be
        # transposed twice for oneDNN, which takes what it saves.
        plain = torch.is_grad_enabled()
        return (
            (rows @ weight if plain else product(rows.contiguous(), weight.t().contiguous())).view_as(input)
            if to_input
            else None,
            rows.t() @ given if to_weight else None,
            rows.sum(0) if to_bias else None,
        )
