"""Linear layers by oneDNN, forward and backward: on AMD's CPUs MKL's products are half as fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.overrides
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

MIN_MULTIPLICATIONS = 2**21  # below, the overhead of the call is larger than what oneDNN saves
# Attributes of torch without a public counterpart: a torch that lacks one computes by MKL.
PRIVATE = (
    (torch.ops.mkldnn, "_linear_pointwise"),
    (torch.overrides, "_get_current_function_mode"),
    (torch._C, "_are_functorch_transforms_active"),
    (forward_ad, "_current_level"),
)
AVAILABLE = torch.backends.mkldnn.is_available() and all(hasattr(*attribute) for attribute in PRIVATE)


def by_onednn() -> AbstractContextManager[Any]:
    """`with by_onednn():` computes large linear layers by oneDNN, on the CPU and in float32.

    Results are those of MKL up to rounding; all other operations are unchanged. The mode doesn't reach into a
    backward pass inside the block, nor into `nn.MultiheadAttention`, because torch removes modes inside its
    own functions. The mode costs microseconds per call, so it is not entered twice, nor when a GPU is used.
    """
    if not AVAILABLE or torch.cuda.is_initialized():
        return nullcontext()
    active = isinstance(torch.overrides._get_current_function_mode(), _OneDnnMode)
    return nullcontext() if active else _OneDnnMode()


class _OneDnnMode(TorchFunctionMode):
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
    """A linear layer, by oneDNN if it suits: (..., F), (G, F), (G,) -> (..., G)."""
    if not suits(input, weight, bias):
        return nn.functional.linear(input, weight, bias)
    # A matrix: for more dimensions the result would be a view, which in-place operations may not change.
    rows = input.reshape(-1, input.shape[-1])
    learns = any(tensor is not None and tensor.requires_grad for tensor in (input, weight, bias))
    if learns and torch.is_grad_enabled():
        output: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        output = product(rows, weight, bias)
    return output.view(*input.shape[:-1], len(weight))


def suits(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN supports the layer and is faster."""
    return (
        AVAILABLE
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in (input, weight))
        and input.is_contiguous()
        and weight.dim() == 2
        and weight.is_contiguous()
        and (bias is None or bias.shape == weight.shape[:1])
        and input.numel() * len(weight) >= MIN_MULTIPLICATIONS
    )


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of contiguous matrices by oneDNN, without gradients."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return output


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
            # For second derivatives (grad enabled here) the product must be one that autograd can follow.
            if torch.is_grad_enabled():
                to_input = gradient @ weight
            else:
                to_input = product(gradient.contiguous(), weight.t().contiguous())
        if ctx.needs_input_grad[1]:
            # Not by oneDNN: transposing both factors for it would take as long as it saves.
            to_weight = gradient.t() @ input
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(0)
        return to_input, to_weight, to_bias
