"""Operations of a training step and the memory that it takes, on the meta device.

The meta device has neither autocast nor fused attention, so both are emulated here: without them the
activations of a network in bf16 would be estimated 1.5 times as large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..runtime.recompute import prepare, recomputable
from .flops import OperationCounter, TooLong, copied
from .live_tensors import LiveTensors
from .storage import storage_id

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# Functions that autocast on a GPU runs in half and in single precision (from torch's list of operators).
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
        getattr(owner, name)
        for owner in (torch, Tensor)
        for name in ("exp", "log", "pow", "sum", "softmax", "rsqrt")
    ),
}


@lru_cache(maxsize=256)  # stages of equal rows have the same modules
def bytes_of(module: nn.Module) -> int:
    """Size of parameters and buffers, shared ones once."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@dataclass(frozen=True)
class StepCost:
    """The cost of a training step on a whole batch."""

    flops: int  # a multiply-add is two
    activations: int  # largest number of bytes that autograd keeps at a time, casts of weights included
    peak: int = 0  # and of all tensors that are alive: also temporary ones and gradients
    gaps: int = 0  # what a CPU's heap takes beside the peak


def step_cost(
    step: Callable[..., Any], *arguments: Any, precision: str = "fp32", checkpointing: bool = False
) -> StepCost:
    """The cost of step(*copies of the arguments on the meta device), forward and backward.

    With `checkpointing`, segments of the modules are computed again in the backward pass. That is counted as
    operations; of activations, the segments' inputs and those of the largest segment are counted.

    Raises:
        RuntimeError: if shapes depend on values.
    """
    copies = copied(arguments, "meta")
    saved, largest = _SavedTensors(copies), 0
    if checkpointing:
        largest = _largest_segment(step, arguments, precision)
        prepare({"checkpointing": True}, *_modules(copies))
    alive = LiveTensors()
    flops = _run(step, copies, saved, alive, precision)
    return StepCost(flops, saved.largest_bytes + largest, alive.peak, alive.gaps)


def forward_memory(function: Callable[..., Any], *arguments: Any, calls: int | None = None) -> int:
    """The largest number of bytes of tensors that are alive in function(*copies of the arguments on meta).

    The result counts, the arguments don't. After this many operations the peak so far is returned.

    Raises:
        RuntimeError: if shapes depend on values.
    """
    return forward_tensors(function, *arguments, calls=calls).peak


@torch.no_grad()
def forward_tensors(function: Callable[..., Any], *arguments: Any, calls: int | None = None) -> LiveTensors:
    """The counts of the tensors in a forward pass, whose peak is `forward_memory`; arguments as there."""
    copies = copied(arguments, "meta")
    alive = LiveTensors(calls)
    with suppress(TooLong), OperationCounter(), alive, _GpuEmulation(None, alive):
        function(*copies)
    return alive


def _largest_segment(step: Callable[..., Any], arguments: tuple[Any, ...], precision: str) -> int:
    """The largest number of bytes that autograd keeps of one segment's forward pass."""
    copies = copied(arguments, "meta")
    saved, before, sizes = _SavedTensors(copies), list[int](), [0]
    for segment in recomputable(*_modules(copies)):
        segment.register_forward_pre_hook(lambda *_: before.append(saved.bytes))
        segment.register_forward_hook(lambda *_: sizes.append(saved.bytes - before.pop()))
    _run(step, copies, saved, LiveTensors(), precision)
    return max(sizes)


def _run(
    step: Callable[..., Any], copies: list[Any], saved: _SavedTensors, alive: LiveTensors, precision: str
) -> int:
    """Runs step(*copies), records the saved and the living tensors and returns the number of operations."""
    with (
        torch.enable_grad(),
        OperationCounter() as counter,
        alive,
        saved_tensors_hooks(saved.pack, saved.unpack),
        _GpuEmulation(DTYPES[precision], alive),
    ):
        step(*copies)
    return counter.flops


def _modules(values: list[Any]) -> list[nn.Module]:
    return [value for value in values if isinstance(value, nn.Module)]


class _SavedTensors:
    """Bytes of the storages that autograd keeps, each once, without parameters, buffers and inputs."""

    def __init__(self, arguments: list[Any]) -> None:
        inputs = [argument for argument in arguments if isinstance(argument, Tensor)]
        for module in _modules(arguments):
            inputs += [*module.parameters(), *module.buffers()]
        self.ignored = {storage_id(tensor) for tensor in inputs}
        self.references: Counter[int] = Counter()  # by storage
        self.bytes = self.largest_bytes = 0

    def pack(self, tensor: Tensor) -> Tensor | _Saved:
        return tensor if storage_id(tensor) in self.ignored else _Saved(tensor, self)

    def unpack(self, packed: Tensor | _Saved) -> Tensor:
        return packed.tensor if isinstance(packed, _Saved) else packed

    def add(self, tensor: Tensor) -> None:
        self.references[storage_id(tensor)] += 1
        if self.references[storage_id(tensor)] == 1:
            self.bytes += tensor.untyped_storage().nbytes()
            self.largest_bytes = max(self.largest_bytes, self.bytes)

    def remove(self, tensor: Tensor) -> None:
        self.references[storage_id(tensor)] -= 1
        if self.references[storage_id(tensor)] == 0:
            self.bytes -= tensor.untyped_storage().nbytes()


class _Saved:
    """A tensor that is counted as long as autograd keeps this object."""

    def __init__(self, tensor: Tensor, tensors: _SavedTensors) -> None:
        self.tensor, self.tensors = tensor, tensors
        tensors.add(tensor)

    def __del__(self) -> None:
        self.tensors.remove(self.tensor)


class _GpuEmulation(TorchFunctionMode):
    """Autocast to `half` precision, if it is given, and fused attention."""

    def __init__(self, half: torch.dtype | None, alive: LiveTensors) -> None:
        super().__init__()
        self.half, self.alive = half, alive
        self.casts: dict[int, Tensor] = {}  # of weights, each cast once a step as autocast's cache does

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self.half and (function in HALF or function in SINGLE):
            dtype = self.half if function in HALF else torch.float32
            args = tuple(self._cast(value, dtype) for value in args)
            kwargs = {name: self._cast(value, dtype) for name, value in kwargs.items()}
        if function is functional.scaled_dot_product_attention:
            query, key, value, *rest = args
            options = dict(zip(("attn_mask", "dropout_p", "is_causal"), rest, strict=False)) | kwargs
            return _FusedAttention.apply(query, key, value, options, self.alive)
        return function(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._cast(item, dtype) for item in value)
        if not isinstance(value, Tensor) or value.dtype == dtype:
            return value
        if value.dtype not in (torch.float32, self.half):
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(dtype)
        return self.casts.setdefault(id(value), value.to(dtype))


class _FusedAttention(torch.autograd.Function):
    """Keeps inputs and output but no (heads, T, T) weights; two products forward, four backward."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any], alive: LiveTensors
    ) -> Tensor:
        with alive.pause():
            output = functional.scaled_dot_product_attention(query, key, value, **options)
        alive.add(output)
        ctx.save_for_backward(query, key, value, output)
        ctx.alive = alive
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _ = ctx.saved_tensors
        with ctx.alive.pause():
            weights = query.new_empty(*query.shape[:-1], key.shape[-2])
            of_weights = gradients[0] @ value.mT
            inner = of_weights @ key, of_weights.mT @ query, weights.mT @ gradients[0]
        for gradient in inner:
            ctx.alive.add(gradient)
        return *inner, None, None
