"""The bytes of tensors that are alive at a time, counted on the meta device, whose tensors have no values."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..runtime.heap import MAPPED
from .flops import TooLong
from .storage import storage_id

# What the heap loses between tensors of unequal sizes, as a share of them. Measured are 0 to 0.9, so a plan
# with 0.35 is off by at most 1.4 times either way.
GAPS = 0.35


class LiveTensors(TorchDispatchMode):
    """Counts the storages of tensors that operations make, from their making until nothing refers to them.

    So it sees the temporary tensors of forward and backward passes, whatever part makes them, and not the
    memory that an operation takes inside itself. Tensors that exist before don't count.
    """

    def __init__(self, calls: int | None = None) -> None:
        """
        Args:
            calls: operations after which the counting ends with `TooLong`; None: never.
        """
        super().__init__()
        self.bytes = self.peak = 0
        # The same of tensors below MAPPED, and of all on a CPU, whose heap keeps what small ones once took.
        self.small = self.heap = self.held = 0
        self.calls_left, self.paused = calls, False
        self._sizes: dict[int, int] = {}  # by storage

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.paused:
            return function(*args, **(kwargs or {}))
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise TooLong
        output = function(*args, **(kwargs or {}))
        made = [value for value in tree_leaves(output) if isinstance(value, Tensor)]
        if any(storage_id(tensor) not in self._sizes for tensor in made):
            given = (value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
            known = set(map(storage_id, given))  # of which outputs are views, or which were written in place
            for tensor in made:
                if storage_id(tensor) not in known:
                    self.add(tensor)
        return output

    @property
    def gaps(self) -> int:
        """Bytes that a CPU's heap takes at its peak beyond the tensors at theirs."""
        return self.held - self.peak + round(GAPS * self.heap)

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, unless it is counted."""
        storage, key = tensor.untyped_storage(), storage_id(tensor)
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.bytes += self._sizes[key]
        self.small += _small(self._sizes[key])
        self.peak, self.heap = max(self.peak, self.bytes), max(self.heap, self.small)
        self.held = max(self.held, self.bytes - self.small + self.heap)
        weakref.finalize(storage, self._remove, key).atexit = False

    def _remove(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.bytes -= size
        self.small -= _small(size)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out what is made within the block, as the inner tensors of a fused operation."""
        self.paused, before = True, self.paused
        try:
            yield
        finally:
            self.paused = before


def _small(size: int) -> int:
    return size if size < MAPPED else 0
