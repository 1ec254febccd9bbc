"""The auxiliary decoder against symmetries of attention, numpy's cosines and teachers of known kinds."""

import numpy as np
import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step
from latentbench.regularizers.auxiliary_decoders import AuxiliaryDecoders, TokenDecoder

TEACHER = LatentSpec(9, 5, (3, 3))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(spec, teacher=TEACHER, **options):
    torch.manual_seed(0)
    return AuxiliaryDecoders(spec, teacher, **{"width": 16, "heads": 2} | options).double()


def step(features):
    return Step(0, torch.zeros(len(features), 1, 2, 2), None, Noise(0), lambda z: z, features)


@pytest.mark.parametrize("spec", [LatentSpec(4, 3, (2, 2)), LatentSpec(4, 3), LatentSpec(20, 3)])
def test_any_number_of_latents_meets_any_grid_of_the_teacher(spec):
    regularizer, z, features = made(spec, weight=0.7), randn(2, spec.tokens, 3), randn(2, 9, 5, seed=1)
    found = regularizer.loss(z, z, step(features))["auxiliary_decoders"]
    decoded = regularizer.decoder(z).detach().numpy().reshape(-1, 5)
    pairs = zip(decoded, features.numpy().reshape(-1, 5), strict=True)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    assert len(cosines) == 18
    assert found.item() == pytest.approx(-0.7 * np.mean(cosines), abs=1e-12)


def test_the_loss_ignores_the_lengths_of_the_teacher_s_tokens():
    regularizer, z, features = made(LatentSpec(4, 3)), randn(2, 4, 3), randn(2, 9, 5, seed=1)
    lengths = randn(2, 9, 1, seed=2).abs() + 0.1
    one, other = (
        regularizer.loss(z, z, step(f))["auxiliary_decoders"] for f in (features, features * lengths)
    )
    torch.testing.assert_close(one, other)


def test_tokens_are_told_apart_by_their_positions_alone():
    decoder, z = made(LatentSpec(6, 3)).decoder, randn(2, 6, 3)
    before, order, places = decoder(z), torch.tensor([3, 0, 5, 1, 4, 2]), torch.randperm(9)
    assert not torch.allclose(decoder(z[:, order]), before)
    with torch.no_grad():
        decoder.positions.copy_(decoder.positions[:, order])
    torch.testing.assert_close(decoder(z[:, order]), before)
    with torch.no_grad():
        decoder.queries.copy_(decoder.queries[:, places])
    torch.testing.assert_close(decoder(z[:, order]), before[:, places])


def test_descending_it_writes_the_teacher_s_tokens_into_latents_without_a_grid():
    """Latents that start without any word of the image end with a teacher that can be read from them."""
    regularizer = made(LatentSpec(4, 3), weight=1.0, depth=1).float()
    classes = torch.arange(12) % 4
    features = randn(4, 9, 5, seed=3).float()[classes]
    z = (0.01 * randn(12, 4, 3)).float().requires_grad_()
    optimizer = torch.optim.Adam([z, *regularizer.parameters()], lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = regularizer.loss(z, z, step(features))["auxiliary_decoders"]
        loss.backward()
        optimizer.step()
    assert loss < -0.95
    with torch.no_grad():  # by the latents: those of other images' teachers fit as little as chance
        assert regularizer.loss(z.roll(1, 0), z, step(features))["auxiliary_decoders"] > -0.5


def test_heads_that_do_not_divide_the_width_are_named():
    with pytest.raises(ValueError, match="width = 16 is not divisible by heads = 3"):
        made(LatentSpec(4, 3), heads=3)


def test_the_tokens_of_a_decoder_are_of_its_target():
    assert TokenDecoder(LatentSpec(2, 3), LatentSpec(7, 4), 8, 1, 2)(torch.zeros(5, 2, 3)).shape == (5, 7, 4)
