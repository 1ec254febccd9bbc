import pytest
import torch

from latentbench.bench.runtime.parts_of_batches import TOKENS, in_parts, planned_on_cpu


@pytest.mark.parametrize(("tokens", "sizes"), [(TOKENS // 2, [2, 2, 1]), (2 * TOKENS, [1] * 5), (1, [5])])
def test_a_part_has_as_many_rows_as_tokens_allow_and_all_parts_make_the_whole(tokens, sizes):
    seen, x, labels = [], torch.randn(5, 3), torch.arange(5)

    def function(x, labels, absent):
        assert absent is None and len(labels) == len(x)
        seen.append(len(x))
        return x * labels[:, None]

    assert torch.equal(in_parts(function, tokens, x, labels, None), x * labels[:, None])
    assert seen == sizes


def test_a_batch_on_another_device_stays_whole():
    seen = []
    in_parts(lambda x: seen.append(len(x)) or x, 2 * TOKENS, torch.empty(5, device="meta"))
    assert seen == [5]


def test_a_planned_batch_is_split_as_that_of_the_cpu_which_it_stands_for():
    seen, empty = [], torch.empty(5, device="meta")
    with planned_on_cpu(True):
        in_parts(lambda x: seen.append(len(x)) or x, 2 * TOKENS, empty)
    with planned_on_cpu(False):
        in_parts(lambda x: seen.append(len(x)) or x, 2 * TOKENS, empty)
    in_parts(lambda x: seen.append(len(x)) or x, 2 * TOKENS, empty)
    assert seen == [1] * 5 + [5, 5]
