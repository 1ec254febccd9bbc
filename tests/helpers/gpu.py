"""What tests on a GPU share: devices, arithmetic, and how far numbers may be from those of a CPU."""

import math
from contextlib import contextmanager

import pytest
import torch

# A test's body is a function of `device`. On "cpu" the ordinary suite tries the body itself.
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
on_each_device = pytest.mark.parametrize("device", ["cpu", GPU])
on_the_gpu = pytest.mark.parametrize("device", [GPU])

# The largest differences from the CPU's numbers in fp32, relative to them or, below 1, absolute. fp32 sums in
# another order; TF32 rounds the factors of products to 10 bits, bf16 to 7, as on a CPU.
BOUNDS = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}


@contextmanager
def arithmetic(precision):
    """Float32 products and convolutions on a GPU: for `tf32` with rounded factors, else with all digits."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@contextmanager
def computing(device, precision):
    """The arithmetic of a precision, with autocast as in training for `bf16`."""
    with arithmetic(precision), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield


def require_close(found, expected, bound):
    """Requires numbers by name to be within a bound of others, relative to these or, below 1, absolute."""
    assert found.keys() == expected.keys() != set()
    far = {
        name: (value, expected[name])
        for name, value in found.items()
        if not math.isclose(value, expected[name], rel_tol=bound, abs_tol=bound)
    }
    assert not far, f"beyond {bound:g} (found, expected): {far}"


def finish(device):
    """Waits until a device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def card(device):
    """The name of the device, for tables."""
    return torch.cuda.get_device_name() if device == "cuda" else "this CPU"
