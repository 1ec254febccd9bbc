"""Linear layers of networks at rest by oneDNN: MKL's products are half as fast on AMD's CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST = 2**20  # multiplications: fewer take no longer than the other way to them, 10 us
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Inference(TorchFunctionMode):
    """`with Inference():` takes oneDNN where a layer is large, on the CPU, in float32 and without gradients.

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
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def suits(input: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN has the layer, and whether it is worth it."""
    return (
        AVAILABLE
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in (input, weight))
        and input.is_contiguous()
        and weight.dim() == 2
        and weight.is_contiguous()
        and input.numel() * len(weight) >= LEAST
    )
