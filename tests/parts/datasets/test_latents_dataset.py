"""Latents without images: what generators learn stays, and every name of a comparison says what it is of."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.latent_folders import export_digits, latent_set
from helpers.run import bench_inline, fields_of
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm

from latentbench.bench.api import Tokenizer
from latentbench.bench.data.fixed_order import random_rows
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import create
from latentbench.bench.store.artifacts import Store
from latentbench.bench.store.stage import UNKNOWN

DECODER = "decoder: {use: diffusers, path: folder}"
MATRIX = """\
name: NAME
dataset: DATASET
seeds: [0]
budget: {tokenizer_steps: 0, generator_steps: 6, batch: 32}
features: {use: effnet_lite0, resolution: 32}
reference: {use: teacher}
reconstruction: {l1: 1.0}
samples: 96
tokenizers: {one: TOKENIZER}
regularizers: {none: {}}
generators:
  gaussian: {}
  sit: {width: 16, depth: 1, heads: 2, guidance: {sweep: [1.0, 2.0], samples: 24}, sampler: {steps: 2}}
evaluators: [reconstruction, generation, class_accuracy, latents, density, robustness, linear_probe]
"""
ALONE = f"{{use: latents, root: mar, {DECODER}, size: 8, channels: 1}}"
KINDS = ("latents", "generator", "samples", "guidance")


def matrix(name, dataset, tokenizer):
    return MATRIX.replace("NAME", name).replace("DATASET", dataset).replace("TOKENIZER", tokenizer)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same latents with and without the images they are of: runs `images` and `alone` in one folder."""
    folder = tmp_path_factory.mktemp("made")
    export_digits(folder)
    texts = {
        "alone": matrix("alone", ALONE, "{use: cached}"),
        "images": matrix("images", "{use: digits}", f"{{use: cached, latents: mar, {DECODER}}}"),
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
        done = bench_inline("run", "-m", f"{name}.yaml", cwd=folder, home=folder / "home")
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / f"{name}.txt").write_text(done.stdout + done.stderr)
    return folder


def records(made, name):
    """The records of a run by generator."""
    found = [fields_of(file) for file in (made / f"results/{name}/records").glob("*.json")]
    return {record["cell"]["generator"]: record for record in found}


def artifacts(made, name, monkeypatch):
    monkeypatch.chdir(made)
    store = Store(made / "home")
    stages = make_plan(load_matrix(made / f"{name}.yaml")).stages.values()
    return {(s.kind, s.label): store.get(s) for s in stages if s.kind in KINDS}


def test_generators_learn_and_draw_the_same_as_beside_images(made, monkeypatch):
    with_images, alone = (artifacts(made, name, monkeypatch) for name in ("images", "alone"))
    assert with_images.keys() == alone.keys() and len(alone) >= 7
    for key, artifact in alone.items():
        if key[0] == "guidance" or "chosen" in key[1]:  # which guidance is best depends on the images
            continue
        theirs = with_images[key].tensors
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in artifact.tensors.items()), key


def test_what_compares_with_images_has_another_name_and_what_does_not_the_same_value(made):
    with_images, alone = records(made, "images"), records(made, "alone")
    for generator, record in alone.items():
        theirs = with_images[generator]["metrics"]
        names = {name.partition("[")[0].partition("@")[0] for name in record["metrics"]}
        assert not names & {"gFD", "gFID", "KD", "precision", "class_accuracy", "kNN_NLL", "PSNR", "rFD"}
        assert "gFD_decoded" in names and "sFD" not in names
        for name, entry in record["metrics"].items():
            if "_decoded" not in name:
                assert entry["value"] == pytest.approx(theirs[name]["value"], abs=1e-6), name
                continue
            plain = theirs.get(name.replace("_decoded", ""))
            assert entry["protocol"]["images"] == "decoded latents"
            assert entry["about"].endswith("Decoded latents stand for images.")
            assert plain is None or plain["protocol"] != entry["protocol"]
    assert {"effective_rank", "probe_accuracy"} <= {*alone["gaussian"]["metrics"]}
    curve = alone["sit"]["curves"]["sweep"] if "sweep" in alone["sit"]["curves"] else alone["sit"]["curves"]
    assert "gFD_decoded[effnet_lite0:32]" in json.dumps(curve) and '"gFD[' not in json.dumps(curve)


def test_reconstructions_have_no_numbers_but_a_reason(made):
    missing = records(made, "alone")["gaussian"]["missing"]
    for evaluator in ("reconstruction", "robustness"):
        assert missing[evaluator]["failed"] is False
        assert "would be compared with themselves" in missing[evaluator]["reason"]
    assert "no numbers of reconstruction: the dataset has stored latents" in (made / "alone.txt").read_text()
    assert "missing" not in records(made, "images")["gaussian"]
    assert not list((made / "results/alone/samples").glob("*reconstructions*"))


def frechet(a, b):
    """The Fréchet distance by its formula, with scipy's root of a matrix."""
    a, b = a.double().numpy(), b.double().numpy()
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)


def test_the_distance_is_to_the_latents_as_diffusers_decodes_them(made, monkeypatch):
    from diffusers import AutoModel

    model = AutoModel.from_pretrained(str(made / "folder")).eval()
    extractor = create("features", "effnet_lite0", resolution=32)

    def features(images):
        return extractor.describe(images, ("pooled",))["pooled"]

    decoded = {}
    for split in ("train", "val"):
        files = sorted((made / "mar" / split).glob("*/*.npz"), key=lambda file: file.stem)
        means = torch.stack([torch.from_numpy(np.load(file)["moments"][:4]) for file in files])
        with torch.no_grad():
            images = model.decode(means).sample
        levels = ((images.mean(1, keepdim=True).clamp(-1, 1) + 1) * 127.5).round()
        decoded[split] = features(levels / 127.5 - 1)
    drawn = artifacts(made, "alone", monkeypatch)
    samples = drawn["samples", "one · none · gaussian · seed 0.0.0 · guidance 1"].tensors["images"]
    samples = features(samples.float() / 127.5 - 1)
    metrics = records(made, "alone")
    found = metrics["gaussian"]["metrics"]["gFD_decoded[effnet_lite0:32]@1"]["value"]
    assert found == pytest.approx(frechet(samples, decoded["train"]), rel=2e-3)
    real = [entry for name, entry in metrics["real"]["metrics"].items() if name.startswith("gFD_decoded")]
    assert len(real) == 1 and real[0]["n"] == 96
    held_out = decoded["val"][random_rows(360, 96)]
    assert real[0]["value"] == pytest.approx(frechet(held_out, decoded["train"]), rel=2e-3)


def test_tables_call_held_out_latents_decoded(made):
    text = (made / "results/alone/leaderboard.md").read_text()
    tables = "".join(line for line in text.splitlines() if line.startswith("|"))
    assert "| decoded " in tables and "| real " not in tables and "gFD " not in tables
    assert "`decoded` are decoded held-out latents" in text
    page = (made / "results/alone/leaderboard.html").read_text()
    assert ">held-out latents, decoded<" in page and ">real images<" not in page


def test_a_moved_folder_has_the_same_keys_and_changed_files_have_others(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mar", "folder"):
        shutil.copytree(made / name, tmp_path / "one" / name)

    def keys(folder):
        text = (made / "alone.yaml").read_text().replace("mar,", f"{folder}/mar,")
        (tmp_path / "matrix.yaml").write_text(text.replace("path: folder", f"path: {folder}/folder"))
        return {stage.key for stage in make_plan(load_matrix(tmp_path / "matrix.yaml")).stages.values()}

    before = keys("one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert keys("two") == before and UNKNOWN not in before
    config = tmp_path / "two/folder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"act_fn": "relu"}))
    edited = keys("two")
    assert not edited & before
    next((tmp_path / "two/mar/val").glob("*/*.npz")).unlink()
    assert not keys("two") & (before | edited)


# --- the dataset --------------------------------------------------------------------------------------------


def dataset(**options):
    return create("datasets", "latents", **latent_set() | options)


def test_an_image_is_what_its_latent_alone_is_decoded_to():
    data = dataset()
    index = torch.tensor([41, 3, 3, 0])
    several = data.levels("val", index)
    assert torch.equal(several[1], several[2])
    assert torch.equal(several, torch.cat([data.levels("val", index[i : i + 1]) for i in range(4)]))
    assert torch.equal(data.images("val", index), several.float() / 127.5 - 1)


def test_without_files_of_val_a_fixed_choice_is_held_out(tmp_path):
    root = tmp_path / "latents"
    tensors = load_file(f"{latent_set()['root']}/train/latents.safetensors")
    root.mkdir()
    save_file(tensors, root / "latents_rank00_shard000.safetensors")
    splits = [dataset(root=str(root), held_out=0.25).latents for _ in range(2)]
    found = [
        {split: one.stored(split).rows(torch.arange(len(one.stored(split)))) for split in ("train", "val")}
        for one in splits
    ]
    assert len(found[0]["val"]) == 15 and torch.equal(found[0]["val"], found[1]["val"])
    both = torch.cat([found[0]["train"], found[0]["val"]]).flatten(1)
    assert torch.equal(both.unique(dim=0), tensors["latents"].flatten(1).unique(dim=0))
    data = dataset(root=str(root), held_out=0.25)
    assert "val is a fixed random choice of 0.25 of train's files" in "\n".join(data.description())
    assert torch.equal(data.labels("val"), splits[1].stored("val").labels)
    assert data.fingerprint() != dataset(root=str(root), held_out=0.5).fingerprint()


def test_splits_may_be_two_folders_anywhere_or_arrays(tmp_path):
    root = latent_set()["root"]
    plain = dataset()
    elsewhere = shutil.copytree(f"{root}/val", tmp_path / "imagenet_val_256")
    named = dataset(splits={"train": "train", "val": str(elsewhere)})
    assert named.fingerprint() == plain.fingerprint()
    tensors = load_file(f"{root}/train/latents.safetensors")
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", tensors["latents"].numpy())
        np.save(tmp_path / f"{name}_labels.npy", tensors["labels"].numpy())
    arrays = dataset(root=str(tmp_path), splits={"train": "a.npy", "val": "b.npy"})
    index = torch.arange(5)
    assert torch.equal(arrays.levels("train", index), plain.levels("train", index))
    assert torch.equal(arrays.labels("val"), tensors["labels"]) and arrays.classes == 3


def test_latents_without_labels_are_a_set_without_classes(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        save_file({"latents": torch.randn(8, 4, 4, 4)}, tmp_path / split / "a.safetensors")
    data = dataset(root=str(tmp_path))
    assert data.classes == 0 and data.labels("train") is None and "no classes" in data.description()[0]


# --- mistakes -----------------------------------------------------------------------------------------------


def without_labels(root):
    tensors = load_file(root / "val/latents.safetensors")
    save_file({"latents": tensors["latents"]}, root / "val/latents.safetensors")


def fewer_labels(root):
    tensors = load_file(root / "train/latents.safetensors")
    save_file(tensors | {"labels": tensors["labels"][:-1].clone()}, root / "train/latents.safetensors")


def more_classes(root):
    tensors = load_file(root / "val/latents.safetensors")
    save_file(tensors | {"labels": tensors["labels"] + 9}, root / "val/latents.safetensors")


def nothing(root):
    shutil.rmtree(root)


MISTAKES = {
    "no decoder": ({"decoder": "{use: diffusers}"}, "decoder: the option 'path' is missing: a folder with"),
    "no folder": ({"decoder": "{use: diffusers, path: gone}"}, "decoder: there is no folder gone"),
    "no weights": (
        {"decoder": "conv"},
        "conv has no weights of its own: `weights: FILE` names them",
    ),
    "no weights file": ({"weights": "gone"}, "there is no file gone, the weights of the decoder"),
    "cached": ({"decoder": "cached"}, "decoder: cached reads latents itself"),
    "another size": (
        {"size": 16},
        "of 4 x 4 x 4, the decoder takes 4 x 8 x 8, for images of 16 x 16 (`size`)",
    ),
    "no latents": (nothing, "neither train.npy, train/*.safetensors nor train/*/*.npz"),
    "no labels": (without_labels, "latents of val have no labels, and those of train do"),
    "fewer labels": (fewer_labels, "has 59 labels for 60 latents"),
    "other classes": (more_classes, "labels of val are 9 to 11, and the classes of train 0 to 2"),
    "the same twice": ({"splits": "{train: train, val: train}"}, "train and val are the same latents: train"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_at_its_line_before_anything_runs(name, tmp_path):
    change, says = MISTAKES[name]
    root = shutil.copytree(latent_set()["root"], tmp_path / "latents")
    options = {"root": "latents", "size": 8, "decoder": json.dumps(latent_set()["decoder"])}
    if callable(change):
        change(root)
    else:
        options |= change
    text = ", ".join(f"{key}: {value}" for key, value in options.items())
    (tmp_path / "matrix.yaml").write_text(matrix("wrong", f"{{use: latents, {text}}}", "{use: cached}"))
    done = bench_inline("run", "-m", "matrix.yaml", cwd=tmp_path, home=tmp_path / "home")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2 and says in said and "Traceback" not in said, said
    assert "matrix.yaml:2:" in said and not (tmp_path / "results").exists()


def test_tokenizers_that_would_encode_images_are_skipped_with_the_reason(tmp_path):
    plain = {**latent_set(), "decoder": json.dumps(latent_set()["decoder"])}
    options = ", ".join(f"{key}: {value}" for key, value in plain.items())
    text = matrix("other", f"{{use: latents, {options}}}", "{use: conv}, two: {use: cached}")
    (tmp_path / "matrix.yaml").write_text(text)
    cells = make_plan(load_matrix(tmp_path / "matrix.yaml")).cells
    skipped = {cell.tokenizer: cell.skipped for cell in cells}
    assert skipped["two"] is None and "the dataset has stored latents and no images" in skipped["one"]


def test_the_row_names_other_latents_or_another_decoder_where_it_has_them(tmp_path):
    data = dataset()
    facts = {"image": data.image, "expansion": 1, "dataset": data}
    own = create("tokenizers", "cached", **facts)
    assert own.stored("val").shape == (60, 16, 4) and own.own_weights() == data._weights_file
    other = create("tokenizers", "cached", **facts, latents=data.latents.root.as_posix())
    assert torch.equal(other.stored("val"), own.stored("val"))
    digits = create("datasets", "digits")
    for options, says in (
        ({}, "'latents' is missing.*`dataset: {use: latents}`"),
        ({"latents": "x"}, "'decoder' is missing"),
    ):
        with pytest.raises(ValueError, match=says):
            create("tokenizers", "cached", image=digits.image, expansion=1, dataset=digits, **options)
    assert type(own).stored is not Tokenizer.stored
