"""Trained tokenizers as diffusers' folders and as latent files, read back by those libraries' own rules."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.run import TINY, bench, bench_inline, environment, ran
from safetensors import safe_open

from latentbench.bench import registry
from latentbench.bench.api import ImageSpec
from latentbench.bench.nn.autoencoder_kl import with_posterior
from latentbench.bench.tools.find_tokenizer import find_trained

HEAD, _, TAIL = TINY.partition("tokenizers:")
MATRIX = (
    HEAD
    + """\
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
  conv: {width: 32, mult: [1, 1], channels: 4}
  uneven: {use: conv, mult: [1, 2], channels: 4}
  line: {use: vit, width: 16, depth: 1, heads: 2, patch: 4, latents: 3, channels: 4}
regularizers:
  none: {}
  kl: {weight: 1.0e-3}
  plain_variance: {use: fixed_variance, sigma: 0.25, layer_norm: false}
  fixed_variance: {sigma: 0.5}
  noised_kl: {}
  lzn: {}
skip:
  - {tokenizer: uneven|line, regularizer: "lzn|noised_kl|*variance|none", why: not needed}
generators: {gaussian: {}}
evaluators: [reconstruction]
"""
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return ran(tmp_path_factory.mktemp("made"), MATRIX)


@pytest.fixture
def export(made, tmp_path):
    def run(tokenizer, regularizer, *words, out="exported"):
        chosen = f"tokenizer={tokenizer},regularizer={regularizer}"
        return bench_inline("export", "results/tiny", "-k", chosen, "-o", tmp_path / out, *words, cwd=made)

    return run


def ours(made, tokenizer, regularizer):
    accept = {"tokenizer": [tokenizer], "regularizer": [regularizer]}
    cell = find_trained(made / "results/tiny", accept).cell
    images = cell.dataset.images("val", torch.arange(32))
    with torch.no_grad():
        z = cell.regularizer.latent(cell.tokenizer.encode(images), None)
        return cell, images, z, cell.tokenizer.decode(z)


def loaded(folder, **options):
    from diffusers import AutoModel

    return AutoModel.from_pretrained(str(folder), **options).eval()


CASES = {  # what the folder's class is, the standard deviation of a draw, what is noted
    ("conv", "kl"): ("AutoencoderKL", None, ""),
    ("conv", "none"): ("AutoencoderKL", 0.0, ""),
    ("conv", "plain_variance"): ("AutoencoderKL", 0.25, "constant standard deviation 0.25"),
    ("conv", "noised_kl"): ("AutoencoderKL", None, "more noise in training"),
    ("uneven", "kl"): ("LatentbenchTokenizer", None, "8 and 16 groups"),
    ("vit", "kl"): ("LatentbenchTokenizer", None, "isn't a network of diffusers"),
    ("vit", "fixed_variance"): ("LatentbenchTokenizer", 0.5, "a layer norm makes its latents"),
    ("line", "kl"): ("LatentbenchTokenizer", None, ""),
}


@pytest.mark.parametrize("row", CASES, ids=" ".join)
def test_diffusers_loads_the_folder_and_gives_the_same_latents_and_images(row, made, export, tmp_path):
    name, std, note = CASES[row]
    done = export(*row)
    assert done.returncode == 0, done.stderr
    assert note in done.stderr and name in done.stdout
    model = loaded(tmp_path / "exported", **({"trust_remote_code": True} if name != "AutoencoderKL" else {}))
    assert type(model).__name__ == name
    cell, images, z, decoded = ours(made, *row)
    with torch.no_grad():
        posterior = model.encode(images).latent_dist
        again = model.decode(posterior.mode()).sample
    assert torch.allclose(posterior.mode().flatten(2).transpose(1, 2), z, atol=1e-5)
    assert torch.allclose(again, decoded, atol=1e-5)
    if std is not None:
        assert torch.allclose(posterior.std, torch.full_like(posterior.std, std), atol=1e-6)
    rule = cell.normalisation
    assert torch.allclose(torch.tensor(model.config.latents_mean), rule.mean)
    assert torch.allclose(torch.tensor(model.config.latents_std), rule.std)
    model.save_pretrained(tmp_path / "again")  # the format is the library's own
    assert json.loads((tmp_path / "again/config.json").read_text())["_class_name"] == name


def test_the_posterior_of_kl_is_drawn_from_as_the_regularizer_draws(made, export, tmp_path):
    export("conv", "kl")
    cell, images, _, _ = ours(made, "conv", "kl")
    unit = torch.randn(32, 4, 4, 4, generator=torch.Generator().manual_seed(0))

    class Fixed:
        def normal(self, like, name):
            return unit.flatten(2).transpose(1, 2)

    with torch.no_grad():
        posterior = loaded(tmp_path / "exported").encode(images).latent_dist
        drawn = cell.regularizer.latent(cell.tokenizer.encode(images), Fixed())
    assert torch.allclose(
        (posterior.mean + posterior.std * unit).flatten(2).transpose(1, 2), drawn, atol=1e-5
    )


def test_the_model_card_has_the_numbers_with_protocol_n_and_interval_and_how_it_was_made(
    made, export, tmp_path
):
    assert export("conv", "kl").returncode == 0
    card = (tmp_path / "exported/README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers") and "differ by at most" in card
    psnr = next(line for line in card.splitlines() if line.startswith("| PSNR ↑"))
    cells = [cell.strip() for cell in psnr.strip("|").split("|")]
    low, high = map(float, cells[2].split("–"))
    assert low < float(cells[1]) < high and cells[3] == "360"
    assert cells[4].strip("`") in card.split("Protocols")[1]
    assert "budget: tokenizer_steps 12, generator_steps 12, batch 16" in card
    assert (tmp_path / "exported/matrix.lock.yaml").read_bytes() == (
        made / "results/tiny/matrix.lock.yaml"
    ).read_bytes()


@pytest.mark.parametrize("name, size", [("conv", "f16d16"), ("vavae", "f16d32")])
@pytest.mark.parametrize("pixels", [64, pytest.param(256, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("expansion", [2, pytest.param(1, marks=pytest.mark.nightly)])
def test_networks_of_published_size_are_autoencoderkl_with_the_same_parameters(name, size, pixels, expansion):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    facts = {"image": ImageSpec(3, pixels, pixels), "expansion": expansion}
    tokenizer = registry.build("tokenizers", name, facts, registry.get("tokenizers", name).sizes[size]).eval()
    config, state = tokenizer.as_diffusers()
    assert config.pop("_class_name") == "AutoencoderKL"
    model = AutoencoderKL(**config).eval()
    if expansion == 2:
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in tokenizer.parameters())
    model.load_state_dict(state if expansion == 2 else with_posterior(state, 0.5))
    images = torch.rand(1, 3, pixels, pixels) * 2 - 1
    with torch.no_grad():
        h = tokenizer.encode(images)[..., : tokenizer.spec.channels]
        z = h.transpose(1, 2).unflatten(2, tokenizer.grid)
        assert (model.encode(images).latent_dist.mean - z).abs().max() < 1e-4
        difference = (model.decode(z).sample - tokenizer.decode(h)).abs().max()
    print(f"{name} {size}, {pixels} px, expansion {expansion}: {float(difference):.1e}")
    assert difference <= 1e-4


def test_shards_are_read_by_lightningdits_rules(made, export, tmp_path):
    """Its dataset opens every *.safetensors of a folder and slices `latents`, `latents_flip` and `labels`."""
    done = export("conv", "none", "--latents", "lightningdit")
    assert done.returncode == 0, done.stderr
    cell, images, z, _ = ours(made, "conv", "none")
    for split, count in (("train", 1437), ("val", 360)):
        (file,) = (tmp_path / "exported" / split).glob("*.safetensors")
        with safe_open(file, framework="pt") as shard:
            assert set(shard.keys()) == {"latents", "latents_flip", "labels"}
            assert shard.get_slice("latents").get_shape() == [count, 4, 4, 4]
            assert shard.get_slice("latents")[0:1].dtype == torch.float32
            assert torch.equal(shard.get_tensor("labels"), cell.dataset.labels(split))
            latents, mirrored = shard.get_tensor("latents"), shard.get_tensor("latents_flip")
    assert torch.allclose(latents[:32].flatten(2).transpose(1, 2), z, atol=1e-5)
    with torch.no_grad():
        flipped = cell.tokenizer.encode(images.flip(3))
    assert torch.allclose(mirrored[:32].flatten(2).transpose(1, 2), flipped, atol=1e-5)
    stats = torch.load(tmp_path / "exported/train/latents_stats.pt")
    assert stats["mean"].shape == stats["std"].shape == (1, 4, 1, 1)
    assert torch.equal(stats["std"].flatten(), cell.normalisation.std)


def test_large_sets_are_cut_into_shards(made, export, tmp_path, monkeypatch):
    monkeypatch.setattr("latentbench.bench.tools.latent_files.SHARD", 500)
    done = export("conv", "kl", "--latents", "lightningdit")
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "exported/train").glob("*.safetensors"))
    sizes, labels = [], []
    for file in files:
        with safe_open(file, framework="pt") as shard:
            sizes.append(shard.get_slice("latents").get_shape()[0])
            labels.append(shard.get_tensor("labels"))
    assert sizes == [500, 500, 437]
    assert torch.equal(torch.cat(labels), ours(made, "conv", "kl")[0].dataset.labels("train"))


def test_moments_are_read_by_mars_rules(made, export, tmp_path):
    """Its dataset is torchvision's folder of .npz files, a folder for each class."""
    from torchvision.datasets import DatasetFolder

    done = export("conv", "kl", "--latents", "mar")
    assert done.returncode == 0, done.stderr
    read = DatasetFolder(str(tmp_path / "exported/val"), loader=np.load, extensions=(".npz",))
    cell, images, _, _ = ours(made, "conv", "kl")
    labels = cell.dataset.labels("val")
    assert len(read) == 360 and read.targets == sorted(labels.tolist())
    with torch.no_grad():
        h = cell.tokenizer.encode(images).transpose(1, 2).unflatten(2, (4, 4))
        flipped = cell.tokenizer.encode(images.flip(3)).transpose(1, 2).unflatten(2, (4, 4))
    files = sorted((tmp_path / "exported/val").rglob("*.npz"), key=lambda file: file.name)[:32]
    for i, file in enumerate(files):
        arrays = np.load(file)
        assert int(file.parent.name) == int(labels[i])
        assert np.allclose(arrays["moments"], h[i], atol=1e-5)
        assert np.allclose(arrays["moments_flip"], flipped[i], atol=1e-5)


@pytest.mark.parametrize(
    "row, words, says",
    [
        (("vit", "lzn"), (), "isn't what the encoder gives of one image alone"),
        (("line", "kl"), ("--latents", "mar"), "have no grid"),
        (("vit", "*"), (), "tokenizers in results/tiny fit"),
        (("nothing", "kl"), (), "none in results/tiny fits"),
        (("conv", "kl,colour=red"), (), "unknown axis in --filter 'colour'"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_the_reason(row, words, says, export, tmp_path):
    done = export(*row, *words)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert not (tmp_path / "exported").exists()


MODELS = {  # a tiny config, the class of the folder that is written, and what is noted of its latents
    "AutoencoderKL": ({"block_out_channels": [32, 32], "latent_channels": 4}, ""),
    "AutoencoderTiny": (
        {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8],
         "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1], "latent_channels": 4},
        "standard deviations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("regularizer", ["none", "kl"])
def test_a_model_of_diffusers_that_was_trained_on_goes_out_as_the_same_class(
    name, regularizer, tmp_path, monkeypatch
):
    import diffusers

    options, note = MODELS[name]
    if name == "AutoencoderKL":
        options |= {
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
        }
    if (name, regularizer) == ("AutoencoderTiny", "kl"):
        return  # it has no posterior
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    getattr(diffusers, name)(**options).save_pretrained(tmp_path / "vae")
    (tmp_path / "matrix.yaml").write_text(
        HEAD
        + f"tokenizers: {{mine: {{use: diffusers, path: vae}}}}\nregularizers: {{{regularizer}: {{}}}}\n"
        + "generators: {gaussian: {}}\nevaluators: [reconstruction]\n"
    )
    done = bench_inline("run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = bench_inline("export", "results/tiny", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0 and f"{name}: out" in done.stdout and note in done.stderr, done.stderr
    model = loaded(tmp_path / "out")
    before = loaded(tmp_path / "vae")
    changed = [n for n, p in model.state_dict().items() if not torch.equal(p, before.state_dict()[n])]
    assert type(model) is type(before) and changed  # it was trained
    cell = find_trained(tmp_path / "results/tiny", {}).cell
    images = cell.dataset.images("val", torch.arange(8))
    with torch.no_grad():
        encoded = model.encode(images.repeat(1, 3, 1, 1))
        latents = encoded.latents if name == "AutoencoderTiny" else encoded.latent_dist.mode()
        z = cell.regularizer.latent(cell.tokenizer.encode(images), None)
        decoded = model.decode(latents).sample.mean(1, keepdim=True)
    assert torch.allclose(latents.flatten(2).transpose(1, 2), z, atol=1e-5)
    assert torch.allclose(decoded, cell.tokenizer.decode(z), atol=1e-5)


def test_nothing_is_overwritten(export, tmp_path):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/mine").write_text("mine")
    for words in ((), ("--latents", "mar")):
        done = export("conv", "kl", *words)
        assert done.returncode == 2 and "must name a new folder" in done.stderr
    assert [file.name for file in (tmp_path / "exported").iterdir()] == ["mine"]


def test_results_without_their_artifacts_or_without_a_matrix_say_what_is_missing(made, tmp_path):
    chosen = ("-k", "tokenizer=conv,regularizer=kl", "-o", tmp_path / "out")
    done = bench_inline("export", "results/tiny", *chosen, cwd=made, home=tmp_path / "elsewhere")
    assert done.returncode == 2 and "LATENTBENCH_HOME" in done.stderr
    done = bench_inline("export", tmp_path, *chosen, cwd=made)
    assert done.returncode == 2 and "a results folder as `bench run` writes it" in done.stderr


def test_an_export_needs_no_diffusers(made, tmp_path):
    words = ["export", "results/tiny", "-k", "tokenizer=conv,regularizer=kl", "-o", str(tmp_path / "out")]
    script = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "diffusers" else find(name, *rest)
sys.modules["diffusers"] = None
from latentbench.bench.cli import main
sys.argv = {["bench", *words]!r}
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=made, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0 and "diffusers isn't installed" in done.stderr, done.stderr
    assert type(loaded(tmp_path / "out")).__name__ == "AutoencoderKL"
    assert "No version of diffusers was at hand" in (tmp_path / "out/README.md").read_text()


def test_the_command_says_where_the_folder_is(made, tmp_path):
    done = bench(
        "export", "results/tiny", "-k", "tokenizer=vit,regularizer=kl", "-o", tmp_path / "out", cwd=made
    )
    assert done.returncode == 0, done.stderr
    assert f"LatentbenchTokenizer: {tmp_path / 'out'}" in done.stdout
