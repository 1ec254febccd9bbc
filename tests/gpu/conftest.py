"""Tests that need a GPU are skipped without one; the same bodies run on the CPU in the ordinary suite."""

import os

# cuBLAS's workspace has to be fixed before CUDA starts, for products that sum in a fixed order.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest  # noqa: E402
import torch  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402


@pytest.fixture(autouse=True)
def a_gpu_or_a_reason(request):
    """Skips a test that is marked `gpu` on a machine without one."""
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is False")


@pytest.fixture(autouse=True)
def one_device_a_process():
    """Accelerate's rule; each of these tests chooses its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
