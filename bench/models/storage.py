"""The memory that tensors lie in."""

from torch import Tensor


def storage_id(tensor: Tensor) -> int:
    """The identity of a tensor's memory, which its views share."""
    return tensor.untyped_storage()._cdata
