"""Autoencoders of diffusers: the library's own numbers for every class, images of any kind, refusals."""

import subprocess
import sys

import pytest
import torch
from helpers.diffusers_models import IMAGES, VIDEOS, edit, saved, tiny_folder
from helpers.run import TINY

from latentbench.bench.api import ImageSpec, LatentSpec, Unfit
from latentbench.bench.nn import released_weights
from latentbench.bench.nn.diffusers_model import REFUSED
from latentbench.bench.nn.model_folder import NoModel
from latentbench.bench.registry import PartError, create, get
from latentbench.bench.runtime.recompute import prepare

POINTS = {"AutoencoderDC", "AutoencoderTiny", "VQModel", "AutoencoderRAE"}  # classes without a posterior
SIDES = {"AutoencoderRAE": 16, "AutoencoderKLLTX2Video": 64}  # of images; other classes get 64 x 32


def build(folder, image=None, expansion=1, **options):
    """A tokenizer with the weights of its folder, in evaluation mode."""
    image = image or ImageSpec(3, 64, 32)
    tokenizer = create(
        "tokenizers", "diffusers", image=image, expansion=expansion, path=str(folder), **options
    )
    tokenizer.load_state_dict(released_weights.state(tokenizer, tokenizer.own_weights()))
    return tokenizer.eval()


def size_of(name):
    side = SIDES.get(name)
    return ImageSpec(3, side, side) if side else ImageSpec(3, 64, 32)


def rand_images(image, count=3, seed=0):
    draw = torch.rand(count, image.channels, image.height, image.width, generator=seeded(seed))
    return draw * 2 - 1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(maps):
    """Maps (B, C, h, w) or (B, C, 1, h, w) as the tokens (B, T, C) that lie on them in row order."""
    maps = maps.squeeze(2) if maps.dim() == 5 else maps
    return maps.movedim(1, -1).flatten(1, 2)


class Given:
    """Noise whose draws are given."""

    def __init__(self, values):
        self.values = values

    def normal(self, like, tag=""):
        assert like.shape == self.values.shape
        return self.values


def library(folder, name):
    """The model as diffusers itself reads it, and its input for images in [-1, 1]."""
    from diffusers import AutoModel

    model = AutoModel.from_pretrained(str(folder)).eval()

    def given(images):
        if name == "AutoencoderRAE":
            return (images + 1) / 2
        return images[:, :, None] if name in VIDEOS else images

    return model, given


@pytest.mark.parametrize("name", [*IMAGES, *VIDEOS])
@torch.no_grad()
def test_encoding_drawing_and_decoding_are_those_of_diffusers_bit_for_bit(name, tmp_path):
    saved(tmp_path, name)
    model, given = library(tmp_path, name)
    image = size_of(name)
    images, tokenizer = rand_images(image), build(tmp_path, image)
    encoded = model.encode(given(images))
    if name in POINTS:
        latent = getattr(encoded, "latent", None)
        z = encoded.latents if latent is None else latent
        with pytest.raises(Unfit, match="encodes an image as a point"):
            build(tmp_path, image, expansion=2)
    else:
        z = encoded.latent_dist.mode()
        draw = encoded.latent_dist.sample(seeded(7))
        noise = torch.randn(draw.shape, generator=seeded(7))
        wide = build(tmp_path, image, expansion=2)
        kl, h = create("regularizers", "kl", spec=wide.spec), wide.encode(images)
        assert torch.equal(kl.latent(h, Given(tokens(noise))), tokens(draw))
        assert torch.equal(kl.latent(h, None), tokens(z))
    h = tokenizer.encode(images)
    assert torch.equal(h, tokens(z))
    assert tokenizer.spec == LatentSpec(h.shape[1], h.shape[2], tuple(z.shape[-2:]))
    decoded = model.decode(z).sample
    decoded = decoded * 2 - 1 if name == "AutoencoderRAE" else decoded
    assert torch.equal(tokenizer.decode(h), decoded.squeeze(2) if name in VIDEOS else decoded)
    again = tokenizer.encode(images[:2])  # nothing is left of the batch before, and of its size
    assert torch.equal(again, tokenizer.encode(images[:2])) and torch.allclose(again, h[:2], atol=1e-4)


@pytest.mark.parametrize("name", [*IMAGES, *VIDEOS])
def test_what_learns_learns_and_the_rest_is_frozen(name, tmp_path):
    saved(tmp_path, name)
    image = size_of(name)
    tokenizer = build(tmp_path, image, expansion=1 if name in POINTS else 2).train()
    h = tokenizer.encode(rand_images(image))
    z = h[..., : tokenizer.spec.channels]
    (tokenizer.decode(z).square().mean() + h.square().mean()).backward()
    for key, parameter in tokenizer.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert any(p.requires_grad for p in tokenizer.decoder.parameters())
    assert all(head.dim() > 1 for head in tokenizer.heads.values())
    halves = [{id(p) for p in half.parameters()} for half in (tokenizer.encoder, tokenizer.decoder)]
    assert halves[0] and halves[1] and not halves[0] & halves[1]


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderDC", *VIDEOS])
def test_gradients_with_layers_computed_again_are_the_same(name, tmp_path):
    saved(tmp_path, name)
    image, gradients = size_of(name), []
    for checkpointing in (False, True):
        tokenizer = build(tmp_path, image)
        prepare({"checkpointing": checkpointing}, tokenizer)
        tokenizer.decode(tokenizer.encode(rand_images(image))).square().sum().backward()
        gradients.append([p.grad for p in tokenizer.parameters() if p.requires_grad])
    for once, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, once)


def test_grey_images_are_repeated_and_decoded_colours_averaged(tmp_path):
    saved(tmp_path)
    grey, colour = build(tmp_path, ImageSpec(1, 8, 8)), build(tmp_path, ImageSpec(3, 8, 8))
    images = rand_images(ImageSpec(1, 8, 8))
    with torch.no_grad():
        z = grey.encode(images)
        assert torch.equal(z, colour.encode(images.expand(-1, 3, -1, -1)))
        torch.testing.assert_close(grey.decode(z), colour.decode(z).mean(1, keepdim=True))


def test_a_model_of_grey_images_takes_them_as_they_are(tmp_path):
    saved(tmp_path, in_channels=1, out_channels=1)
    model, _ = library(tmp_path, "AutoencoderKL")
    tokenizer, images = build(tmp_path, ImageSpec(1, 8, 8)), rand_images(ImageSpec(1, 8, 8))
    with torch.no_grad():
        z = model.encode(images).latent_dist.mode()
        assert torch.equal(tokenizer.encode(images), tokens(z))
        assert torch.equal(tokenizer.decode(tokens(z)), model.decode(z).sample)
    with pytest.raises(Unfit, match="AutoencoderKL does not fit images of 3 x 8 x 8: RuntimeError"):
        build(tmp_path, ImageSpec(3, 8, 8))


def test_positions_are_folded_into_tokens_as_flux_2_folds_them(tmp_path):
    saved(tmp_path, "AutoencoderKLFlux2")
    model, _ = library(tmp_path, "AutoencoderKLFlux2")
    image = ImageSpec(3, 16, 8)
    images, tokenizer = rand_images(image), build(tmp_path, image, expansion=2, patch=2)
    assert tokenizer.spec == LatentSpec(8, 16, (4, 2))
    with torch.no_grad():
        posterior = model.encode(images).latent_dist

        def patched(x):  # Flux2Pipeline._patchify_latents
            b, c, height, width = x.shape
            x = x.view(b, c, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
            return x.reshape(b, c * 4, height // 2, width // 2)

        h = tokenizer.encode(images)
        mean, logvar = h.chunk(2, -1)
        assert torch.equal(mean, tokens(patched(posterior.mean)))
        assert torch.equal(logvar.clamp(-30, 20), tokens(patched(posterior.logvar)))
        assert torch.equal(tokenizer.decode(mean), model.decode(posterior.mean).sample)


@pytest.mark.parametrize(
    ("name", "height", "width", "multiple"),
    [
        ("AutoencoderKL", 31, 32, 2),  # cut silently by the model
        ("AutoencoderTiny", 64, 63, 2),  # padded silently
        ("AutoencoderDC", 63, 63, 2),  # an error of its own
        ("AutoencoderKLWan", 60, 62, 8),
        ("AutoencoderKLWan patches", 32, 40, 16),
        ("AutoencoderKLHunyuanImageRefiner", 24, 16, 16),
    ],
)
def test_a_wrong_size_is_refused_with_the_multiple_that_works(name, height, width, multiple, tmp_path):
    saved(tmp_path, name)
    found = (
        rf"{name.split()[0]} does not fit images of 3 x {height} x {width}: its sides must be multiples of"
    )
    with pytest.raises(Unfit, match=rf"{found} {multiple}$"):
        build(tmp_path, ImageSpec(3, height, width))
    for times in (2, 3):  # the advice is good
        build(tmp_path, ImageSpec(3, times * multiple, 4 * multiple))


def test_a_model_of_one_size_says_which(tmp_path):
    saved(tmp_path, "AutoencoderRAE")
    with pytest.raises(Unfit, match="AutoencoderRAE .* 3 x 32 x 32: it decodes to 16 x 16 alone"):
        build(tmp_path, ImageSpec(3, 32, 32))


def test_a_patch_that_does_not_divide_the_grid_is_refused_with_the_multiple(tmp_path):
    saved(tmp_path)
    with pytest.raises(Unfit, match="patch 3 does not divide the grid 32 x 16 .* must be multiples of 6"):
        build(tmp_path, patch=3)


@pytest.mark.parametrize("name", REFUSED)
def test_classes_that_cannot_be_used_are_refused_with_their_reason(name, tmp_path):
    import diffusers

    assert hasattr(diffusers, name)
    (tmp_path / "config.json").write_text(f'{{"_class_name": "{name}"}}')
    with pytest.raises(NoModel) as error:
        build(tmp_path)
    assert str(error.value) == f"{name} cannot be a tokenizer here: {REFUSED[name]}"


def test_every_autoencoder_of_diffusers_is_tested_or_refused():
    import diffusers

    known = {name.split()[0] for name in [*IMAGES, *VIDEOS]} | set(REFUSED)
    named = {name for name in dir(diffusers) if "Autoencoder" in name or name.endswith(("VAE", "Vae"))}
    assert named - known == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "AutoencoderKLNew"}, "diffusers .* has no class AutoencoderKLNew, which"),
        ({"_class_name": "DDIMScheduler"}, "names DDIMScheduler, which is no autoencoder"),
        ({"_class_name": "UNet2DModel"}, "names UNet2DModel, which is no autoencoder"),
        ({"_class_name": "os"}, "has no class os"),
        ({"_class_name": 3}, "config.json names no class by `_class_name`"),
        ({"norm_num_groups": 3}, "AutoencoderKL cannot be built from its config.json: .* divisible"),
        ({"act_fn": "shout"}, "AutoencoderKL cannot be built from its config.json: .*shout"),
    ],
)
def test_a_config_that_names_no_usable_model_is_refused(options, message, tmp_path):
    saved(tmp_path)
    edit(tmp_path, **options)
    with pytest.raises(NoModel, match=message):
        build(tmp_path)


def test_a_decoder_that_adds_noise_is_refused(tmp_path):
    saved(tmp_path, "AutoencoderKLLTXVideo")
    edit(tmp_path, decoder_inject_noise=[False, True, False, False, False])
    with pytest.raises(NoModel, match="with decoder_inject_noise cannot be a tokenizer here: .* draws"):
        build(tmp_path)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    folder = tiny_folder()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(PartError, match=r'needs a package: pip install "latentbench\[diffusers\]"'):
        build(folder, ImageSpec(3, 20, 20))
    with pytest.raises(ValueError, match="the option 'path' is missing: a folder with config.json, or an id"):
        create("tokenizers", "diffusers", image=ImageSpec(3, 8, 8), expansion=1)
    assert "scaling_factor" in get("tokenizers", "diffusers").__doc__  # `bench info` works


def test_a_class_of_another_package_names_it(tmp_path, monkeypatch):
    saved(tmp_path, "AutoencoderRAE")
    module = sys.modules["diffusers.models.autoencoders.autoencoder_rae"]
    monkeypatch.delattr(module, "ViTMAEConfig")
    with pytest.raises(PartError, match="AutoencoderRAE needs another package: pip install transformers"):
        build(tmp_path, ImageSpec(3, 20, 20))


def test_building_one_draws_the_same_weights_whether_it_is_the_first_or_not(tmp_path):
    saved(tmp_path, "AutoencoderTiny")
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        one = create("tokenizers", "diffusers", image=ImageSpec(3, 12, 12), expansion=1, path=str(tmp_path))
        states.append(one.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_nothing_imports_diffusers_but_a_matrix_that_names_it(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    code = (
        "import sys; from latentbench.bench.cli import app; from latentbench.bench.registry import get; "
        "from typer.testing import CliRunner; run = CliRunner().invoke; "
        "assert run(app, ['list']).exit_code == 0; get('tokenizers', 'diffusers'); "
        "assert run(app, ['info', 'tokenizer', 'diffusers']).exit_code == 0; "
        "assert run(app, ['plan', '--matrix', 'tiny.yaml']).exit_code == 0; "
        "print([name for name in sys.modules if name.split('.')[0] in ('diffusers', 'transformers')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
