"""The evaluator `inversion` with flows whose errors are known."""

import pytest
import torch
from helpers.fake_subject import FakeSubject
from torch import nn

from latentbench.bench.api import FlowTokenizer, ImageSpec, LatentSpec
from latentbench.bench.registry import create


class Shift(FlowTokenizer):
    """Draws an image by adding what z and the label say to noise; inverting leaves out a hundredth of it."""

    def __init__(self):
        super().__init__(ImageSpec(1, 8, 8), 1)
        self.spec, self.weight = LatentSpec(1, 1), nn.Parameter(torch.ones(()))

    def encode(self, images):
        return images.mean((1, 2, 3))[:, None, None]

    def shift(self, z, labels):
        return z[:, :, :, None] + labels[:, None, None, None]

    def drawn(self, x, z, labels):
        return x + self.weight * self.shift(z, labels)

    def inverted(self, images, z, labels):
        return images - 0.99 * self.weight * self.shift(z, labels)


def subject_of(tokenizer, **given):
    subject = FakeSubject(scope="tokenizer", tokenizer=tokenizer, **given)
    subject.regularizer = create("regularizers", "none", spec=LatentSpec(1, 1))
    return subject


def test_the_error_is_the_mean_length_of_what_is_lost():
    subject = subject_of(Shift(), train=300)
    evaluator = create("evaluators", "inversion", repeats=2)
    found = evaluator.run(subject)["reconstruction_l2"]
    means = subject.sets["train"].mean((1, 2, 3))
    lost = 0.01 * (means + torch.arange(300) % 10).abs() * 8  # 64 pixels
    assert found == pytest.approx(lost.mean().item(), rel=1e-4) and len(found.replicates) == 100
    assert found.classes["3"] == pytest.approx(lost[3::10].mean().item(), rel=1e-4)
    assert evaluator.protocol("reconstruction_l2", subject)["n"] == 300


def test_latents_without_noise_are_inverted_once():
    class Counts(Shift):
        calls = 0

        def inverted(self, images, z, labels):
            self.calls += 1
            return super().inverted(images, z, labels)

    subject = subject_of(Counts(), train=100)
    many, one = (create("evaluators", "inversion", repeats=n).run(subject) for n in (4, 1))
    assert many["reconstruction_l2"] == pytest.approx(one["reconstruction_l2"], rel=1e-6)
    assert subject.tokenizer.calls == 2


def test_as_many_images_are_taken_as_is_said_the_same_every_time():
    subject = subject_of(Shift(), train=300)
    one, two = (create("evaluators", "inversion", images=50, repeats=1).run(subject) for _ in range(2))
    assert one == two
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:50]
    lost = 0.08 * (subject.sets["train"][order].mean((1, 2, 3)) + order % 10).abs()
    assert one["reconstruction_l2"] == pytest.approx(lost.mean().item(), rel=1e-4)


def test_a_decoder_that_does_not_draw_has_none():
    tokenizer = create("tokenizers", "vit", image=ImageSpec(1, 8, 8), expansion=1)
    assert create("evaluators", "inversion").run(subject_of(tokenizer)) == {}
