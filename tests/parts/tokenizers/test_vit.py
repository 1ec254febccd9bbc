"""The style `detok` of `vit` against l-DeTok's formulas, in double precision and one token at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from latentbench.bench.api import ImageSpec, Noise
from latentbench.tokenizers.vit import RotaryBlock, RotaryTrunk, ViT

IMAGE = ImageSpec(3, 8, 12)
SMALL = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "channels": 3}


def detok(image=IMAGE, **options):
    torch.manual_seed(0)
    return ViT(image, 1, style="detok", **{**SMALL, **options})


def turn(angle):
    cosine, sine = math.cos(angle), math.sin(angle)
    return torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)


def turned(x, place, grid):
    """x (D) times rotation matrices: the first half of the pairs by the row, the second by the column."""
    count = len(x) // 4
    places = [k / (side - 1) if side > 1 else 0 for k, side in zip(place, grid, strict=True)]
    cycles = [7 * (7 / 7e-4) ** -(k / (count - 1)) for k in range(count)]
    angles = [2 * math.pi * cycle * where for where in places for cycle in cycles]
    return torch.cat([turn(angle) @ pair for angle, pair in zip(angles, x.view(-1, 2), strict=True)])


def normed(x, gain):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def by_hand(block, x, grid, heads):
    """A block on tokens x (T, D) of a grid, then tokens without a place."""
    places = [divmod(k, grid[1]) for k in range(grid[0] * grid[1])]
    places += [(0, 0)] * (len(x) - len(places))  # angles of zero
    q, k, v = F.linear(normed(x, block.norm1.weight), *block.attention.qkv.parameters()).chunk(3, dim=1)
    outputs = []
    for head in torch.arange(x.shape[1]).chunk(heads):
        queries, keys = (
            torch.stack([turned(row, place, grid) for row, place in zip(y[:, head], places, strict=True)])
            for y in (q, k)
        )
        outputs.append((queries @ keys.T / len(head) ** 0.5).softmax(-1) @ v[:, head])
    x = x + F.linear(torch.cat(outputs, 1), *block.attention.output.parameters())
    gate, value = F.linear(normed(x, block.norm2.weight), *block.mlp.fc1.parameters()).chunk(2, dim=1)
    return x + F.linear(F.silu(gate) * value, *block.mlp.fc2.parameters())


@pytest.mark.parametrize("latents", [0, 2])
def test_blocks_are_those_of_the_formulas(latents):
    torch.manual_seed(0)
    grid, x = (2, 3), torch.randn(6 + latents, 16).double()
    trunk = RotaryTrunk(16, 2, 2, grid, latents).double()
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    expected = normed(x, trunk.norm.weight)
    for block in trunk.blocks:
        expected = by_hand(block, expected, grid, 2)
    expected = normed(expected, trunk.last_norm.weight)
    # The table of rotations is made in single precision.
    torch.testing.assert_close(trunk(x[None])[0], expected, rtol=1e-5, atol=1e-5)


def test_the_gated_mlp_is_two_thirds_of_four_times_the_width():
    block = RotaryBlock(512, 8)
    assert block.mlp.fc1.out_features == 2 * 1365 and block.mlp.fc2.in_features == 1365


def test_another_grid_is_decoded_as_by_a_tokenizer_of_images_of_that_size():
    model, grid = detok().eval(), (3, 2)
    other = detok(ImageSpec(3, 12, 8)).eval()
    weights = model.decoder.state_dict() | {"positions": model.decoder.positions_on(grid)}
    other.decoder.load_state_dict(weights)
    z = torch.randn(2, 6, 3)
    with torch.no_grad():
        torch.testing.assert_close(model.decode(z, grid=grid), other.decode(z))
        assert not torch.allclose(model.decode(z, grid=grid), model.decode(z).reshape(2, 3, 12, 8), atol=1e-3)


def test_the_last_layer_is_a_convolution_of_the_pixels():
    model, z = detok().eval(), torch.randn(2, 6, 3)
    with torch.no_grad():
        image = model.decode(z)
        smooth, model.decoder.smooth = model.decoder.smooth, torch.nn.Identity()
        torch.testing.assert_close(image, F.conv2d(model.decode(z), smooth.weight, smooth.bias, padding=1))
    assert detok().heads["decoder"].shape == (3, 3, 3, 3)
    plain = ViT(IMAGE, 1, **SMALL)
    assert plain.heads["decoder"] is plain.decoder.head.weight


def test_hidden_patches_keep_their_places():
    model, images = detok(mask=(1.0, 1.0)), torch.randn(2, 3, 8, 12)
    h = model.encode_in_training(images, Noise(0))
    assert torch.equal(h[0], h[1]) and not torch.allclose(h[0, 0], h[0, 1])


def test_heads_must_have_pairs_of_channels_for_both_axes():
    with pytest.raises(ValueError, match="width = 12 is not divisible by 4 x heads = 8"):
        detok(width=12, heads=2)
