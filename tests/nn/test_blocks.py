"""Embeddings, positions and the per-token network against their definitions and published sizes."""

import math

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.flow import with_unconditional
from latentbench.bench.nn.blocks import (
    LabelEmbedding,
    TokenMLP,
    drop_labels,
    modulate,
    position_table,
    rotary_table,
    rotate,
    sinusoid,
)

GRID, ROW = LatentSpec(12, 8, (3, 4)), LatentSpec(12, 8)


def test_a_sinusoid_is_cosines_then_sines_of_falling_frequencies():
    values = sinusoid(torch.tensor([0.7]))[0]
    assert values.shape == (256,)
    assert values[0].item() == pytest.approx(math.cos(0.7))
    assert values[128].item() == pytest.approx(math.sin(0.7))
    assert values[64].item() == pytest.approx(
        math.cos(0.7 / 100)
    )  # half of 128 frequencies down: 10000^(-1/2)


def test_modulation_is_an_affine_map():
    x, shift, scale = torch.randn(2, 3, 4), torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)


@pytest.mark.parametrize("spec", [GRID, ROW])
def test_rotary_attention_depends_on_relative_positions_only(spec):
    table = rotary_table(spec, 8)
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    logits = rotate(query.expand(12, -1), table) @ rotate(key.expand(12, -1), table).T
    if spec.grid:
        logits = logits.reshape(3, 4, 3, 4)
        torch.testing.assert_close(logits[0, 0, 1, 2], logits[1, 1, 2, 3], rtol=1e-4, atol=1e-4)
        assert not torch.isclose(logits[0, 0, 1, 2], logits[0, 0, 2, 1])
    else:
        torch.testing.assert_close(logits[0, 3], logits[8, 11], rtol=1e-4, atol=1e-4)
        assert not torch.isclose(logits[0, 3], logits[3, 0])


def test_rotation_keeps_norms_and_leaves_the_first_token():
    x = torch.randn(2, 4, 12, 8)
    turned = rotate(x, rotary_table(GRID, 8))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])


def test_rotation_keeps_half_precision():
    assert rotate(torch.randn(12, 8, dtype=torch.bfloat16), rotary_table(GRID, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize("spec", [GRID, ROW])
def test_every_token_has_a_position_of_its_own(spec):
    table = position_table(spec, 16)
    assert table.shape == (12, 16)
    assert (torch.cdist(table, table) + torch.eye(12)).min() > 0.1


def test_labels_minus_one_and_none_and_classless_models_share_the_last_row():
    embed = LabelEmbedding(3, 4)
    table = embed.table.weight
    assert torch.equal(embed(torch.tensor([2, -1, 0]), 3), table[[2, 3, 0]])
    assert torch.equal(embed(None, 2), table[[3, 3]])
    unconditional = LabelEmbedding(0, 4)
    assert torch.equal(unconditional(torch.tensor([5, -1]), 2), unconditional.table.weight[[0, 0]])


def test_labels_are_dropped_at_the_rate_asked_for():
    labels = torch.arange(1, 20_001)
    dropped = drop_labels(labels, 0.1, Noise(0))
    assert abs((dropped == -1).float().mean() - 0.1) < 0.01
    assert torch.equal(dropped[dropped >= 0], labels[dropped >= 0])
    assert drop_labels(None, 0.1, Noise(0)) is None
    assert drop_labels(labels, 0.0, Noise(0)) is labels


def test_both_branches_of_guidance_are_one_batch():
    assert with_unconditional(torch.tensor([3, 4])).tolist() == [3, 4, -1, -1]


@pytest.mark.parametrize(("channels", "parameters"), [(32, 34_978_848), (8, 34_929_672), (2, 34_917_378)])
def test_flow_priors_network_has_its_published_size(channels, parameters):
    with torch.device("meta"):
        net = TokenMLP(channels, channels, 1024, 6)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_an_untrained_token_network_returns_zero_and_tokens_do_not_mix():
    net = TokenMLP(3, 3, 16, 2, condition=5)
    x, t, condition = torch.randn(2, 4, 3), torch.rand(2, 4), torch.randn(2, 4, 5)
    assert not net(x, t, condition).any()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    other = x.clone()
    other[:, 0] += 1
    changed = (net(other, t, condition) != net(x, t, condition)).any(-1)
    assert changed[:, 0].all() and not changed[:, 1:].any()


def test_a_shared_time_equals_the_same_time_for_each_token():
    net = TokenMLP(3, 3, 16, 2)
    torch.nn.init.normal_(net.output.weight)
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(net(x, torch.tensor([[0.3]])), net(x, torch.full((2, 4), 0.3)))
