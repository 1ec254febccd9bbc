"""Folders of stored latents: tiny ones, and those that the command line exports."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from helpers.diffusers_models import tiny_folder
from helpers.run import TINY, bench_inline
from safetensors.torch import save_file

DECODER = {"use": "conv"}  # 8 channels, half the side
# Options and evaluators of a matrix whose only rows are the tiny tokenizer that is exported.
TRAINED = (
    TINY.partition("tokenizers:")[0]
    + "tokenizers: {conv: {mult: [1, 1], channels: 4}}\nregularizers: {kl: {}}\ngenerators: {gaussian: {}}\n"
    + "evaluators: [latents]\n"
)


@cache
def moments_folder(side):
    """A folder with moments of two square images of each split, which is removed at the end of the tests."""
    tensors = {
        "moments": torch.zeros(2, 16, side // 2, side // 2, device="cpu"),
        "labels": torch.zeros(2, dtype=torch.long, device="cpu"),
    }
    return _folder(lambda seed: tensors)


@cache
def latent_set():
    """Options of the dataset `latents`: 60 latents of each split, decoded by a tiny AutoencoderKL."""

    def tensors(seed):
        drawn = torch.randn(60, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
        return {"latents": drawn, "labels": torch.arange(60) % 3}

    return {
        "root": _folder(tensors),
        "decoder": {"use": "diffusers", "path": tiny_folder()},
        "size": 8,
    }


def _folder(tensors):
    """A folder with a shard of each split, of the tensors for a seed."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for seed, split in enumerate(("train", "val")):
        (folder / split).mkdir()
        save_file(tensors(seed), folder / split / "latents.safetensors")
    return str(folder)


def export_digits(folder):
    """Trains a tiny tokenizer of digits and writes it, and its latents as LightningDiT and MAR keep them.

    They are in `folder`, `shards` and `mar` below a folder, and the results in `results/tiny`.
    """
    (folder / "matrix.yaml").write_text(TRAINED)
    for words in (
        ("run",),
        ("export", "results/tiny", "-o", "folder"),
        ("export", "results/tiny", "-o", "mar", "--latents", "mar"),
        ("export", "results/tiny", "-o", "shards", "--latents", "lightningdit"),
    ):
        done = bench_inline(*words, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
