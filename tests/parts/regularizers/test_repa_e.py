"""REPA-E: whose gradient reaches whom, and the latents' whitening."""

from pathlib import Path

import pytest
import torch
from torch import nn

from latentbench.bench.api import Dataset, ImageSpec, LatentSpec, Noise, Regularizer, Step
from latentbench.bench.flow import interpolate
from latentbench.bench.nn.teacher_alignment import cosine_loss
from latentbench.bench.registry import get
from latentbench.bench.training.context import Context
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.tokenizer import train_tokenizer
from latentbench.regularizers.repa import REPAE, Whitening

SPEC, TEACHER = LatentSpec(4, 3, (2, 2)), LatentSpec(16, 5, (4, 4))
SMALL = {"use": "lightningdit", "width": 16, "depth": 2, "heads": 2}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(**options):
    """In float64, with its zero-initialised layers moved so that they say something."""
    torch.manual_seed(0)
    regularizer = REPAE(SPEC, 10, TEACHER, **{"prior": SMALL, "tap": 1, "width": 8, **options}).double()
    for p in regularizer.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    return regularizer


def step(index=0, fork="loss", n=6):
    images, labels = torch.zeros(n, 1, 8, 8), torch.arange(n)
    return Step(index, images, labels, Noise(3).fork(fork), lambda z: z, randn(n, 16, 5, seed=1))


def buffers(regularizer):
    return {name: tensor.clone() for name, tensor in regularizer.named_buffers()}


def test_the_encoder_s_gradient_is_that_of_the_alignment_alone():
    regularizer, z = build(weight=1.5), randn(6, 4, 3).mul(2).add(1).requires_grad_()
    regularizer.begin(randn(6, 4, 3))
    losses = regularizer.loss(z, z, step())
    (gradient,) = torch.autograd.grad(losses["repa_e"], z)
    joint, noise = regularizer.joint, Noise(3, ("repa_e", "0"))
    white = (z - joint.whitening.running_mean) / (joint.whitening.running_var + 1e-4).sqrt()
    t, start = noise.uniform(z[:, 0, 0], "t"), noise.normal(z, "noise")
    v, hidden = joint.flow.velocity(interpolate(white, start, t), t, torch.arange(6), 1)
    pooled = nn.functional.avg_pool2d(step().features.mT.unflatten(2, (4, 4)), 2).flatten(2).mT
    alignment = 1.5 * cosine_loss(joint.projector(hidden), pooled)
    (expected,) = torch.autograd.grad(alignment, z, retain_graph=True)
    (other,) = torch.autograd.grad((v - (white - start)).square().mean(), z)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-10)
    assert other.norm() > gradient.norm()  # what it would be with the denoising loss


def test_the_generator_s_loss_is_both_on_the_batch_s_own_statistics():
    regularizer, z = build(generator_weight=0.5, label_dropout=0.0), randn(6, 4, 3).mul(2).add(1)
    loss = regularizer.critic_loss("generator", z, step())
    joint, noise = regularizer.joint, Noise(3, ("repa_e", "0"))
    flat = z.flatten(0, 1)
    white = (z - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-4).sqrt()
    t, start = noise.uniform(z[:, 0, 0], "t"), noise.normal(z, "noise")
    v, hidden = joint.flow.velocity(interpolate(white, start, t), t, torch.arange(6), 1)
    pooled = nn.functional.avg_pool2d(step().features.mT.unflatten(2, (4, 4)), 2).flatten(2).mT
    expected = (v - (white - start)).square().mean() + 0.5 * cosine_loss(joint.projector(hidden), pooled)
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-10)


def test_both_losses_of_an_update_see_the_same_times_and_noise_and_the_next_others():
    regularizer, z = build(label_dropout=0.0), randn(6, 4, 3)
    seen = []
    plain = regularizer.joint.flow.velocity

    def velocity(x, t, labels, tap):
        seen.append((x.detach(), t))
        return plain(x, t, labels, tap)

    regularizer.joint.flow.velocity = velocity
    regularizer.joint.whitening.momentum = 0.0
    regularizer.joint.whitening.running_mean += z.mean((0, 1))
    regularizer.joint.whitening.running_var.copy_(
        z.flatten(0, 1).var(0, unbiased=False)
    )  # as the batch's own
    regularizer.loss(z, z, step(fork="loss"))
    regularizer.critic_loss("generator", z, step(fork="critic"))
    regularizer.loss(z, z, step(index=1))
    torch.testing.assert_close(seen[0][0], seen[1][0], atol=1e-12, rtol=0)
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.isclose(seen[0][1], seen[2][1]).any()


def test_whitening_is_torch_s_batch_norm_and_inverts_exactly():
    ours, theirs = Whitening(3).double(), nn.BatchNorm1d(3, eps=1e-4, affine=False).double()
    for seed in range(3):
        z = randn(6, 4, 3, seed=seed).mul(3).sub(1)
        torch.testing.assert_close(ours(z), theirs(z.flatten(0, 1)).unflatten(0, (6, 4)), atol=1e-12, rtol=0)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.running_var, theirs.running_var, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours(z), theirs(z.flatten(0, 1)).unflatten(0, (6, 4)), atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.inverse(ours(z)), z, atol=1e-12, rtol=0)


def test_statistics_start_at_the_first_latents_and_move_with_the_generator_alone():
    regularizer, z = build(), randn(6, 4, 3).mul(2).add(1)
    regularizer.begin(z)
    whitening = regularizer.joint.whitening
    torch.testing.assert_close(whitening.running_mean, z.mean((0, 1)))
    torch.testing.assert_close(whitening.running_var, z.flatten(0, 1).var(0))
    before = buffers(regularizer)
    regularizer.loss(3 * z, z, step())
    assert all(torch.equal(value, before[name]) for name, value in regularizer.named_buffers())
    regularizer.critic_loss("generator", 3 * z, step())
    torch.testing.assert_close(whitening.running_mean, (0.9 + 0.1 * 3) * z.mean((0, 1)))
    torch.testing.assert_close(whitening.running_var, (0.9 + 0.1 * 9) * z.flatten(0, 1).var(0))


def test_its_sampler_gives_latents_in_the_tokenizer_s_units():
    regularizer, z = build(), randn(6, 4, 3).mul(5).add(2)
    regularizer.begin(z)
    joint, labels = regularizer.generator().eval(), torch.arange(8)
    inner = joint.flow.sample(labels, 1.5, Noise(0), steps=3)
    sampled = joint.sample(labels, 1.5, Noise(0), steps=3)
    torch.testing.assert_close(sampled, inner * (z.flatten(0, 1).var(0) + 1e-4).sqrt() + z.mean((0, 1)))


def test_any_flow_with_the_block_can_be_the_generator():
    REPAE(SPEC, 0, TEACHER, prior={"use": "velocity_mlp", "width": 8, "depth": 1}, tap=1)
    with pytest.raises(ValueError, match="tap = 3 is none of lightningdit's blocks 1 to 2"):
        build(tap=3)


class Squares(Dataset):
    image, classes = ImageSpec(1, 4, 4), 0

    def size(self, split):
        return 16

    def images(self, split, index):
        return torch.linspace(-1, 1, 256).reshape(16, 1, 4, 4)[index]

    def labels(self, split):
        return None


def encoder_after(folder: Path, method, **options):
    """The encoder's weights after three updates of the loop."""
    torch.manual_seed(0)
    tokenizer = get("tokenizers", "vit")(Squares.image, 1, width=8, depth=1, heads=2, patch=2, channels=3)
    regularizer = method(SPEC, **options)
    folder.mkdir()
    train_tokenizer(
        tokenizer,
        regularizer,
        Squares(),
        Objective({"l1": Term(1.0, l1)}),
        TrainingBudget(3, 8),
        seed=0,
        optimizer=({}, {}),
        context=Context(folder),
        teacher=lambda images, index: randn(16, 16, 5).float()[index],
    )
    return nn.utils.parameters_to_vector(tokenizer.encoder.parameters())


def test_in_the_loop_a_joint_generator_without_alignment_leaves_the_tokenizer_as_none_does(tmp_path):
    options = {"classes": 0, "teacher_spec": TEACHER, "prior": SMALL, "tap": 1, "width": 8}
    plain = encoder_after(tmp_path / "none", Regularizer)
    joint = encoder_after(tmp_path / "joint", REPAE, weight=0.0, **options)
    aligned = encoder_after(tmp_path / "aligned", REPAE, **options)
    assert torch.equal(plain, joint) and not torch.equal(plain, aligned)
