"""What a run says of a diffusers model's own scaling, which it doesn't use."""

import json

import pytest
from helpers.diffusers_models import saved
from helpers.matrices import UNTRAINED
from helpers.run import bench_inline

from latentbench.bench.api import ImageSpec
from latentbench.bench.registry import create

FOUND = {
    "AutoencoderKL": "scaling_factor 0.18215",
    "AutoencoderKL exported": "latents_mean, latents_std",
    "AutoencoderKL shifted": "scaling_factor 0.3611, shift_factor 0.1159",
    "AutoencoderKL plain": None,
    "AutoencoderKLFlux2": "the batch norm `bn`",
    "AutoencoderKLWan": "latents_mean, latents_std",
    "AutoencoderTiny": None,  # factor 1, shift 0
    "AutoencoderRAE": None,  # it scales within
}
OPTIONS = {
    "exported": {"scaling_factor": 1.0, "latents_mean": [0.5] * 4, "latents_std": [2.0] * 4},
    "shifted": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "plain": {"scaling_factor": 1.0},
}
MATRIX = (
    UNTRAINED
    + """\
reference: {use: gaussian}
tokenizers:
  vae: {use: diffusers, path: vae}
  own: {use: conv, mult: [1, 1]}
  same: {use: diffusers, path: plain}
regularizers: {none: {}, kl: {}}
generators: {gaussian: {}}
evaluators: [latents]
"""
)


@pytest.mark.parametrize("name", FOUND)
def test_a_scaling_that_changes_something_is_named(name, tmp_path):
    cls, _, variant = name.partition(" ")
    if cls == "AutoencoderRAE":
        pytest.importorskip("transformers")
    saved(tmp_path, cls, **OPTIONS.get(variant, {}))
    image = ImageSpec(3, 16, 16)
    notes = create("tokenizers", "diffusers", image=image, expansion=1, path=str(tmp_path)).notes()
    if FOUND[name] is None:
        assert notes == []
    else:
        assert len(notes) == 1 and f"its own scaling ({FOUND[name]}) is not used" in notes[0]


def test_plan_and_run_say_it_once_for_each_row_that_has_one(tmp_path):
    saved(tmp_path / "vae")
    saved(tmp_path / "plain", scaling_factor=1.0)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    for words in (("plan",), ("run",)):
        done = bench_inline(*words, cwd=tmp_path, home=tmp_path / "home")
        said = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
        assert done.returncode == 0 and len(said) == 1, done.stdout + done.stderr
        assert said[0].startswith("note: vae: its own scaling (scaling_factor 0.18215) is not used")
    told = json.loads(bench_inline("plan", "--json", cwd=tmp_path, home=tmp_path / "home").stdout)["notes"]
    assert told == [said[0].removeprefix("note: ")]
    without = bench_inline("plan", "--filter", "tokenizer=own", cwd=tmp_path, home=tmp_path / "home").stdout
    assert "note: " not in without
