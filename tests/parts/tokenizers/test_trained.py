"""The tokenizer `trained`: folders of `bench export`, against the class that diffusers loads from them."""

import json
import shutil

import pytest
import torch
from helpers.trained_folders import VIT, write_config, write_exported

import latentbench.bench as lb
from latentbench.bench.api import ImageSpec, Unfit
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.nn import released_weights
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import PartError, create
from latentbench.bench.store.artifacts import Result, Store
from latentbench.bench.store.stage import Stage

GREY = ImageSpec(1, 8, 8)
KINDS = {
    "posterior": {},
    "means": {"expansion": 1},
    "noise": {"expansion": 1, "log_variance": -1.5},
    "norm": {"expansion": 1, "log_variance": -1.5, "layer_norm": True},
    "without a grid": {**VIT, "options": VIT["options"] | {"latents": 3}},
}


def trained(folder, image=GREY, expansion=1, weights=True):
    made = create("tokenizers", "trained", image=image, expansion=expansion, dataset=None, path=str(folder))
    if weights:
        made.load_state_dict(released_weights.state(made, made.own_weights()))
    return made.eval()


def images(count=4):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_latents_and_images_are_those_of_the_class_that_diffusers_loads(kind, tmp_path):
    from latentbench.bench.tools.exported_tokenizer import LatentbenchTokenizer

    folder = write_exported(tmp_path / "exported", **KINDS[kind])
    posterior = (
        (model := LatentbenchTokenizer.from_pretrained(str(folder)).eval()).encode(images()).latent_dist
    )

    def tokens(maps):
        return maps.flatten(2).transpose(1, 2)

    mean = trained(folder).encode(images())
    assert torch.allclose(mean, tokens(posterior.mode()), atol=1e-6)
    decoded = trained(folder).decode(mean)  # of another memory layout, in which sums round otherwise
    assert torch.allclose(decoded, model.decode(posterior.mode()).sample, atol=1e-5)
    drawn_mean, log_variance = trained(folder, expansion=2).encode(images()).chunk(2, -1)
    assert torch.equal(drawn_mean, mean)
    assert torch.allclose((0.5 * log_variance).exp(), tokens(posterior.std), rtol=1e-4, atol=1e-6)


def keys(path):
    matrix = {
        "name": "keys",
        "dataset": "digits",
        "features": "effnet_lite0",
        "budget": {"tokenizer_steps": 0},
        "tokenizers": {"mine": {"use": "trained", "path": str(path)}},
        "regularizers": {"none": {}},
        "generators": {"none": {}},
        "evaluators": ["reconstruction"],
    }
    return {
        stage.key for stage in make_plan(load_matrix(matrix)).stages.values() if stage.kind == "tokenizer"
    }


def test_keys_have_what_is_in_the_folder_and_not_where_it_is(tmp_path):
    folder = write_exported(tmp_path / "exported")
    first = keys(folder)
    assert keys(shutil.copytree(folder, tmp_path / "elsewhere/copy")) == first
    changed = [
        keys(write_exported(tmp_path / "other weights", seed=1)),
        keys(write_exported(tmp_path / "other latents", expansion=1)),
        keys(write_exported(tmp_path / "other noise", expansion=1, log_variance=-2.0)),
    ]
    assert len({*map(frozenset, [first, *changed])}) == 4
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    assert keys(folder) == {"unknown"}


BROKEN = {
    "no config": ({}, "has no config.json"),
    "a model of diffusers": ({"_class_name": "AutoencoderKL"}, "`use: diffusers` takes it"),
    "no part": ({"part": None}, "doesn't say how its latents are made: part: field required"),
    "no posterior": ({"layer_norm": None}, "layer_norm: field required; `bench export` writes it anew"),
    "options as text": ({"options": "wide"}, "options: input should be"),
    "another expansion": ({"expansion": 3}, "expansion: input should be 1 or 2"),
    "no number": ({"log_variance": float("nan")}, "log_variance: input should be a finite number"),
    "two sides": ({"image": [8, 8]}, "image.2: field required"),
    "unknown part": ({"part": "konv"}, "unknown tokenizer 'konv'; did you mean 'conv'"),
    "unknown option": ({"options": {"widht": 32}}, "unknown option 'widht'; did you mean 'width'"),
    "wrong option": ({"options": {"width": -1}}, "width must be"),
    "itself": ({"part": "trained", "options": {"path": "."}}, "whose files aren't in the folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_does_not_say_what_it_holds_is_refused_with_the_reason(name, tmp_path):
    changes, says = BROKEN[name]
    folder = write_config(tmp_path / "exported", **changes)
    if name == "no config":
        (folder / "config.json").unlink()
    with pytest.raises((ValueError, PartError)) as caught:
        trained(folder, weights=False)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"part": "conv"}', "\x00"])
def test_a_config_that_is_none_is_named(text, tmp_path):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="config.json (is no JSON|names no class)"):
        trained(tmp_path, weights=False)


def test_no_code_of_the_folder_runs(tmp_path):
    folder = write_exported(tmp_path / "exported")
    for name in ("exported_tokenizer.py", "__init__.py", "conv.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    trained(folder).encode(images())
    assert not (tmp_path / "ran").exists()


SIZES = [
    (VIT, ImageSpec(1, 16, 16), False),
    (VIT, ImageSpec(1, 10, 8), False),
    (VIT, ImageSpec(3, 8, 8), False),
    ({}, ImageSpec(3, 8, 8), False),
    ({}, ImageSpec(1, 9, 8), False),
    ({}, ImageSpec(1, 16, 16), True),
]


@pytest.mark.parametrize("changes, image, fits", SIZES)
def test_images_that_its_weights_do_not_fit_are_refused_with_both_sizes(changes, image, fits, tmp_path):
    folder = write_exported(tmp_path / "exported", **changes)
    if fits:
        assert trained(folder, image).spec.grid == (8, 8)
        return
    size = f"{image.channels} x {image.height} x {image.width}"
    with pytest.raises(Unfit, match=f"on images of 1 x 8 x 8, and doesn't fit images of {size}: "):
        trained(folder, image)


def test_diffusers_says_which_part_takes_the_folder(tmp_path):
    folder = write_config(tmp_path / "exported")
    with pytest.raises(ValueError, match="`use: trained` takes it"):
        create("tokenizers", "diffusers", image=GREY, expansion=1, path=str(folder))


def stored(root, kind="tokenizer", error=None, regularizer="none"):
    config = {
        "tokenizer": {"name": "conv", "options": {}},
        "regularizer": {"name": regularizer, "options": {}},
        "facts": {"classes": 10} if regularizer == "lzn" else {},
        "dataset": {"name": "digits"},
    }
    stage = Stage(kind, "conv", config, {}, "0" * 64, True)
    Store(root).put(stage, Result(error=error))
    return Store(root).path(stage)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"kind": "latents"}, "has no trained tokenizer: it is an artifact of latents"),
        ({"error": "diverged at step 3"}, "has no trained tokenizer: diverged at step 3"),
        ({"regularizer": "lzn"}, "latents of lzn depend on their minibatch"),
        ({"regularizer": "nothing"}, "unknown regularizer 'nothing'"),
    ],
)
def test_an_artifact_without_a_tokenizer_that_can_be_taken_is_refused(options, says, tmp_path):
    with pytest.raises((ValueError, PartError, Unfit)) as caught:
        trained(stored(tmp_path, **options), weights=False)
    assert says in str(caught.value)


def test_a_broken_artifact_is_refused(tmp_path):
    folder = stored(tmp_path)
    meta = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    (folder / "stage.json").write_text(json.dumps(meta | {"label": "other"}, indent=1), encoding="utf-8")
    with pytest.raises(ValueError, match="stage.json"):
        trained(folder, weights=False)


def test_a_generator_is_trained_on_the_latents_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_exported(tmp_path / "exported", expansion=1, log_variance=-2.0)
    matrix = {
        "name": "later",
        "dataset": "digits",
        "features": {"use": "effnet_lite0", "resolution": 32},
        "budget": {"tokenizer_steps": 0, "generator_steps": 2, "batch": 16},
        "samples": 64,
        "tokenizers": {"mine": {"use": "trained", "path": "exported"}},
        "regularizers": {"drawn": {"use": "kl"}},
        "generators": {"lightningdit": {"width": 32, "depth": 1, "heads": 2, "sampler": {"steps": 2}}},
        "evaluators": ["generation"],
    }
    made = lb.run(matrix, progress=False)
    assert not made.failed and made.frame().regularizer.tolist().count("drawn") == 1
    found = lb.tokenizer(made)
    z = found.encode(images(), normalised=False)
    assert torch.allclose(z, trained("exported").encode(images()), atol=1e-6)
    noise = found.encode(images(256), normalised=False, sample=True) - found.encode(
        images(256), normalised=False
    )
    assert noise.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.05)
