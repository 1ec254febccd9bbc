"""Noise is a function of names; a reference is projected the same way for every row."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Reference
from latentbench.bench.api.noise import BLOCK, WHOLE

LIKE = torch.empty(6, 3, 2)


def test_a_draw_is_a_function_of_seed_stream_and_tag():
    first, again = Noise(1).fork("a").fork(2), Noise(1).fork("a").fork(2)
    assert torch.equal(first.normal(LIKE, "x"), again.normal(LIKE, "x"))
    assert torch.equal(first.normal(LIKE, "x"), first.normal(LIKE, "x"))
    draws = [
        Noise(1).fork("a").normal(LIKE),
        Noise(2).fork("a").normal(LIKE),
        Noise(1).fork("b").normal(LIKE),
        Noise(1).fork("a").fork("b").normal(LIKE),
        Noise(1).fork("a").normal(LIKE, "b"),
        Noise(1).normal(LIKE, "a"),
        Noise(1).fork("ab").normal(LIKE),
        Noise(-1).fork("a").normal(LIKE),
    ]
    for i, one in enumerate(draws):
        assert not any(torch.equal(one, other) for other in draws[:i])


def test_draws_leave_torchs_global_generator_alone():
    state = torch.get_rng_state()
    Noise(0).normal(LIKE)
    Noise(0).uniform(LIKE)
    assert torch.equal(state, torch.get_rng_state())


def test_processes_draw_slices_of_the_global_batch():
    alone = Noise(3).fork("s").normal(LIKE, "x")
    for world in (2, 3, 6):
        rows = LIKE[: 6 // world]
        parts = [Noise(3, ("s",), rank, world).normal(rows, "x") for rank in range(world)]
        assert torch.equal(torch.cat(parts), alone)


@pytest.mark.parametrize("world", [2, 4, 7])
def test_large_draws_are_the_same_in_shares_of_any_size(world):
    whole = torch.empty(84, 128, 128)
    assert whole.numel() > WHOLE and 84 // world % BLOCK
    noise = Noise(3, ("s",)).normal(whole, "x")
    shares = [Noise(3, ("s",), rank, world).normal(whole[: 84 // world], "x") for rank in range(world)]
    assert torch.equal(torch.cat(shares), noise)
    rows = noise.flatten(1)
    assert (torch.corrcoef(rows) - torch.eye(84)).abs().max() < 6 / 128  # six deviations of independent rows
    assert abs(noise.mean()) < 0.005 and abs(noise.std() - 1) < 0.005


def test_a_scalar_is_shared_by_all_processes():
    values = {Noise(3, rank=rank, world=2).uniform(torch.empty(())).item() for rank in range(2)}
    assert len(values) == 1 and 0 <= values.pop() < 1


def test_a_draw_takes_the_dtype_and_device_of_its_model_and_not_its_values():
    exact = Noise(0).normal(LIKE)
    half = Noise(0).normal(LIKE.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and torch.equal(half, exact.to(torch.bfloat16))
    assert Noise(0).normal(LIKE.to("meta")).device.type == "meta"


def test_draws_have_the_moments_of_their_distributions():
    like = torch.empty(40_000)
    normal, uniform = Noise(5).normal(like), Noise(5).uniform(like)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.var().item() == pytest.approx(1, abs=0.03)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert uniform.var().item() == pytest.approx(1 / 12, rel=0.03)


def test_a_projected_reference_is_centred_with_unit_variance():
    generator = torch.Generator().manual_seed(0)
    samples = 7 + 3 * torch.randn(400, 4, 32, generator=generator)
    projected = Reference(samples, grid=(2, 2)).projected(LatentSpec(4, 8, (2, 2))).samples
    assert projected.shape == (400, 4, 8)
    torch.testing.assert_close(projected.mean((0, 1)), torch.zeros(8), atol=1e-4, rtol=0)
    assert projected.var().item() == pytest.approx(1, abs=0.3)  # over draws of the matrix it is 1


def test_projection_ignores_the_features_offset_and_scale():
    samples, spec = torch.randn(20, 4, 6), LatentSpec(4, 3, (2, 2))
    one = Reference(samples).projected(spec).samples
    other = Reference(100 * samples + torch.arange(6.0)).projected(spec).samples
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_projection_mixes_channels_and_never_tokens_and_is_the_same_each_time():
    samples = torch.randn(20, 4, 6)
    swapped = Reference(samples.flip(1)).projected(LatentSpec(4, 3)).samples
    torch.testing.assert_close(swapped.flip(1), Reference(samples).projected(LatentSpec(4, 3)).samples)


def test_tokens_are_pooled_onto_the_latents_grid():
    values = torch.arange(16.0).reshape(1, 16, 1)
    fine = Reference(torch.cat((values, values.flip(1))), torch.tensor([3, 4]), (4, 4))
    spec = LatentSpec(4, 1, (2, 2))
    coarse = fine.pooled(spec).projected(spec)
    assert coarse.grid == (2, 2) and coarse.labels.tolist() == [3, 4]
    cells = torch.tensor([2.5, 4.5, 10.5, 12.5]) - 7.5  # means of 2 x 2 cells about the mean
    ratio = coarse.samples[0, :, 0] / cells
    torch.testing.assert_close(ratio, ratio[:1].expand(4))
    along = fine.pooled(LatentSpec(8, 1)).samples[0, :, 0]  # without a grid: along the raster
    steps = along.diff()
    torch.testing.assert_close(steps, steps[:1].expand(7))


def test_a_projected_reference_has_tokens_and_no_means_of_tokens():
    tokens = torch.arange(160.0).reshape(10, 16, 1)
    fine, spec = Reference(tokens, torch.arange(10), (4, 4), fit=8), LatentSpec(4, 1, (2, 2))
    thin = fine.thinned(spec)
    assert (
        thin.samples.shape == (10, 4, 1) and thin.grid is None and (thin.labels, thin.fit) == (fine.labels, 8)
    )
    for own, all_of_it in zip(thin.samples.flatten(1).tolist(), tokens.flatten(1).tolist(), strict=True):
        assert len(set(own)) == 4 and set(own) <= set(all_of_it)  # its own, without replacement
    assert (
        len({tuple(row) for row in (thin.samples.flatten(1) % 16).tolist()}) > 5
    )  # at other positions in each
    assert torch.equal(thin.samples, fine.thinned(spec).samples)
    assert torch.equal(fine.projected(spec).samples, thin.standardised().samples)
    assert torch.equal(fine.thinned(LatentSpec(64, 1)).samples, tokens)


def test_an_unstructured_reference_stays_one_token():
    assert Reference(torch.randn(10, 1, 6)).projected(LatentSpec(4, 3, (2, 2))).samples.shape == (10, 1, 3)
