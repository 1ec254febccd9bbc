"""A GPU that computes shapes without values, for machines without one: it finds tensors in the wrong place.

In `with PretendedGpu() as gpu:` tensors on "cuda" are torch's fake tensors, and those on the CPU are real. An
operation on tensors of both devices is an error, as on a GPU. What would make the program wait for the GPU is
in `gpu.waits`, with the place in this repository that asked for it: a value that is read, a shape that
depends on values, a copy to main memory, and one from main memory that isn't pinned. Backward passes don't
run: torch's engine asks the driver.
"""

import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from latentbench import bench

HOME = Path(bench.__file__).parents[1]  # as the frames of functions name it, which may be by a link
ATEN = torch.ops.aten
READS = "reads a value"
SHAPES = "a shape depends on values"
FETCHES = "copies to main memory"
SENDS = "copies from main memory that isn't pinned"


MOST = 1000  # waits at one place


class Endless(Exception):
    """A loop ends by values, which a pretended GPU doesn't have."""


class PretendedGpu(TorchDispatchMode):
    """See above. `waits` counts (place, kind of wait); a place is `file:function`."""

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits = Counter()
        self._stack = ExitStack()

    def __enter__(self):
        # There is no pinned memory to be had; a copy from it still says that it waits for nothing.
        self._stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor))
        self._stack.enter_context(mock.patch.object(nn.Module, "to", moved))
        if not torch.cuda.is_available():
            self._stack.enter_context(mock.patch.object(torch.cuda, "_lazy_init", lambda: None))
            torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does: no driver is asked
        self._stack.enter_context(mock.patch.object(torch.autograd, "grad", zero_gradients))
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") starts no CUDA
        self._stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        device = kwargs.get("device")
        here = device is not None and torch.device(device).type == "cuda"
        if not here and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return function(*args, **kwargs)
        packet = function.overloadpacket
        if packet is ATEN._local_scalar_dense:
            self._wait(READS)
            return False if tensors[0].dtype is torch.bool else torch.ones((), dtype=tensors[0].dtype).item()
        if packet in (ATEN.nonzero, ATEN.masked_select, ATEN._unique2):
            self._wait(SHAPES)
            return self._as_if_all_were_true(function, args, kwargs)
        self._note_copies(packet, args, kwargs, here)
        args, kwargs = tree_map_only(Tensor, self._faked, (args, kwargs))
        if packet is ATEN.index and any(is_mask(i) for i in args[1]):
            self._wait(SHAPES)
            args = (args[0], self._rows_of_masks(args[1]))
        with self.fake:
            return function(*args, **kwargs)

    def _note_copies(self, packet, args, kwargs, here):
        waiting = not kwargs.get("non_blocking", False)
        if packet is ATEN._to_copy:
            device = kwargs.get("device")
            to = args[0].device.type if device is None else torch.device(device).type
            if args[0].device.type == "cpu" and to == "cuda" and waiting:
                self._wait(SENDS)
            if args[0].device.type == "cuda" and to == "cpu" and waiting:
                self._wait(FETCHES)
        if packet is ATEN.copy_:
            here, there = (value.device.type for value in args[:2])
            waiting = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            if here != there and waiting:
                self._wait(SENDS if here == "cuda" else FETCHES)
        if packet in (ATEN.index, ATEN.index_put, ATEN.index_put_):
            places = [place for place in args[1] if place is not None]
            if args[0].device.type == "cuda" and any(place.device.type == "cpu" for place in places):
                self._wait(SENDS)

    def _wait(self, kind):
        where = place()
        self.waits[where, kind] += 1
        if self.waits[where, kind] > MOST:
            raise Endless(f"{where} {kind} again and again")

    def _faked(self, tensor):
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def _as_if_all_were_true(self, function, args, kwargs):
        real = torch.ones(args[-1].shape if function.overloadpacket is ATEN.masked_select else args[0].shape)
        with self.fake:
            if function.overloadpacket is ATEN.nonzero:
                return torch.empty(real.numel(), real.dim(), dtype=torch.long, device="cuda")
            if function.overloadpacket is ATEN.masked_select:
                return torch.empty(real.numel(), dtype=args[0].dtype, device="cuda")
        raise NotImplementedError(str(function))

    def _rows_of_masks(self, indices):
        with self.fake:
            found = []
            for index in indices:
                if is_mask(index):
                    places = torch.zeros(index.numel(), dtype=torch.long, device="cuda")
                    found += [places] * index.dim()
                else:
                    found.append(index)
            return found


TO = nn.Module.to


def moved(module, *where, **options):
    """Stands for `nn.Module.to`, which cannot move fake tensors: a module that is there already stays."""
    tensors = [*module.parameters(), *module.buffers()]
    there = tensors and all(isinstance(tensor, FakeTensor) for tensor in tensors)
    return module if there else TO(module, *where, **options)


def zero_gradients(outputs, inputs, *_, **__):
    """Stands for `torch.autograd.grad`, whose engine asks the driver."""
    return [torch.zeros_like(one) for one in ([inputs] if isinstance(inputs, Tensor) else inputs)]


def is_mask(index):
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def place():
    """The innermost function of the product that is being computed, as `file:function`."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(f"{HOME}/") and not file.startswith(
            (f"{HOME}/bench/contracts/", f"{HOME}/tests/")
        ):
            return f"{Path(file).relative_to(HOME)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "a test"
