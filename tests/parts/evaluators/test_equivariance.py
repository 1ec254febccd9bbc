"""The evaluator `equivariance` with decoders that do, and do not, commute with turns and scaling."""

import math

import pytest
import torch
from helpers.fake_subject import FakeSubject
from torch import nn
from torch.nn import functional as F

from latentbench.bench.api import ImageSpec, LatentSpec, Tokenizer, from_uint8, to_uint8
from latentbench.bench.data.images import psnr
from latentbench.bench.registry import create

EXACT = psnr(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).item()


class Nearest(Tokenizer):
    """A patch of 4 x 4 pixels has the value of its token, plus a ramp over the whole image."""

    regrids = True

    def __init__(self, ramp=0.0, grid=(2, 2)):
        super().__init__(ImageSpec(1, 8, 8), 1)
        self.decoder, self.ramp = nn.Linear(1, 1), ramp
        self.spec = LatentSpec(4, 3, grid)

    def decode(self, z, grid=None):
        maps = z[..., :1].mT.unflatten(2, grid or self.spec.grid)
        images = F.interpolate(maps, scale_factor=4, mode="nearest")
        return images + self.ramp * torch.linspace(-1, 1, images.shape[3])


def scored(tokenizer, z):
    images = tokenizer.decode(z)
    subject = FakeSubject(scope="tokenizer", val=len(z), tokenizer=tokenizer, z={"train": z, "val": z})
    subject.sets["val"] = images
    return create("evaluators", "equivariance").run(subject)


def test_single_tokens_are_turned_without_any_error():
    z = torch.rand(12, 4, 3) - 0.5
    assert scored(Nearest(), z)["PSNR_turned"] == pytest.approx(EXACT, abs=1e-9)


def test_halves_of_constant_latents_are_exact():
    z = (torch.rand(12, 1, 3) - 0.5).expand(12, 4, 3)
    assert scored(Nearest(), z)["PSNR_half"] == pytest.approx(EXACT - 10 * math.log10(4), abs=1e-9)


def test_a_decoder_that_knows_left_from_right_makes_the_error_of_its_ramp():
    z, decoder = torch.rand(12, 4, 3) - 0.5, Nearest(ramp=0.3)
    images = to_uint8(decoder.decode(z).clamp(-1, 1))
    expected = []
    for turns in (1, 2, 3):
        turned = torch.rot90(z.mT.unflatten(2, (2, 2)), turns, (-1, -2)).flatten(2).mT
        target = torch.rot90(images, turns, (-1, -2))
        expected.append(psnr(to_uint8(decoder.decode(turned).clamp(-1, 1)), target).mean())
    found = scored(decoder, z)["PSNR_turned"]
    assert found == pytest.approx(torch.stack(expected).mean().item(), abs=1e-6)
    assert found < 20


def test_images_are_halved_as_latents_are():
    z, decoder = torch.rand(12, 4, 3) - 0.5, Nearest(ramp=0.3)
    images = to_uint8(decoder.decode(z).clamp(-1, 1))
    small = F.interpolate(z.mT.unflatten(2, (2, 2)), scale_factor=0.5, mode="bilinear").flatten(2).mT
    target = to_uint8(F.interpolate(from_uint8(images), scale_factor=0.5, mode="bilinear"))
    expected = psnr(to_uint8(decoder.decode(small, (1, 1)).clamp(-1, 1)), target).mean().item()
    assert scored(decoder, z)["PSNR_half"] == pytest.approx(expected, abs=1e-6)


def test_latents_without_a_grid_and_decoders_of_one_grid_lack_what_they_cannot_have():
    z = torch.rand(12, 4, 3)
    one_grid = Nearest()
    one_grid.regrids = False
    assert set(scored(one_grid, z)) == {"PSNR_turned"}
    one_grid.spec = LatentSpec(4, 3)
    subject = FakeSubject(scope="tokenizer", val=12, tokenizer=one_grid, z={"train": z, "val": z})
    assert create("evaluators", "equivariance").run(subject) == {}
