"""Latents that depend on their minibatch, drawn from sets in several orders."""

import torch

from latentbench.bench.api import LatentSpec, Noise
from latentbench.bench.models.latents import draw
from latentbench.bench.registry import create

CLASSES, TOKENS, CHANNELS, BATCH = 8, 2, 4, 32


def encoded(n=512):
    """Encoder outputs (n, T, C) around a mean for each class, and labels (n,) in turn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % CLASSES
    means = torch.randn(CLASSES, TOKENS, CHANNELS, generator=generator)
    return means[labels] + 0.5 * torch.randn(n, TOKENS, CHANNELS, generator=generator), labels


def between_classes(z, labels):
    """The share of the variance of latents (n, T, C) that lies between classes."""
    z = z.flatten(1).double()
    means = torch.stack([z[labels == label].mean(0) for label in labels.unique()])
    total = (z - z.mean(0)).square().sum()
    return float(((means - z.mean(0)).square().sum(1) * labels.bincount()).sum() / total)


def lzn():
    spec = LatentSpec(TOKENS, CHANNELS)
    return create("regularizers", "lzn", spec=spec, classes=CLASSES, steps=10).eval()


def shares(noise):
    """The share of variance between classes, with classes in turn and sorted."""
    h, labels = encoded()
    found = []
    for order in (torch.arange(len(labels)), labels.argsort(stable=True)):
        z = draw(lzn(), h[order], labels[order], noise, BATCH, "cpu")
        found.append(between_classes(z, labels[order]))
    return found


def test_a_set_that_is_sorted_by_class_has_the_latents_of_a_mixed_one():
    for noise in (None, Noise(0, ("latents",))):
        in_turn, sorted_by_class = shares(noise)
        assert abs(in_turn - sorted_by_class) < 0.03, (in_turn, sorted_by_class)


def test_minibatches_of_one_class_would_lose_the_classes():
    h, labels = encoded()
    order = labels.argsort(stable=True)
    alone = torch.cat([lzn().latent(part, None, None) for part in h[order].split(BATCH)])
    assert between_classes(alone, labels[order]) < shares(None)[0] - 0.2


def test_latents_stand_at_their_images_and_the_surplus_of_the_last_minibatch_is_dropped():
    h, labels = encoded(100)  # three minibatches of 32 and one of 4

    class Own(torch.nn.Module):
        couples = "latent"

        def latent(self, h, noise, labels):
            assert len(h) == BATCH
            return h

    assert torch.equal(draw(Own(), h, labels, None, BATCH, "cpu"), h)
    assert torch.equal(draw(Own(), h[:5], labels[:5], None, BATCH, "cpu"), h[:5])


def test_another_draw_has_other_minibatches():
    h, labels = encoded(64)
    seen = []

    class Seen(torch.nn.Module):
        couples = "latent"

        def latent(self, h, noise, labels):
            seen.append({tuple(row.flatten().tolist()) for row in h})
            return h

    for name in ("a", "b"):
        draw(Seen(), h, labels, Noise(0, (name,)), BATCH, "cpu")
    assert seen[0] != seen[2] and seen[0] | seen[1] == seen[2] | seen[3]
