"""Remembered outputs have the layout of an operation's own, and share no memory that they should not."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from latentbench.bench.models.meta_outputs import MetaOutputs


class _Remembering(TorchDispatchMode):
    """Calls every operation through `MetaOutputs`."""

    def __init__(self):
        super().__init__()
        self.outputs = MetaOutputs()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.outputs.call(function, args, kwargs or {})


def layout(tensor):
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device.type


X = torch.empty(2, 6, 4, device="meta")
OPERATIONS = {
    "product": lambda x: x @ x.mT,
    "transposed sum": lambda x: x.mT + 1,
    "sum and whole number": lambda x: x.long() + 1,
    "sum and fraction": lambda x: x.long() + 1.0,
    "half": lambda x: x.to(torch.bfloat16) * 2.0,
    "norm": lambda x: torch.nn.functional.layer_norm(x, (4,)),
    "several outputs": lambda x: x.max(1)[0],
    "joined": lambda x: torch.cat([x, x], 1),
    "convolution": lambda x: torch.nn.functional.conv1d(x, x[:, :, :3]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_repeated_operation_gives_the_same_layout(name):
    operation = OPERATIONS[name]
    with _Remembering():
        first, second = operation(X), operation(X)
    assert layout(first) == layout(second) == layout(operation(X))
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata


def test_whole_numbers_and_fractions_of_equal_value_are_told_apart():
    with _Remembering():
        types = [(X.long() + one).dtype for one in (1, 1.0, 1, 1.0)]
    assert types == [torch.int64, torch.float32] * 2


def test_views_and_writes_in_place_keep_their_memory():
    with _Remembering():
        x = X.clone()
        for _ in range(3):
            y = x.view(12, 4)
            assert y.untyped_storage()._cdata == x.untyped_storage()._cdata
            assert x.add_(1) is x
            z = torch.ops.aten._unsafe_view(x, [48])  # its schema says nothing of memory
            assert z.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_tensors_with_values_are_computed():
    x = torch.arange(6.0)
    with _Remembering():
        assert [float((x + one).sum()) for one in (0, 1, 1, 2)] == [15, 21, 21, 27]


def test_gradients_pass():
    weight = torch.empty(4, 4, device="meta", requires_grad=True)
    with _Remembering():
        for _ in range(2):
            (X @ weight).square().mean().backward()
    assert layout(weight.grad) == layout(weight)
