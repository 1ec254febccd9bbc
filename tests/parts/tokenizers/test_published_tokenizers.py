"""Tokenizers in their papers' sizes: parameters on the meta device, and what they do when they are small."""

import pytest
import torch
from torch.nn import functional as F

from latentbench.bench.api import ImageSpec, LatentSpec, Unfit
from latentbench.bench.registry import create, get

IMAGENET, SMALL = ImageSpec(3, 256, 256), ImageSpec(3, 32, 32)
COUNTS = {
    ("conv", "f16d16", 2): 66_456_019,
    ("conv", "f16d32", 2): 66_681_123,
    ("conv", "f16d64", 2): 67_139_011,
    ("conv", "f16d128", 2): 68_085_507,
    ("vavae", "f16d32", 2): 69_836_067,
    # l-DeTok's encoder gives means and log variances, and its decoder's mask token isn't here.
    ("vit", "detok-SS", 2): 51_502_100 - 512,
    ("vit", "detok-BB", 2): 171_712_628 - 768,
    ("vit", "detok-LL", 2): 606_641_972 - 1024,
    ("softvq", "L-64", 1): 607_875_872,
    ("softvq", "L-64", 2): 607_908_672,
    ("softvq", "softvq-L-64", 1): 608_924_448,
    ("dino", "L", 1): 303_412_224 + 2_164_768 + 49_628_451,
}


def count(module):
    return sum(p.numel() for p in module.parameters())


def sized(name, size, expansion, image=IMAGENET):
    with torch.device("meta"):
        options = get("tokenizers", name).sizes[size]
        return create("tokenizers", name, image=image, expansion=expansion, **options)


@pytest.mark.parametrize("name, size, expansion", COUNTS, ids=lambda v: str(v))
def test_a_size_has_the_parameters_of_the_released_code(name, size, expansion):
    model = sized(name, size, expansion)
    assert count(model) == COUNTS[name, size, expansion]
    h = model.encode(torch.empty(1, 3, 256, 256, device="meta"))
    assert h.shape == (1, model.spec.tokens, model.spec.channels * expansion)
    assert model.decode(h[..., : model.spec.channels]).shape == (1, 3, 256, 256)


def test_every_size_has_a_count():
    named = {(name, size) for name, size, _ in COUNTS}
    parts = ("conv", "vavae", "vit", "softvq", "dino")
    assert named == {(name, size) for name in parts for size in get("tokenizers", name).sizes}


def test_the_parts_of_published_tokenizers_have_the_parameters_of_theirs():
    softvq, vavae, dino = sized("softvq", "L-64", 1), sized("vavae", "f16d32", 2), sized("dino", "L", 1)
    assert count(softvq.encoder.head) == 32_800 and count(softvq.decoder.embed) == 33_792
    assert count(softvq.encoder) - 32_800 == 303_543_296
    assert count(softvq.decoder) - 33_792 == 304_265_984
    assert count(vavae.encoder) - count(vavae.encoder[-1]) == 28_413_248
    assert count(vavae.decoder) - count(vavae.decoder[0]) == 41_417_603
    assert count(dino.encoder.vit) == 303_412_224 and count(dino.decoder) == 49_628_451
    detok = sized("vit", "detok-BB", 2)
    assert count(detok.encoder) == 85_861_664 and count(detok.decoder) + 768 == 85_850_964
    assert detok.spec == LatentSpec(256, 16, (16, 16))
    assert softvq.spec == LatentSpec(64, 32) and dino.spec == LatentSpec(256, 32, (16, 16))


@pytest.mark.parametrize(
    "name, options",
    [
        ("softvq", {}),
        ("softvq", {"codebooks": 4, "codes": 16}),
        ("dino", {}),
        ("dino", {"frozen": False}),
        ("conv", {}),
        ("vavae", {}),
        ("vit", {"style": "detok"}),
    ],
)
def test_a_small_one_reconstructs_and_every_trainable_parameter_learns(name, options):
    torch.manual_seed(0)
    model = create("tokenizers", name, image=SMALL, expansion=1, **options)
    images = torch.randn(2, 3, 32, 32).tanh()
    decoded = model.decode(model.encode(images))
    assert decoded.shape == images.shape
    (decoded - images).square().mean().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert idle == []


def test_a_frozen_encoder_learns_by_its_mlp_alone():
    frozen, free = (
        create("tokenizers", "dino", image=SMALL, expansion=1, frozen=frozen).encoder
        for frozen in (True, False)
    )
    learned = {n.split(".")[0] for n, p in frozen.named_parameters() if p.requires_grad}
    assert learned == {"inner", "head"} and all(p.requires_grad for p in free.parameters())


def test_the_vit_sees_images_with_imagenets_mean_and_deviation():
    model = create("tokenizers", "dino", image=SMALL, expansion=1)
    seen = []
    model.encoder.vit.patch_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.encode(torch.full((1, 3, 32, 32), 2 * 0.5 - 1))
    expected = [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    torch.testing.assert_close(seen[0][0, :, 3, 5], torch.tensor(expected))


def test_pixels_of_a_softvq_patch_are_in_the_order_of_its_checkpoints():
    model = create("tokenizers", "softvq", image=ImageSpec(3, 8, 12), expansion=1)
    decoder = model.decoder
    sent = torch.randn(2, 6, 4 * 4 * 3)  # what the last layer gives of 2 x 3 patches
    decoder.head.register_forward_hook(lambda *_: sent)
    image = decoder(torch.randn(2, 8, 8))
    for patch in range(6):
        row, column = divmod(patch, 3)
        block = image[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        torch.testing.assert_close(block, sent[:, patch].reshape(2, 4, 4, 3).permute(0, 3, 1, 2))


def test_a_soft_code_is_the_softmax_mean_of_its_own_codebook():
    torch.manual_seed(0)
    model = create("tokenizers", "softvq", image=SMALL, expansion=1, codebooks=2, codes=5, temperature=0.3)
    h = torch.randn(3, 8, 8)
    codes = F.normalize(model.encoder.codebooks.codes, dim=-1)
    for token in range(8):
        book = codes[token // 4]
        weights = (F.normalize(h[1, token], dim=0) @ book.T / 0.3).softmax(0)
        torch.testing.assert_close(model.encoder.codebooks(h)[1, token], weights @ book)


def test_codebooks_refuse_a_posterior_and_a_part_of_a_token():
    with pytest.raises(Unfit, match="posterior"):
        create("tokenizers", "softvq", image=SMALL, expansion=2, codebooks=2)
    with pytest.raises(ValueError, match="codebooks 3 does not divide latents 8"):
        create("tokenizers", "softvq", image=SMALL, expansion=1, codebooks=3)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("softvq", {"model": "vit_huge"}, "timm has no model 'vit_huge'"),
        ("softvq", {"model": "resnet18"}, "resnet18 is no plain vision transformer"),
        ("softvq", {"patch": 5}, "patch 5 does not divide"),
        ("dino", {"patch": 8}, "patches of 4 pixels, not 8"),
    ],
)
def test_a_model_that_cannot_be_built_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create("tokenizers", name, image=SMALL, expansion=1, **options)
