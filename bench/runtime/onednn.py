"""Linear layers by oneDNN, forward and backward, where they are faster than MKL's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

CPUS = Path("/proc/cpuinfo")


def least_multiplications(cpus: str) -> int:
    """The multiplications of a layer from which oneDNN saves more than its call costs.

    MKL computes by AVX2 on AMD's CPUs. Up to Zen 4 these multiply no faster by AVX-512, and oneDNN's calls
    cost a small network 2 to 8 % of a step; from Zen 5 (family 26) on AVX-512 does twice as much.

    Args:
        cpus: the text of /proc/cpuinfo; empty on other systems than Linux.
    """
    told = dict(line.split(":", 1) for line in cpus.partition("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in told.items()}
    zen5 = known.get("vendor_id") == "AuthenticAMD" and int(known.get("cpu family", 0)) >= 26
    return 2**21 if zen5 else 2**25


MIN_MULTIPLICATIONS = least_multiplications(CPUS.read_text(encoding="utf-8") if CPUS.exists() else "")
# Attributes of torch without a public counterpart: a torch that lacks one computes by MKL.
PRIVATE = (
    (torch.ops.mkldnn, "_linear_pointwise"),
    (torch._C, "_are_functorch_transforms_active"),
    (forward_ad, "_current_level"),
)
AVAILABLE = torch.backends.mkldnn.is_available() and all(hasattr(*attribute) for attribute in PRIVATE)
_by_mkl = nn.functional.linear


@contextmanager
def by_onednn() -> Iterator[None]:
    """Computes large linear layers by oneDNN within the block, on the CPU and in float32.

    Results are those of MKL up to rounding; all other operations are unchanged. The block exchanges
    `torch.nn.functional.linear`, which `nn.Linear` and `nn.MultiheadAttention` call by its name, and it does
    so for all threads. A mode of torch would reach this thread alone, but would add microseconds to every
    call of every function: a fifth of the time in which a small network draws a sample. Nothing is exchanged
    when a GPU is used.
    """
    if not AVAILABLE or torch.cuda.is_initialized() or nn.functional.linear is linear:
        yield
        return
    nn.functional.linear = linear
    try:
        yield
    finally:
        nn.functional.linear = _by_mkl


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer, by oneDNN if it suits: (..., F), (G, F), (G,) -> (..., G)."""
    if not suits(input, weight, bias):
        return _by_mkl(input, weight, bias)
    if not torch.is_grad_enabled() or not any(
        t is not None and t.requires_grad for t in (input, weight, bias)
    ):
        return product(input, weight, bias)
    # A matrix: for more dimensions the result would be a view, which in-place operations may not change.
    rows = input.reshape(-1, input.shape[-1])
    output: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return output.view(*input.shape[:-1], len(weight))


def suits(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN supports the layer and is faster; the conditions that fail most often come first."""
    return (
        AVAILABLE
        and input.numel() * weight.shape[0] >= MIN_MULTIPLICATIONS
        and input.is_contiguous()
        and input.dtype == weight.dtype == torch.float32
        and input.is_cpu
        and weight.is_cpu
        and weight.dim() == 2
        and weight.is_contiguous()
        and (bias is None or bias.shape == weight.shape[:1])
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of contiguous tensors by oneDNN, without gradients."""
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
