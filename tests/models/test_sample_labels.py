import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentbench.bench.models.sample_labels import sample_labels


def test_equal_classes_come_in_turn():
    train = torch.arange(50) // 10
    assert sample_labels(train, 12).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_unlabelled_sets_have_no_classes():
    assert sample_labels(None, 3).tolist() == [-1, -1, -1]
    assert sample_labels(torch.full((4,), -1), 2).tolist() == [-1, -1]


def test_labels_below_zero_do_not_count():
    assert sample_labels(torch.tensor([-1, -1, -1, 1, 3]), 4).bincount().tolist() == [0, 2, 0, 2]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(sum), st.integers(1, 300))
def test_every_prefix_has_the_training_sets_proportions(sizes, count):
    train = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = sample_labels(train, count)
    share = torch.tensor(sizes).double() / sum(sizes)
    assert len(labels) == count
    assert (labels.bincount(minlength=len(sizes)) - count * share).abs().max() < 1
    for m in range(1, count):
        # Each class is within one sample of its share of the first m in the order, plus one of rounding.
        off = labels[:m].bincount(minlength=len(sizes)) - m * share
        assert off.abs().max() < len(sizes) / 2 + 1.5


@pytest.mark.parametrize("count", [100, 1437])
def test_a_long_tail_has_its_counts_by_largest_remainders(count):
    sizes = torch.tensor([341, 171, 114, 85, 68, 57, 49, 43, 38, 34])
    labels = sample_labels(torch.arange(10).repeat_interleave(sizes), count)
    exact = sizes.double() * count / sizes.sum()
    floors = exact.floor().long()
    extra = (exact - floors).argsort(descending=True)[: count - int(floors.sum())]
    floors[extra] += 1
    assert labels.bincount().tolist() == floors.tolist()
