import pytest
import torch

from latentbench.bench.data.fixed_order import fixed_order, random_rows


def test_the_order_is_a_permutation_and_always_the_same():
    assert fixed_order(1000).sort().values.tolist() == list(range(1000))
    assert torch.equal(fixed_order(1000), fixed_order(1000))


@pytest.mark.parametrize(
    "labels", [torch.arange(6000) // 600, torch.arange(6000) % 10], ids=["sorted", "in turn"]
)
def test_a_choice_has_all_classes_in_their_proportions_however_a_set_is_ordered(labels):
    rows = random_rows(6000, 3000)
    assert torch.equal(rows, rows.unique()) and len(rows) == 3000
    assert (labels[rows].bincount() - 300).abs().max() < 4 * 300**0.5 / 2**0.5


def test_a_small_set_is_chosen_whole():
    assert random_rows(5, 5).tolist() == random_rows(5, 9).tolist() == [0, 1, 2, 3, 4]
