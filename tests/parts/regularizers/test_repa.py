"""Alignments with a teacher: their ranges, margins and invariances, and which tokens meet which."""

import math

import pytest
import torch

from latentbench.bench.api import LatentSpec, Noise, Step, Unfit
from latentbench.bench.nn.teacher_alignment import cosine_loss, regrid
from latentbench.regularizers.repa import REPA, VF, SoftVQAlign, vf_loss


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


def test_both_vf_terms_are_zero_for_positive_multiples_of_the_teacher_s_tokens():
    f = torch.randn(3, 5, 7, dtype=torch.float64)
    scales = torch.rand(3, 5, 1, dtype=torch.float64) + 0.1
    cos, dist = vf_loss(scales * f, f, 0.0, 0.0)
    assert abs(cos) < 1e-12 and abs(dist) < 1e-12
    cos, dist = vf_loss(-f, f, 0.0, 0.0)  # the pairs' similarities stay as they are
    assert cos.item() == pytest.approx(2) and abs(dist) < 1e-12


@pytest.mark.parametrize("degrees", [20, 59, 61, 120])
def test_the_vf_margins_forgive_up_to_their_threshold(degrees):
    turn = math.radians(degrees)
    east, north, turned = (
        torch.tensor(v, dtype=torch.float64) for v in ([1, 0], [0, 1], [math.cos(turn), math.sin(turn)])
    )
    cos, _ = vf_loss(5 * turned.reshape(1, 1, 2), east.reshape(1, 1, 2), 0.5, 0.25)
    assert cos.item() == pytest.approx(max(0, 0.5 - math.cos(turn)), abs=1e-12)  # forgives up to 60 degrees
    _, dist = vf_loss(torch.stack((east, turned))[None], torch.stack((east, north))[None], 0.5, 0.25)
    # Of the four pairs two are a token with itself.
    assert dist.item() == pytest.approx(max(0, abs(math.cos(turn)) - 0.25) / 2, abs=1e-12)


def test_the_vf_terms_are_what_loops_over_tokens_and_pairs_say():
    z, f = torch.randn(2, 3, 4, 5, dtype=torch.float64)

    def cosine(a, b):
        return (a @ b / (a.norm() * b.norm())).item()

    near = [max(0, 1 - 0.3 - cosine(z[b, i], f[b, i])) for b in range(3) for i in range(4)]
    apart = [
        max(0, abs(cosine(z[b, i], z[b, j]) - cosine(f[b, i], f[b, j])) - 0.2)
        for b in range(3)
        for i in range(4)
        for j in range(4)
    ]
    cos, dist = vf_loss(z, f, 0.3, 0.2)
    assert cos.item() == pytest.approx(sum(near) / 12, abs=1e-12)
    assert dist.item() == pytest.approx(sum(apart) / 48, abs=1e-12)


def test_vf_leaves_its_weight_to_the_balance():
    losses = []
    for weight in (0.1, 5.0):
        torch.manual_seed(0)
        regularizer = VF(LatentSpec(4, 3, (2, 2)), LatentSpec(4, 5, (2, 2)), weight=weight)
        assert regularizer.balanced == {"vf": weight} and regularizer.projector.bias is None
        losses.append(regularizer.loss(torch.randn(2, 4, 3), None, step_with(torch.randn(2, 4, 5)))["vf"])
    assert losses[0].item() == losses[1].item() > 0


def softvq(tokens, teacher, mode):
    """With the identity for its projector."""
    regularizer = SoftVQAlign(LatentSpec(tokens, 5), LatentSpec(teacher, 5), mode=mode, weight=1.0)
    regularizer.projector = torch.nn.Identity()
    return lambda z, f: regularizer.loss(z, z, step_with(f))["softvq_align"]


def test_a_repeated_token_meets_the_teacher_s_next_four_in_raster_order():
    loss, f = softvq(3, 12, "repeat"), torch.randn(2, 12, 5, dtype=torch.float64)
    z = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert loss(f[:, ::4], f[:, ::4].repeat_interleave(4, 1)).item() == pytest.approx(-1)
    # A token's loss is that of its own four alone.
    (whole,) = torch.autograd.grad(loss(z, f), z)
    for token in range(3):
        (part,) = torch.autograd.grad(softvq(1, 4, "repeat")(z[:, [token]], f[:, 4 * token :][:, :4]), z)
        assert torch.allclose(part[:, token] / 3, whole[:, token], atol=1e-12)


@pytest.mark.parametrize("mode", ["repeat", "average", "global"])
def test_softvq_s_alignment_does_not_depend_on_scale(mode):
    z, f = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 12, 5, dtype=torch.float64)
    loss = softvq(3, 12, mode)
    assert loss(7 * z, 0.2 * f).item() == pytest.approx(loss(z, f).item(), abs=1e-12)


def test_softvq_s_other_modes_compare_means():
    z, f = torch.randn(2, 3, 5), torch.randn(2, 12, 5)
    means = torch.stack([f[:, 4 * i : 4 * i + 4].mean(1) for i in range(3)], 1)
    torch.testing.assert_close(softvq(3, 12, "average")(z, f), cosine_loss(z, means))
    torch.testing.assert_close(softvq(3, 12, "global")(z, f), cosine_loss(z.mean(1), f.mean(1)))


def test_tokens_that_do_not_divide_the_teacher_s_cannot_be_repeated():
    with pytest.raises(Unfit, match="5 latent tokens cannot be repeated to 12 teacher tokens"):
        SoftVQAlign(LatentSpec(5, 3), LatentSpec(12, 5))
    SoftVQAlign(LatentSpec(5, 3), LatentSpec(12, 5), mode="average")
