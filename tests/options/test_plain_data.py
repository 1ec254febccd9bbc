"""Values of options as they are in cache keys."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentbench.bench.options.plain_data import plain

KEY = """
from latentbench.bench.options.plain_data import plain
from latentbench.bench.store.stage import stage_id
options = {"layers": {"conv1", "conv2", "conv3", "head"}, "sizes": frozenset({32, 4, 8})}
print(stage_id("tokenizer", {"tokenizer": plain(options)}, {}))
"""


def test_the_key_of_a_set_is_the_same_in_every_process():
    keys = set()
    for seed in ("1", "2", "3"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", KEY], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        keys.add(done.stdout)
    assert len(keys) == 1


def test_plain_data_is_what_json_gives_back():
    value = {"a": (1, 2.5, None, True), "b": {"c": ["text"]}, "d": {1: 2}}
    assert plain(value) == json.loads(json.dumps(value))
    assert plain({"file": Path("a") / "b", "names": {"b", "a"}}) == {"file": "a/b", "names": ["a", "b"]}


def test_a_type_without_a_stable_text_is_refused():
    with pytest.raises(TypeError, match="of type object cannot be part of a cache key"):
        plain({"option": [object()]})
