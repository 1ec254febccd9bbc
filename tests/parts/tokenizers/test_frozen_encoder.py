"""Representation autoencoders: what is encoded, decoded, counted, trained and refused."""

import math

import pytest
import torch
from torch.nn import functional as F

from latentbench.bench.api import ImageSpec, LatentSpec, Noise, Step, Unfit
from latentbench.bench.registry import create, get
from latentbench.tokenizers.frozen_encoder import positions, scaled, unpatchified

IMAGENET, GREY, SMALL = ImageSpec(3, 256, 256), ImageSpec(1, 8, 8), ImageSpec(3, 32, 32)
VIT = {"use": "timm", "model": "test_vit", "weights": "random", "resolution": 64}
# Parameters of RAE's decoders, and how many of them are trained, by size and channels of the encoder.
COUNTS = {
    ("B", 768): (86_435_328, 86_237_952),
    ("L", 768): (304_150_272, 303_887_104),
    ("XL", 768): (415_352_704, 415_056_640),
    ("B", 1024): (86_631_936, 86_631_936 - 257 * 768),
    ("L", 1024): (304_412_416, 304_412_416 - 257 * 1024),
    ("XL", 1024): (415_647_616, 415_647_616 - 257 * 1152),
}


def made(image=SMALL, seed=0, expansion=1, **options):
    torch.manual_seed(seed)
    return create("tokenizers", "frozen_encoder", image=image, expansion=expansion, **options)


def images(image=SMALL, count=2):
    shape = (count, image.channels, image.height, image.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size, channels", COUNTS)
def test_a_size_has_the_parameters_of_the_released_decoder(size, channels):
    options = dict(get("tokenizers", "frozen_encoder").sizes[size])
    if channels == 1024:
        options["encoder"] = {**options["encoder"], "model": "vit_large_patch14_reg4_dinov2.lvd142m"}
    with torch.device("meta"):
        model = made(IMAGENET, **options)
        h = model.encode(torch.empty(1, 3, 256, 256))
        assert model.decode(h).shape == (1, 3, 256, 256)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (sum(p.numel() for p in model.parameters()), trained) == COUNTS[size, channels]
    assert model.spec == LatentSpec(256, channels, (16, 16)) and h.shape == (1, 256, channels)
    assert list(model.encoder.parameters()) == []


def test_unpatchify_is_the_inverse_of_patchify():
    pictures = images(ImageSpec(3, 6, 20), 3)
    p, q = 3, 5
    rows = [
        [picture[:, p * i : p * i + p, q * j : q * j + q] for i in range(2) for j in range(4)]
        for picture in pictures
    ]
    patches = torch.stack([torch.stack([one.permute(1, 2, 0).flatten() for one in row]) for row in rows])
    assert torch.equal(unpatchified(patches, (2, 4), (p, q)), pictures)


@pytest.mark.parametrize("grid", [(4, 4), (2, 3)])
def test_positions_are_maes_sines_and_cosines_of_column_and_row(grid):
    table = positions(grid, 24, grid)
    assert table.shape == (1, 1 + grid[0] * grid[1], 24) and not table[0, 0].any()
    for row in range(grid[0]):
        for column in range(grid[1]):
            angles = [[at / 10000 ** (i / 6) for i in range(6)] for at in (column, row)]
            meant = [wave(angle) for side in angles for wave in (math.sin, math.cos) for angle in side]
            torch.testing.assert_close(table[0, 1 + row * grid[1] + column], torch.tensor(meant))


def test_positions_on_another_grid_are_those_of_its_cells_centres():
    whole, coarse = positions((4, 4), 8, (4, 4)), positions((2, 4), 8, (4, 4))
    assert coarse.shape == (1, 9, 8)
    # Column 3 keeps its place; row 0 of two covers rows 0 and 1 of four, whose centres are around 0.5.
    assert torch.equal(coarse[0, 4, :4], whole[0, 4, :4])
    angles = torch.tensor([0.5, 0.005])
    torch.testing.assert_close(coarse[0, 4, 4:], torch.cat([angles.sin(), angles.cos()]))


@pytest.mark.parametrize("image", [GREY, SMALL], ids=["grey", "colour"])
def test_latents_are_the_networks_tokens_of_images_resized_as_raes(image):
    colour = images(image).expand(-1, 3, -1, -1) / 2 + 0.5
    wide = F.interpolate(colour, (64, 64), mode="bicubic", align_corners=False)  # neither clamped nor rounded
    model = made(image, normalise=False)
    with torch.no_grad():
        maps = model.encoder.extractor._network.forward_intermediates(2 * wide - 1, intermediates_only=True)
    torch.testing.assert_close(model.encode(images(image)), maps[3].flatten(2).mT, atol=1e-4, rtol=1e-4)
    model = made(image, encoder=VIT, normalise=False)
    network = model.encoder.extractor._network
    features = network.forward_features(2 * wide - 1)[:, network.num_prefix_tokens :]
    torch.testing.assert_close(model.encode(images(image)), features, atol=1e-4, rtol=1e-4)
    assert create("features", "effnet_lite0").resizing == "clean"  # others' extractors stay as they are


def test_each_token_has_mean_0_and_variance_1_over_its_channels():
    for encoder in ("effnet_lite0", VIT):
        h = made(encoder=encoder).encode(images())
        plain = made(encoder=encoder, normalise=False).encode(images())
        torch.testing.assert_close(h.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
        torch.testing.assert_close(h.var(-1, correction=0), torch.ones(2, 16), atol=1e-3, rtol=0)
        torch.testing.assert_close(h, F.layer_norm(plain, plain.shape[-1:], eps=1e-6))


def test_a_second_norm_after_raes_changes_nothing():
    plain = {**VIT, "norm": "plain"}
    once, twice = (made(encoder=plain, normalise=n).encode(images()) for n in (False, True))
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=0)


def test_the_output_is_scaled_by_imagenets_mean_and_deviation_where_it_has_colours():
    zeros = torch.zeros(1, 3, 1, 1)
    torch.testing.assert_close(scaled(zeros)[0, :, 0, 0], 2 * torch.tensor([0.485, 0.456, 0.406]) - 1)
    one = scaled(zeros + 1)[0, :, 0, 0] - scaled(zeros)[0, :, 0, 0]
    torch.testing.assert_close(one, 2 * torch.tensor([0.229, 0.224, 0.225]))
    assert torch.equal(scaled(images(GREY)), images(GREY))


def test_raes_noise_adds_a_third_of_tau_squared_to_the_second_moment_in_training_alone():
    model = made()
    h = model.encode(images(count=1)).expand(4096, -1, -1)
    noise = create("regularizers", "denoising", spec=model.spec, interpolate=False, gamma=0.8)
    assert noise.latent(h, Noise(0)) is h and noise.expansion == 1
    pictures = torch.zeros(4096, 3, 1, 1)
    (shown,) = noise.shown(h, Step(0, pictures, None, Noise(0), model.decode))
    # Its standard error over 4,096 levels is that of 0.64 u^2, 0.64 * 0.298 / 64 = 0.003.
    assert shown.z.square().mean().item() == pytest.approx(1 + 0.64 / 3, abs=0.01)


def test_only_the_decoder_learns_and_the_network_is_not_stored():
    model = made().train()
    before = model.encoder.extractor._network.conv_stem.weight.clone()
    h = model.encode(images().requires_grad_())
    assert not h.requires_grad and h.grad_fn is None
    (model.decode(h) - images()).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert idle == [] and model.decoder.positions.grad is None
    assert all(name.startswith("decoder.") for name in model.state_dict())
    assert set(model.heads) == {"decoder"}
    assert torch.equal(model.encoder.extractor._network.conv_stem.weight, before)


def test_the_meta_device_takes_no_weights():
    missing = {"use": "timm", "model": "test_vit", "weights": "nowhere", "resolution": 64}
    with torch.device("meta"):
        model = made(encoder=missing)
        assert model.decode(model.encode(torch.empty(2, 3, 32, 32))).shape == (2, 3, 32, 32)
    assert model.fingerprint() is None
    with pytest.raises(FileNotFoundError, match="nowhere"):
        model.fetch()


def test_the_fingerprint_is_the_networks():
    assert made().fingerprint() == create("features", "effnet_lite0").fingerprint()
    assert made(encoder="effnet_lite1").fingerprint() != made().fingerprint()


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"image": ImageSpec(1, 10, 8)},
            "the 4 x 4 tokens of effnet_lite0 do not divide the image size 10 x 8",
        ),
        ({"image": ImageSpec(2, 8, 8)}, "images of 1 .grey. or 3 channels, not of 2"),
        ({"heads": 3}, "heads 3 does not divide width 128"),
        ({"encoder": "coordinates"}, "the tokens of coordinates have no grid"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_a_posterior_and_further_outputs_do_not_fit():
    with pytest.raises(Unfit, match="latents and no posterior"):
        made(expansion=2)


def test_patches_may_be_rectangles_and_the_decoder_takes_other_grids():
    model = made(ImageSpec(3, 16, 32))
    assert model.decode(model.encode(images(ImageSpec(3, 16, 32)))).shape == (2, 3, 16, 32)
    assert model.decode(torch.randn(1, 6, 112), grid=(2, 3)).shape == (1, 3, 8, 24)


@pytest.mark.parametrize(
    "side, tokens, resolution", [(32, 64, 128), (28, 64, 64), (64, 16, 64), (9, 64, None)]
)
def test_a_first_try_takes_a_grid_that_divides_the_image(side, tokens, resolution):
    found = get("tokenizers", "frozen_encoder").first_options(ImageSpec(1, side, side), tokens, {})
    assert found == ({"encoder": {"use": "effnet_lite0", "resolution": resolution}} if resolution else {})
