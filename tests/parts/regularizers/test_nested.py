"""Channel prefixes: their law, their zeros, and what a linear code owes to the order of its channels."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step, Unfit
from latentbench.bench.registry import create
from latentbench.regularizers.nested import prefix, prefixes


def test_a_prefix_has_zeros_behind_it_and_passes_no_gradient_there():
    z = torch.randn(2, 5, 4, requires_grad=True)
    prefix(z, 3).sum().backward()
    assert torch.equal(prefix(z, 3)[..., :3], z[..., :3]) and not prefix(z, 3)[..., 3:].any()
    assert torch.equal(z.grad, torch.tensor([1.0, 1, 1, 0]).expand(2, 5, 4))
    assert torch.equal(prefix(z, 4), z)


def test_prefixes_are_multiples_of_the_stride_and_always_the_whole():
    assert prefixes(32, 16, 4) == [16, 20, 24, 28, 32]
    assert prefixes(6, 1, 4) == [1, 5, 6]
    assert prefixes(8, 8, 1) == [8]


def test_all_prefixes_are_equally_frequent_and_shared_by_a_batch():
    part, z = create("regularizers", "nested", spec=LatentSpec(4, 9), stride=2), torch.ones(3, 4, 9)
    kept = []
    for index in range(900):
        step = Step(index, torch.zeros(3, 1, 2, 2), None, Noise(index), lambda z: z)
        counts = part.shown(z, step)[0].z.sum(-1).unique()
        assert len(counts) == 1
        kept.append(int(counts))
    assert {*kept} == {2, 4, 6, 8, 9}  # the default `least` is an eighth, rounded up
    assert all(abs(kept.count(n) / 900 - 0.2) < 0.06 for n in {*kept})


def test_permuted_channels_of_a_random_linear_code_lose_as_much_in_expectation():
    generator = torch.Generator().manual_seed(0)
    z, decoder = torch.randn(20_000, 1, 6, generator=generator), torch.randn(6, 6, generator=generator)
    order = torch.randperm(6, generator=generator)
    errors = [
        ((prefix(code, kept) - code) @ matrix).square().sum(-1).mean()
        for code, matrix in ((z, decoder), (z[..., order], decoder[order]))
        for kept in (0, 6)
    ]
    torch.testing.assert_close(errors[0], errors[2])  # no channel, or all: no order
    assert errors[1] == errors[3] == 0


def test_unfit_latents_and_prefixes_beyond_the_channels_are_refused():
    with pytest.raises(Unfit, match="2 channels or more"):
        create("regularizers", "nested", spec=LatentSpec(4, 1))
    with pytest.raises(ValueError, match="least 9 exceeds the latent's 8 channels"):
        create("regularizers", "nested", spec=LatentSpec(4, 8), least=9)
