"""Linear layers by oneDNN, forward and backward: on AMD's CPUs MKL's products are half as fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode, _get_current_function_mode

LEAST = 2**21  # multiplications: fewer take no longer than the other way to them does
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def by_onednn() -> AbstractContextManager[Any]:
    """`with by_onednn():` takes oneDNN where a linear layer is large, on the CPU and in float32.

    Results are those of MKL up to rounding, and everything else is as it was. A backward pass in it doesn't
    see it, nor do the layers of `nn.MultiheadAttention`: torch takes modes off inside of its own functions.
    As it costs microseconds a call, there is none in another, and none where a GPU is at work.
    """
    there = isinstance(_get_current_function_mode(), _Products)
    return nullcontext() if there or not AVAILABLE or torch.cuda.is_initialized() else _Products()


class _Products(TorchFunctionMode):
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
    if not suits(input, weight, bias):
        return nn.functional.linear(input, weight, bias)
    rows = input.reshape(
        -1, input.shape[-1]
    )  # of more dimensions it would give a view, which nobody may change
    learns = any(one is not None and one.requires_grad for one in (input, weight, bias))
    if learns and torch.is_grad_enabled():
        found: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        found = product(rows, weight, bias)
    return found.view(*input.shape[:-1], len(weight))


def suits(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN has the layer, and whether it is worth it."""
    return (
        AVAILABLE
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in (input, weight))
        and input.is_contiguous()
        and weight.dim() == 2
        and weight.is_contiguous()
        and (bias is None or bias.shape == weight.shape[:1])
        and input.numel() * len(weight) >= LEAST
    )


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of contiguous matrices, without gradients."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return product(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (input, weight) = gradients, ctx.saved_tensors
        to_input = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            # A gradient that is to have one itself goes the way that has some.
            plain = torch.is_grad_enabled()
            to_input = gradient @ weight if plain else product(gradient.contiguous(), weight.t().contiguous())
        if ctx.needs_input_grad[1]:
            to_weight = gradient.t() @ input  # oneDNN would want both transposed, which takes what it saves
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(0)
        return to_input, to_weight, to_bias
