"""Packages that only some parts need are not imported by commands that use none of these parts."""

import json
import subprocess
import sys

from helpers.run import TINY, environment

SCRIPT = """
import json, sys
from latentbench.bench.cli import main

for words in (["run", "--engine", "inline"], ["score", "vit"]):
    sys.argv = ["bench", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
print(json.dumps(sorted(sys.modules)))
"""


def test_training_on_digits_and_scoring_a_part_import_neither_diffusers_nor_transformers_nor_parquet(
    tmp_path,
):
    matrix = TINY.partition("generators:")[0] + "generators: {none: {}}\nevaluators: [reconstruction]\n"
    (tmp_path / "matrix.yaml").write_text(matrix.replace("steps: 12", "steps: 1"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert "torch" in imported
    # pandas imports pyarrow itself for its texts, but not what reads files.
    assert not imported & {"diffusers", "transformers", "datasets", "pyarrow.parquet", "pyarrow.dataset"}
