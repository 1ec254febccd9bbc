"""Folders of stored latents that the tokenizer `conv` decodes."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

DECODER = {"use": "conv"}  # 8 channels, half the side


@cache
def moments_folder(side):
    """A folder with moments of two square images of each split, which is removed at the end of the tests."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for split in ("train", "val"):
        (folder / split).mkdir()
        tensors = {
            "moments": torch.zeros(2, 16, side // 2, side // 2, device="cpu"),
            "labels": torch.zeros(2, dtype=torch.long, device="cpu"),
        }
        save_file(tensors, folder / split / "latents.safetensors")
    return str(folder)
