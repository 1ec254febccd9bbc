"""Reconstruction losses are means over all elements."""

import pytest
import torch

from latentbench.bench.losses import RECONSTRUCTION


def test_values_by_hand():
    a, b = torch.tensor([[0.0, 1.0], [2.0, -1.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert RECONSTRUCTION["l1"](a, b).item() == 1.0
    assert RECONSTRUCTION["l2"](a, b).item() == 1.5


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_a_loss_is_zero_at_the_image_and_does_not_depend_on_the_number_of_pixels(name):
    small, large = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 16, 16)
    assert RECONSTRUCTION[name](small, small) == 0
    values = [RECONSTRUCTION[name](x + 0.1, x).item() for x in (small, large)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
