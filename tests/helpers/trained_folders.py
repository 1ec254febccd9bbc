"""Folders as `bench export` writes them in our own class, without weights: those are the constructor's."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

CONFIG = {
    "_class_name": "LatentbenchTokenizer",
    "auto_map": {"AutoModel": "exported_tokenizer.LatentbenchTokenizer"},
    "part": "conv",
    "options": {"width": 32, "mult": [1, 2], "channels": 4},
    "image": [1, 8, 8],
    "expansion": 2,
    "log_variance": -30.0,
    "layer_norm": False,
}


@cache
def exported_folder():
    """A folder of `conv` with a posterior, which is removed at the end of the tests."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return str(folder)
