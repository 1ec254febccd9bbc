"""The evaluator `prefixes` with linear codes whose errors are known."""

import pytest
import torch
from helpers.fake_subject import FakeSubject
from torch import nn

from latentbench.bench.api import ImageSpec, LatentSpec, Tokenizer, to_uint8
from latentbench.bench.data.images import psnr
from latentbench.bench.registry import create
from latentbench.evaluators.prefixes import kept


class Linear(Tokenizer):
    def __init__(self, matrix):
        super().__init__(ImageSpec(1, 8, 8), 1)
        self.decoder, self.spec = nn.Linear(1, 1), LatentSpec(1, len(matrix))
        self.matrix = matrix

    def decode(self, z, grid=None):
        return (z[:, 0] @ self.matrix).view(-1, 1, 8, 8)


def scored(matrix, z, **options):
    tokenizer = Linear(matrix)
    subject = FakeSubject(scope="tokenizer", val=len(z), tokenizer=tokenizer, z={"train": z, "val": z})
    subject.sets["val"] = tokenizer.decode(z).clamp(-1, 1)
    return create("evaluators", "prefixes", **options).run(subject)


def test_the_psnr_of_a_prefix_is_that_of_the_first_channels_images():
    matrix, z = 0.05 * torch.randn(8, 64), torch.randn(30, 1, 8)
    found = scored(matrix, z)
    assert set(found) == {"PSNR_prefix_12.5", "PSNR_prefix_25", "PSNR_prefix_50"}
    whole = to_uint8((z[:, 0] @ matrix).view(-1, 1, 8, 8).clamp(-1, 1))
    for share, count in ((12.5, 1), (25, 2), (50, 4)):
        part = to_uint8((z[:, 0, :count] @ matrix[:count]).view(-1, 1, 8, 8).clamp(-1, 1))
        assert found[f"PSNR_prefix_{share:g}"] == pytest.approx(psnr(part, whole).mean().item(), abs=1e-9)


def test_channels_in_order_of_size_lose_less_than_in_reverse():
    matrix, z = torch.randn(8, 64) * 0.5 ** torch.arange(8.0)[:, None] * 0.2, torch.randn(30, 1, 8)
    ordered, reverse = scored(matrix, z), scored(matrix.flip(0), z.flip(2))
    assert all(ordered[name] > reverse[name] + 3 for name in ordered)


def test_counts_of_channels_are_rounded_up():
    assert [kept(share, 5) for share in (0.125, 0.25, 0.5)] == [1, 2, 3]
    assert kept(0.5, 8) == 4
