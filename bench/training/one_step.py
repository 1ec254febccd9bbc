"""Training steps of which costs are counted: of a tokenizer, a regularizer, losses or a generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward

from ..api import Generator, Noise, Regularizer, Step, Tokenizer
from ..models.latents import decode_batch
from .adversary import Adversary


def tokenizer_step(
    tokenizer: Tokenizer,
    regularizer: Regularizer,
    images: Tensor,
    labels: Tensor | None,
    features: Tensor | None,
    reference: Tensor | None,
    regularized: bool,
) -> None:
    """One training step, forward and backward; if `regularized`, with the regularizer's loss and critics.

    All parameters that require a gradient are trained, except those of priors.
    """
    critics = regularizer.critics()
    learned = {name: [p for p in net.parameters() if p.requires_grad] for name, net in critics.items()}
    for frozen in (*regularizer.priors().values(), *critics.values()):
        frozen.requires_grad_(False)
    noise = Noise(0, ("cost",))
    h = tokenizer.encode_in_training(images, noise.fork("encoder"))
    z = regularizer.latent(h, noise.fork("latent"), labels)

    def decode(z: Tensor) -> Tensor:
        return decode_batch(tokenizer, z, labels, noise.fork("decoder"))

    views = tokenizer.encode(images) if regularized and regularizer.two_views else None
    step = Step(0, images, labels, noise.fork("loss"), decode, features, reference, views)
    terms = tokenizer.loss(images, z, step)
    if terms is None:
        terms = {"l2": (decode(z) - images).square().mean()}
    added = regularizer.loss(z, h, step) if regularized else {}
    if not terms and not added:  # without any loss, count as if the encoder were trained
        added = {"encoder": h.square().mean()}
    backward(torch.stack([*terms.values(), *added.values()]).sum())
    for name in critics if regularized else ():
        for parameter in learned[name]:
            parameter.requires_grad_(True)
        for _ in range(regularizer.critic_steps):
            backward(regularizer.critic_loss(name, z.detach(), step))
    for _ in range(regularizer.critic_steps - 1 if critics and regularized else 0):
        with torch.no_grad():  # critics' further updates encode other images
            tokenizer.encode(images)


def regularizer_step(
    tokenizer: Tokenizer,
    regularizer: Regularizer,
    h: Tensor,
    images: Tensor,
    labels: Tensor | None,
    features: Tensor | None,
    reference: Tensor | None,
    critics: bool,
) -> None:
    """A regularizer's part of `tokenizer_step`, for a computed h (B, T, C * expansion).

    Latents and the regularizer's loss, forward and backward, or, with `critics`, one update of each critic.
    """
    networks = regularizer.critics()
    learned = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    for frozen in (*regularizer.priors().values(), *networks.values()):
        frozen.requires_grad_(False)
    noise, h = Noise(0, ("cost",)), h.detach().requires_grad_()
    z = regularizer.latent(h, noise.fork("latent"), labels)
    step = Step(0, images, labels, noise.fork("loss"), tokenizer.decode, features, reference)
    if not critics:
        backward(torch.stack([z.mean(), *regularizer.loss(z, h, step).values()]).sum())
        return
    for parameter in learned:
        parameter.requires_grad_(True)
    for name in networks:
        backward(regularizer.critic_loss(name, z.detach(), step))


def decoder_step(tokenizer: Tokenizer, z: Tensor, labels: Tensor | None) -> None:
    """The decoder's part of `tokenizer_step`, forward and backward, for latents z (B, T, C)."""
    images = decode_batch(tokenizer, z.detach().requires_grad_(), labels, Noise(0, ("cost",)))
    backward(images.square().mean())


def reconstruction_step(distance: nn.Module | None, adversary: Adversary | None, images: Tensor) -> None:
    """The part of `TokenizerTraining.train` that the networks in the reconstruction losses take.

    Images (B, c, H, W) serve as their own reconstructions: forward, backward to the reconstructions, then the
    discriminator's update.
    """
    rebuilt = images.detach().clone().requires_grad_()
    learned = [p for p in adversary.parameters() if p.requires_grad] if adversary is not None else []
    for parameter in learned:
        parameter.requires_grad_(False)
    terms = [(rebuilt - images).square().mean()]
    terms += [distance(rebuilt, images)] if distance is not None else []
    if adversary is not None:
        gan = adversary.eval().fooled(rebuilt, Noise(0, ("cost",)))
        if adversary.options.adaptive:
            for loss in (torch.stack(terms).sum(), gan):
                torch.autograd.grad(loss, rebuilt, retain_graph=True)
        terms.append(gan)
    backward(torch.stack(terms).sum())
    for parameter in learned:
        parameter.requires_grad_(True)
    if adversary is not None:
        backward(adversary.train().loss(images, rebuilt.detach(), Noise(0, ("cost",))))


def generator_step(generator: Generator, z: Tensor, labels: Tensor | None) -> None:
    """One training step of a generator, forward and backward; features of a teacher are 1 throughout."""
    teacher = generator.teacher_spec
    features = () if teacher is None else (z.new_ones(len(z), teacher.tokens, teacher.channels),)
    terms = generator.loss(z, labels, Noise(0, ("cost",)), *features)  # type: ignore[call-arg]
    backward(torch.stack(list(terms.values())).sum())


def backward(loss: Tensor) -> None:
    """`loss.backward()`, but under the modes of `counted`, which checkpoints need when they compute again."""
    once = (torch.ones_like(loss),)
    _engine_run_backward((loss,), once, False, False, (), allow_unreachable=True, accumulate_grad=True)
