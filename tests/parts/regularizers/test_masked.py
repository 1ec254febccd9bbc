"""Masked tokens: how many, where, how often, and the gradient of the token that replaces them."""

from collections import Counter

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step, Unfit
from latentbench.bench.registry import create
from latentbench.regularizers.masked import masked, masked_places

SPEC = LatentSpec(16, 3, (4, 4))


def shown(part, z, index):
    (pair,) = part.shown(z, Step(index, z.new_zeros(len(z), 1, 8, 8), None, Noise(index), lambda z: z))
    return pair.z


def test_ratio_0_masks_nothing_and_others_mask_the_rounded_down_number():
    counts = [int(masked_places(10, ratio, Noise(0)).sum()) for ratio in (0.0, 0.01, 0.25, 0.5, 1.0)]
    assert counts == [0, 1, 2, 5, 10]


def test_places_are_uniform_and_the_same_for_all_processes():
    found = sum(masked_places(8, 0.5, Noise(seed)).double() for seed in range(2000)) / 2000
    torch.testing.assert_close(found, torch.full((8,), 0.5).double(), atol=0.05, rtol=0)
    noise = [Noise(3, (), rank, 2) for rank in (0, 1)]
    assert torch.equal(*(masked_places(64, 0.5, one) for one in noise))


def test_ratios_occur_with_their_probabilities_at_the_same_places_of_all_images():
    part, z = create("regularizers", "masked", spec=SPEC), torch.randn(3, 16, 3)
    changed = [(shown(part, z, index) != z).any(-1) for index in range(1000)]
    assert all((places == places[0]).all() for places in changed)
    counts = Counter(int(places[0].sum()) for places in changed)
    assert counts.keys() == {0, 4, 8, 12}
    for count, probability in {0: 0.7, 4: 0.1, 8: 0.1, 12: 0.1}.items():
        assert abs(counts[count] / 1000 - probability) < 4 * (probability * (1 - probability) / 1000) ** 0.5


def test_the_tokens_gradient_is_the_sum_over_the_replaced_places():
    z, token = torch.randn(2, 6, 3), torch.zeros(3, requires_grad=True)
    places = torch.tensor([True, False, True, False, False, True])
    weight = torch.randn(2, 6, 3)
    (masked(z, token, places) * weight).sum().backward()
    torch.testing.assert_close(token.grad, weight[:, places].sum((0, 1)))


def test_unfit_latents_and_inconsistent_probabilities_are_refused():
    with pytest.raises(Unfit, match="4 tokens or more, not 2"):
        create("regularizers", "masked", spec=LatentSpec(2, 3))
    with pytest.raises(ValueError, match="with sum 1"):
        create("regularizers", "masked", spec=SPEC, probabilities=(0.5, 0.1, 0.1, 0.1))
