"""What one training step takes, counted without computing it: floating-point operations and kept activations.

Modules and batches are copied to the meta device, where tensors have shapes and no values.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ..runtime.recompute import prepare, segments

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# What autocast on a GPU does in half precision, and what in single (torch's list, as far as Python sees it).
HALF = {
    functional.linear,
    functional.bilinear,
    functional.scaled_dot_product_attention,
    *(getattr(functional, f"conv{kind}{n}d") for kind in ("", "_transpose") for n in (1, 2, 3)),
    *(getattr(owner, name) for owner in (torch, Tensor) for name in ("matmul", "bmm", "mm", "baddbmm")),
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    torch.addmm,
    torch.einsum,
}
SINGLE = {
    functional.layer_norm,
    functional.group_norm,
    functional.softmax,
    functional.log_softmax,
    functional.softplus,
    functional.cosine_similarity,
    functional.mse_loss,
    functional.l1_loss,
    functional.cross_entropy,
    *(
        getattr(owner, n)
        for owner in (torch, Tensor)
        for n in ("exp", "log", "pow", "sum", "softmax", "rsqrt")
    ),
}


class TooLong(Exception):
    """Counting took more calls than it was given."""


@dataclass(frozen=True)
class Counted:
    """Of a whole batch."""

    flops: int  # a multiply-add is two
    activations: int  # bytes that autograd keeps at the most, casts of weights included


def parameters(*modules: nn.Module, trainable: bool = False) -> int:
    """Frozen ones included unless `trainable`, shared ones once."""
    unique = {id(p): p for module in modules for p in module.parameters()}
    return sum(p.numel() for p in unique.values() if p.requires_grad or not trainable)


def flops(step: Callable[..., None], *arguments: Any) -> int:
    """Operations of step(*copies of the arguments) in matrix products, convolutions and attention.

    A multiply-add is two. The copies are on the meta device, which computes nothing, or, where a module can't
    go on without values, where the originals are.
    """

    def count(device: str | None) -> int:
        copies = _copied(arguments, device)
        # Fused attention isn't counted on CPU tensors; as two matrix products it is, everywhere alike.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step(*copies)
        return counter.get_total_flops()

    try:
        return count("meta")
    except RuntimeError:
        return count(None)


def counted(
    step: Callable[..., Any],
    *arguments: Any,
    precision: str = "fp32",
    calls: int | None = None,
    checkpointing: bool = False,
) -> Counted:
    """Operations, as `flops` counts them, and kept activations of step(*copies of the arguments on meta).

    What a checkpoint computes again is counted as operations, but not as kept. With `checkpointing` that are
    the modules' segments, of which the backward pass has one at a time, at the most the largest.

    Raises:
        RuntimeError: if shapes depend on values.
        TooLong: after this many calls of torch's functions.
    """
    copies = _copied(arguments, "meta")
    kept, largest = _Kept(copies), 0
    if checkpointing:
        largest = _largest_segment(step, arguments, precision)
        prepare({"checkpointing": True}, *_modules(copies))
    done = _followed(step, copies, kept, precision, calls)
    return Counted(done, kept.most + largest)


def _largest_segment(step: Callable[..., Any], arguments: tuple[Any, ...], precision: str) -> int:
    """Bytes that autograd keeps of one segment's forward pass, at the most."""
    copies = _copied(arguments, "meta")
    kept, before, found = _Kept(copies), list[int](), [0]
    for segment in segments(*_modules(copies)):
        segment.register_forward_pre_hook(lambda *_: before.append(kept.now))
        segment.register_forward_hook(lambda *_: found.append(kept.now - before.pop()))
    _followed(step, copies, kept, precision, None)
    return max(found)


def _followed(
    step: Callable[..., Any], copies: list[Any], kept: _Kept, precision: str, calls: int | None
) -> int:
    """The operations of step(*copies); what is kept, `kept` learns."""
    with (
        torch.enable_grad(),
        _Operations() as done,
        saved_tensors_hooks(kept.pack, kept.unpack),
        _AsOnGpu(DTYPES[precision], calls),
    ):
        step(*copies)
    return done.flops


def _copied(arguments: tuple[Any, ...], device: str | None) -> list[Any]:
    copies = [copy.deepcopy(argument) for argument in arguments]
    return [c.to(device) if device and isinstance(c, (nn.Module, Tensor)) else c for c in copies]


def _modules(values: list[Any]) -> list[nn.Module]:
    return [value for value in values if isinstance(value, nn.Module)]


class _Operations(TorchDispatchMode):
    """The sum that `FlopCounterMode` has, without its account by module: that fails under `autograd.grad`.

    A value that is asked for is 0, so that steps which only look at one can be counted.
    """

    flops = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()
        output = function(*args, **(kwargs or {}))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=output)
        return output


class _Kept:
    """Bytes of the storages that autograd keeps, each once, but for parameters, buffers and inputs."""

    def __init__(self, arguments: list[Any]) -> None:
        self.given = {
            _storage(tensor)
            for argument in arguments
            for tensor in (
                (*argument.parameters(), *argument.buffers())
                if isinstance(argument, nn.Module)
                else [argument]
                if isinstance(argument, Tensor)
                else []
            )
        }
        self.holders: Counter[int] = Counter()
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Tensor | _Held:
        return tensor if _storage(tensor) in self.given else _Held(tensor, self)

    def unpack(self, held: Tensor | _Held) -> Tensor:
        return held.tensor if isinstance(held, _Held) else held

    def changed(self, tensor: Tensor, by: int) -> None:
        """One holder of the tensor's storage more or less."""
        storage = _storage(tensor)
        before = bool(self.holders[storage])
        self.holders[storage] += by
        self.now += (bool(self.holders[storage]) - before) * tensor.untyped_storage().nbytes()
        self.most = max(self.most, self.now)


class _Held:
    """Lives as long as autograd keeps the tensor."""

    def __init__(self, tensor: Tensor, kept: _Kept) -> None:
        self.tensor, self.kept = tensor, kept
        kept.changed(tensor, 1)

    def __del__(self) -> None:
        self.kept.changed(self.tensor, -1)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _AsOnGpu(TorchFunctionMode):
    """Fused attention and autocast, which the meta device has not."""

    def __init__(self, half: torch.dtype | None, calls: int | None) -> None:
        super().__init__()
        self.half, self.calls_left = half, calls
        self.casts: dict[int, Tensor] = {}  # of weights, each once a step as autocast's cache has them

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise TooLong
        to = self.half if function in HALF else torch.float32 if function in SINGLE else None
        if self.half and to:
            args = tuple(self._cast(value, to) for value in args)
            kwargs = {name: self._cast(value, to) for name, value in kwargs.items()}
        if function is functional.scaled_dot_product_attention:
            query, key, value, *rest = args
            options = dict(zip(("attn_mask", "dropout_p", "is_causal"), rest, strict=False)) | kwargs
            return _FusedAttention.apply(query, key, value, options)
        return function(*args, **kwargs)

    def _cast(self, value: Any, to: torch.dtype) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._cast(item, to) for item in value)
        if (
            not isinstance(value, Tensor)
            or value.dtype not in (torch.float32, self.half)
            or value.dtype == to
        ):
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(to)
        return self.casts.setdefault(id(value), value.to(to))


class _FusedAttention(torch.autograd.Function):
    """Keeps its inputs and its output, and not (heads, T, T) weights; two products forward, four backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        output = functional.scaled_dot_product_attention(query, key, value, **options)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _ = ctx.saved_tensors
        weights = query.new_empty(*query.shape[:-1], key.shape[-2])
        of_weights = gradients[0] @ value.mT
        return of_weights @ key, of_weights.mT @ query, weights.mT @ gradients[0], None
