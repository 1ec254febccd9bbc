"""The cosine alignment: its range and invariances, and which tokens meet which."""

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step, Unfit
from latentbench.regularizers.repa import REPA, cosine_loss, regrid


def step_with(features):
    return Step(0, torch.zeros(len(features), 1, 2, 2), None, Noise(0), lambda z: z, features)


def test_the_loss_is_minus_one_for_parallel_and_zero_for_orthogonal_tokens():
    f = torch.randn(2, 3, 4)
    assert cosine_loss(3 * f, f).item() == pytest.approx(-1)
    assert cosine_loss(-f, f).item() == pytest.approx(1)
    east, north = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]])
    assert cosine_loss(east, north).item() == 0
    assert cosine_loss(torch.cat((east, north), 1), torch.cat((east, east), 1)).item() == pytest.approx(-0.5)


def test_a_finer_teacher_grid_is_averaged_cell_by_cell():
    maps = torch.arange(16.0).reshape(1, 16, 1)  # values in row order on 4 x 4
    rows = maps.reshape(4, 4)
    expected = [rows[i : i + 2, j : j + 2].mean().item() for i in (0, 2) for j in (0, 2)]
    assert regrid(maps, (4, 4), (2, 2)).flatten().tolist() == expected


def test_a_coarser_teacher_grid_is_repeated():
    maps = torch.arange(4.0).reshape(1, 4, 1)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert regrid(maps, (2, 2), (4, 4)).reshape(4, 4).tolist() == expected


def test_grids_of_equal_size_and_unlike_shape_are_still_resampled():
    regularizer = REPA(LatentSpec(4, 3, (4, 1)), LatentSpec(4, 1, (1, 4)), weight=1.0)
    z = torch.randn(2, 4, 3)
    features = torch.tensor([1.0, 1.0, 1.0, -5.0]).reshape(1, 4, 1).expand(2, 4, 1)
    # Each row of the latent's grid covers the whole row of the teacher's, whose mean is negative.
    expected = cosine_loss(regularizer.projector(z), -torch.ones(2, 4, 1))
    torch.testing.assert_close(regularizer.loss(z, z, step_with(features))["repa"], expected)


def test_a_latent_without_a_grid_needs_as_many_tokens_as_the_teacher():
    with pytest.raises(Unfit, match="6 latent tokens .* 16 teacher tokens: the latent has no grid"):
        REPA(LatentSpec(6, 3), LatentSpec(16, 5, (4, 4)))
    with pytest.raises(Unfit, match="the teacher has no grid"):
        REPA(LatentSpec(16, 3, (4, 4)), LatentSpec(1, 5))
    REPA(LatentSpec(16, 3), LatentSpec(16, 5, (4, 4)))


def test_training_the_encoder_alone_aligns_it():
    torch.manual_seed(0)
    regularizer = REPA(LatentSpec(4, 3, (2, 2)), LatentSpec(4, 5, (2, 2)), weight=1.0, width=16)
    z, features = torch.randn(8, 4, 3, requires_grad=True), torch.randn(8, 4, 5)
    optimizer = torch.optim.Adam([z], lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(regularizer.loss(z, z, step_with(features))["repa"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2
