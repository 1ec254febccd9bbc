import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from latentbench.bench.registry import create


@pytest.fixture(scope="module")
def extractor():
    return create("features", "effnet_lite0")


@pytest.fixture(scope="module")
def images():
    return torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("photograph", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_a_palace_and_a_daisy_are_recognised(photograph, label):
    pixels = torch.from_numpy(np.array(load_sample_image(photograph))).permute(2, 0, 1)  # (3, 427, 640)
    square = pixels[None, :, :, 106:533].float() / 127.5 - 1
    logits = create("features", "effnet_lite0", resolution=224).logits(square)
    assert logits.shape == (1, 1000) and logits.argmax().item() == label


def test_one_forward_gives_a_vector_and_a_grid(extractor, images):
    pooled, tokens = extractor(images[:3])
    assert pooled.shape == (3, extractor.channels) == (3, 320)
    assert tokens.shape == (3, extractor.spec.tokens, extractor.spec.channels) == (3, 16, 112)
    assert extractor.spec.grid == (4, 4)
    wide = create("features", "effnet_lite0", resolution=96)
    assert wide(images[:1])[1].shape == (1, wide.spec.tokens, 112) and wide.spec.grid == (6, 6)


def test_vector_and_grid_are_timms_own_feature_maps(extractor, images):
    prepared = extractor._prepared(images[:3])
    maps = extractor._network.forward_intermediates(prepared, intermediates_only=True)
    pooled, tokens = extractor(images[:3])
    torch.testing.assert_close(tokens, maps[3].flatten(2).transpose(1, 2))
    torch.testing.assert_close(pooled, maps[4].mean((2, 3)))


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


def test_the_weights_are_known_by_their_hash(extractor):
    # The first eight digits are in the file's own name.
    assert extractor.fingerprint().startswith("57934424")
    assert extractor.protocol()["weights_sha256"] == extractor.fingerprint()
