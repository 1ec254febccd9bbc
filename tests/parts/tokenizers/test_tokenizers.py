"""The tokenizers' own promises: sizes, tokens in row order, and equal starts for every expansion."""

import pytest
import torch
from helpers.diffusers_models import tiny_folder

from latentbench.bench.api import ImageSpec, LatentSpec
from latentbench.bench.nn.convolutions import Attention, norm
from latentbench.bench.registry import create, get
from latentbench.tokenizers.conv import Conv
from latentbench.tokenizers.vit import ViT

DIGITS = ImageSpec(1, 8, 8)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_convolutional_tokenizer_has_the_parameters_of_mars_kl_16():
    options = {"width": 128, "mult": (1, 1, 2, 2, 4), "blocks": 2, "channels": 16}
    with torch.device("meta"):
        model = Conv(ImageSpec(3, 256, 256), 2, **options)
        wide = [count(Conv(ImageSpec(3, 256, 256), 2, **options | {"channels": z})) for z in (32, 64)]
    quant, post_quant = count(model.encoder[-1]), count(model.decoder[0])
    assert count(model.encoder) - quant == 28_265_760
    assert count(model.decoder) - post_quant == 38_188_931
    assert count(model) == 66_456_019
    assert wide == [66_681_123, 67_139_011]
    assert model.spec == LatentSpec(256, 16, (16, 16))


@pytest.mark.parametrize("name, options", [("vit", {}), ("vit", {"latents": 5}), ("conv", {})])
def test_rows_with_another_expansion_start_from_the_same_weights(name, options):
    states = []
    for expansion in (1, 2):
        torch.manual_seed(0)
        states.append(create("tokenizers", name, image=DIGITS, expansion=expansion, **options).state_dict())
    one, two = states
    unlike = [key for key in one if one[key].shape != two[key].shape]
    assert unlike and all(key.startswith("encoder.") for key in unlike)
    assert all(torch.equal(one[key], two[key]) for key in one if key not in unlike)


def test_a_patchs_token_is_at_its_place_in_row_order():
    torch.manual_seed(0)
    model = ViT(ImageSpec(1, 16, 8), 1, depth=1)
    assert model.spec.grid == (8, 4)
    images = torch.zeros(1, 1, 16, 8, requires_grad=True)
    model.encode(images)[0, 3 * 4 + 1].abs().sum().backward()
    # A fresh block mixes little between positions: a token's own patch matters most.
    row, column = divmod(images.grad.abs().flatten().argmax().item(), 8)
    assert (row // 2, column // 2) == (3, 1)
    z = torch.zeros(1, 32, 8, requires_grad=True)
    model.decode(z)[..., 6:8, 2:4].square().sum().backward()
    assert z.grad.abs().sum(-1).argmax().item() == 3 * 4 + 1


def test_a_maps_positions_become_tokens_in_row_order():
    model = Conv(ImageSpec(1, 16, 8), 1, width=4)
    images = torch.randn(2, 1, 16, 8)
    maps = model.encoder(images)
    assert model.spec.grid == (8, 4) == maps.shape[2:]
    z = model.encode(images)
    torch.testing.assert_close(z[:, 3 * 4 + 1], maps[:, :, 3, 1])
    torch.testing.assert_close(model.decode(z), model.decoder(maps))


def test_learned_latents_have_no_grid_and_see_the_whole_image():
    torch.manual_seed(0)
    model = ViT(DIGITS, 1, latents=5, channels=3)
    assert model.spec == LatentSpec(5, 3, None)
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    h = model.encode(images)
    assert h.shape == (2, 5, 3) and model.decode(h).shape == (2, 1, 8, 8)
    assert not torch.allclose(h[:, 0], h[:, 1])
    h[0, 0].sum().backward()
    assert (images.grad[0] != 0).all() and (images.grad[1] == 0).all()


def test_a_patch_that_does_not_divide_the_image_is_named_with_its_size():
    with pytest.raises(ValueError, match="patch 3 .* 8 x 8"):
        ViT(DIGITS, 1, patch=3)
    with pytest.raises(ValueError, match="heads 5 .* width 64"):
        ViT(DIGITS, 1, heads=5)
    with pytest.raises(ValueError, match="by 4, .* 8 x 6"):
        Conv(ImageSpec(1, 8, 6), 1, mult=(1, 1, 1))


def test_the_convolutional_attention_is_softmax_attention_with_one_head():
    torch.manual_seed(0)
    layer, x = Attention(8), torch.randn(2, 8, 3, 2)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, dim=1)  # (B, C, N) each
    weights = (torch.einsum("bci,bcj->bij", q, k) / 8**0.5).softmax(-1)
    attended = torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
    torch.testing.assert_close(layer(x), x + layer.out(attended))


@pytest.mark.parametrize("width, groups", [(128, 32), (256, 32), (512, 32), (32, 8), (6, 1), (9, 1), (1, 1)])
def test_groups_of_the_norm_are_mars_where_the_width_is(width, groups):
    assert norm(width).num_groups == groups


@pytest.mark.parametrize("name", ["vit", "conv", "vavae"])
@pytest.mark.parametrize(
    "image", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 96), (3, 30, 30)]
)
def test_first_options_make_a_tokenizer_of_few_tokens(name, image):
    image, cls = ImageSpec(*image), get("tokenizers", name)
    options = cls.first_options(image, 64, {})
    with torch.device("meta"):
        spec = cls(image, 2, **options).spec
    odd = image.height % 4 and name != "vit"  # which halves once, and not twice
    assert 4 <= spec.tokens <= (225 if odd else 64)


def test_images_that_no_patch_divides_have_no_first_options():
    assert ViT.first_options(ImageSpec(1, 1, 2), 64, {}) == {}
    assert ViT.first_options(ImageSpec(3, 7, 7), 64, {})["patch"] == 7


@pytest.mark.parametrize("tokens, patch", [(4096, None), (1024, None), (256, 2), (100, 4), (1, 32)])
def test_first_options_fold_the_grid_of_a_model_into_few_tokens(tokens, patch):
    cls, image = get("tokenizers", "diffusers"), ImageSpec(3, 64, 64)
    given = {"path": tiny_folder()}
    options = cls.first_options(image, tokens, given)
    assert options == ({} if patch is None else {"patch": patch})
    with torch.device("meta"):
        assert cls(image, 2, **given, **options).spec.tokens <= tokens
