"""Stored latents in place of an encoder: the same numbers as the encoder's, and nothing from other images."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.latent_folders import export_digits
from helpers.run import TINY, bench_inline
from safetensors.torch import load_file, save_file

from latentbench.bench.models.latent_folder import LatentFolder
from latentbench.bench.models.stored_latents import LatentsError, StoredLatents, files_in
from latentbench.bench.tools.find_tokenizer import find_trained

HEAD = TINY.partition("tokenizers:")[0]
TAIL = "generators: {gaussian: {}}\nevaluators: [reconstruction, generation, latents]\n"
SCORED = (
    HEAD.replace("tokenizer_steps: 12", "tokenizer_steps: 0")
    + """\
tokenizers:
  encoder: {use: diffusers, path: folder}
  stored: {use: cached, latents: LATENTS, decoder: {use: diffusers, path: folder}}
regularizers: {none: {}, kl: {}}
"""
    + TAIL
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an exported tokenizer and its latents in the layouts of MAR, LightningDiT and numpy."""
    folder = tmp_path_factory.mktemp("made")
    export_digits(folder)
    (folder / "arrays").mkdir()
    cell = find_trained(folder / "results/tiny", {}).cell
    for split in ("train", "val"):
        h = cell.inputs["latents"].tensors[f"h/{split}"][..., :4].transpose(1, 2).unflatten(2, (4, 4))
        np.save(folder / f"arrays/{split}.npy", h.numpy())
        np.save(folder / f"arrays/{split}_labels.npy", cell.dataset.labels(split).numpy())
    return folder


def run(folder, latents, *words, home):
    (folder / "scored.yaml").write_text(SCORED.replace("LATENTS", str(latents)))
    return bench_inline("run", "-m", "scored.yaml", "-o", home / "out", *words, cwd=folder, home=home)


def numbers(home):
    """The metrics of each row, by tokenizer and regularizer."""
    found = {}
    for file in (home / "out/records").glob("*.json"):
        record = json.loads(file.read_text())
        values = {name: entry["value"] for name, entry in record["metrics"].items()}
        found[record["cell"]["tokenizer"], record["cell"]["regularizer"]] = record["status"], values
    return found


def test_moments_give_the_encoders_numbers_with_and_without_draws(made, tmp_path):
    done = run(made, "mar", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = numbers(tmp_path)
    for regularizer in ("none", "kl"):
        status, stored = found["stored", regularizer]
        assert status == "done" and len(stored) > 10
        assert stored == pytest.approx(found["encoder", regularizer][1], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("layout", ["arrays", "shards"])
def test_latents_without_moments_fit_none_alone(layout, made, tmp_path):
    done = run(made, layout, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = numbers(tmp_path)
    assert found["stored", "kl"][0] == "skipped" and "draws of latents and no moments" in done.stdout
    status, stored = found["stored", "none"]
    assert status == "done"
    if layout == "arrays":
        assert stored == pytest.approx(found["encoder", "none"][1], rel=1e-4, abs=1e-4)


def test_stored_latents_cannot_be_trained(made, tmp_path):
    (made / "trains.yaml").write_text(
        SCORED.replace("LATENTS", "mar").replace("tokenizer_steps: 0", "tokenizer_steps: 3")
    )
    done = bench_inline("run", "-m", "trains.yaml", "-o", tmp_path / "out", cwd=made, home=tmp_path)
    assert "the row needs budget: {tokenizer_steps: 0}" in done.stdout


def broken(made, tmp_path, change):
    """A copy of the shards after a change of the training split's tensors."""
    shutil.copytree(made / "shards", tmp_path / "changed")
    (file,) = (tmp_path / "changed/train").glob("*.safetensors")
    save_file({name: t.contiguous() for name, t in change(load_file(file)).items()}, file)
    return tmp_path / "changed"


CHANGES = {
    "other labels": (
        lambda t: t | {"labels": t["labels"].flip(0)},
        "are of other images, or in another order",
    ),
    "fewer": (
        lambda t: {k: v[:-1] for k, v in t.items()},
        "1,436 train latents, and the dataset 1,437 train images",
    ),
    "no latents": (lambda t: {"labels": t["labels"]}, "neither `latents` nor `moments`, but labels"),
    "another shape": (lambda t: t | {"latents": t["latents"][:, :3]}, "the decoder takes 4 x 4 x 4"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_latents_of_other_images_are_named_before_they_are_scored(name, made, tmp_path):
    change, says = CHANGES[name]
    done = run(
        made, broken(made, tmp_path, change), "--filter", "tokenizer=stored,regularizer=none", home=tmp_path
    )
    text = " ".join((done.stdout + done.stderr).split())
    assert says in text and "Traceback" not in text, text
    assert not any(
        values for status, values in numbers(tmp_path).values() if status == "done" and not values
    ) or ("done" not in {numbers(tmp_path).get(("stored", "none"), ("",))[0]})


def test_shards_of_several_processes_are_put_into_the_order_of_the_images(tmp_path):
    """Process r of 3 encodes images r, r + 3, …, in shards of its own."""
    (tmp_path / "train").mkdir()
    latents, labels = torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20) % 7
    for rank in range(3):
        own = torch.arange(rank, 20, 3)
        for shard, index in enumerate(own.split(4)):
            tensors = {"latents": latents[index], "latents_flip": latents[index], "labels": labels[index]}
            save_file(tensors, tmp_path / f"train/latents_rank{rank:02d}_shard{shard:03d}.safetensors")
    found = StoredLatents(files_in(tmp_path / "train"))
    assert torch.equal(found.rows(torch.arange(20)), latents) and torch.equal(found.labels, labels)
    index = torch.tensor([17, 0, 5, 5])
    assert torch.equal(found.rows(index), latents[index]) and not found.shape.moments


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", b"\x93NUMPY\x01", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["train/a.safetensors", "train/0/a.npz", "train.npy"])
def test_files_that_hold_no_latents_are_named(name, content, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(LatentsError, match="cannot be read") as caught:
        LatentFolder(tmp_path, held_out=0.5).stored("train")
    assert str(file) in str(caught.value)


def test_an_edited_file_is_another_key_and_a_moved_folder_is_not(made, tmp_path):
    def fingerprint(folder):
        return LatentFolder(folder).fingerprint()

    shutil.copytree(made / "mar", tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == fingerprint(made / "mar")
    file = next((tmp_path / "moved/val").rglob("*.npz"))
    arrays = dict(np.load(file))
    np.savez(file, **(arrays | {"moments": arrays["moments"] + 1e-3}))
    assert fingerprint(tmp_path / "moved") != fingerprint(made / "mar")
    shutil.rmtree(tmp_path / "moved/val")
    with pytest.raises(LatentsError, match=f"no latents in {tmp_path / 'moved'}: neither val.npy"):
        fingerprint(tmp_path / "moved")


def moments(folder, *names):
    """A file of moments in each class's folder."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        np.savez(folder / name / f"{number}.npz", moments=np.full((2, 1, 1), number, np.float32))


def labels(folder):
    found = LatentFolder(folder)
    return [found.stored(split).labels.tolist() for split in ("train", "val")]


def test_classes_are_numbered_through_both_splits_and_anew_when_a_folder_is_added(tmp_path):
    moments(tmp_path / "train", "cat", "dog", "owl")
    moments(tmp_path / "val", "owl")
    assert labels(tmp_path) == [[0, 1, 2], [2]]
    moments(tmp_path / "train", "ant")  # in the same process
    assert labels(tmp_path) == [[0, 1, 2, 3], [3]]


def test_folders_that_latentbench_numbered_have_these_labels_even_if_some_are_missing(tmp_path):
    moments(tmp_path / "train", "000000", "000004", "000007")
    moments(tmp_path / "val", "000004")
    assert labels(tmp_path) == [[0, 4, 7], [4]]


def shard(file, count=4, labels=4, shape=(2, 1, 1), kind="latents"):
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {kind: torch.zeros(count, *shape)}
    save_file(tensors | ({} if labels is None else {"labels": torch.zeros(labels).long()}), file)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"labels": None}, "b.safetensors has no labels, and .*a.safetensors has"),
        ({"labels": 3}, "b.safetensors has 3 labels for 4 latents"),
        ({"shape": (3, 1, 1)}, "b.safetensors has latents of another shape or kind than .*a.safetensors"),
        ({"kind": "moments"}, "b.safetensors has latents of another shape or kind"),
        ({"shape": (2, 1)}, "b.safetensors holds latents of 2 dimensions"),
    ],
)
def test_a_shard_that_does_not_go_with_the_others_is_named(second, says, tmp_path):
    shard(tmp_path / "train/a.safetensors")
    shard(tmp_path / "train/b.safetensors", **second)
    with pytest.raises(LatentsError, match=says):
        StoredLatents(files_in(tmp_path / "train"))
