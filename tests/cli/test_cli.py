"""The commands that only look: they start without torch and say what there is."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers.run import TINY, bench, bench_inline
from typer.testing import CliRunner

from latentbench.bench.cli import app
from latentbench.bench.registry import FOLDERS, names

ROOT = Path(__file__).resolve().parents[2]


def said(*arguments):
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["init", "--help"], ["list"], ["--version"]]
)
def test_help_and_list_start_without_torch(arguments):
    code = (
        "import sys; from typer.testing import CliRunner; from latentbench.bench.cli import app; "
        f"result = CliRunner().invoke(app, {arguments}); assert result.exit_code == 0, result.output; "
        "sys.exit(bool({'torch', 'pandas', 'timm', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_list_names_every_part_with_a_sentence():
    listed = json.loads(said("list", "--json"))
    assert set(listed) == {*FOLDERS, "matrices"}
    assert "lab2d" in {matrix["name"] for matrix in listed["matrices"]}
    for kind, parts in listed.items():
        if kind != "matrices":
            assert {part["name"] for part in parts if part["problem"] is None} == set(names(kind))
        assert all(part["about"] for part in parts)
    assert "kl" in said("list", "regularizers") and "lightningdit" not in said("list", "regularizers")


def test_info_shows_options_with_defaults_and_ranges():
    text = said("info", "regularizer", "kl")
    assert "weight" in text and "0.0001" in text and ">= 0" in text
    assert "expansion" not in text  # facts that the frame gives are no options
    shown = json.loads(said("info", "generators", "mar", "--json"))
    assert shown["options"]["head"]["default"] == "flow"
    assert shown["sampler"]["temperature"]["meaning"] == "scale of the head's noise."


def test_info_says_what_each_option_means_once_and_from_which_paper_a_part_is():
    text = " ".join(said("info", "regularizer", "noised_kl").split())
    assert "factor of the divergence" in text  # said by the class that it extends
    assert text.count("standard deviation of the noise that latents get") == 1 and "Args" not in text
    assert "Paper: Gu et al." in text


def test_info_of_an_unknown_part_suggests_the_near_one():
    result = CliRunner().invoke(app, ["info", "regularizers", "kll"])
    assert result.exit_code == 2 and "did you mean 'kl'?" in result.output


def test_info_needs_the_kind_only_of_a_name_that_several_kinds_have():
    assert said("info", "kl") == said("info", "regularizer", "kl")
    result = CliRunner().invoke(app, ["info", "gaussian"])
    assert result.exit_code == 2
    said_both = "`bench info generator gaussian` or `bench info reference gaussian`"
    assert said_both in " ".join(result.output.split())
    assert "did you mean 'kl'?" in CliRunner().invoke(app, ["info", "kll"]).output
    assert CliRunner().invoke(app, ["info", "regularizer", "kl", "eq"]).exit_code == 2


def test_list_of_a_part_points_to_its_options():
    result = CliRunner().invoke(app, ["list", "kl"])
    assert result.exit_code == 2 and "`bench info kl`" in result.output


def test_a_plan_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_text(TINY)
    said("plan")
    assert [file.name for file in tmp_path.iterdir()] == ["matrix.yaml"]


def test_a_plan_counts_stages_that_cells_share_once(tmp_path, monkeypatch):
    """2 tokenizers, each with 2 generators: gaussian, and lightningdit at 2 guidances."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_text(TINY)
    stages = json.loads(said("plan", "--json"))["stages"]
    assert Counter(stage["kind"] for stage in stages) == {
        "features": 2,  # pooled ones and tokens as the teacher's, and what else metrics ask for
        "reference": 1,
        "tokenizer": 2,
        "latents": 2,
        "generator": 4,
        "samples": 6,
        "scores": 2 + 6 + 1,  # of tokenizers, of samples, of held-out images
    }
    assert f"4 cells, {len(stages)} stages, 0 cached" in said("plan")


def test_execution_settings_are_not_in_the_keys_and_what_changes_numbers_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def keys(text):
        (tmp_path / "matrix.yaml").write_text(text)
        return {(s["kind"], s["label"]): s["key"] for s in json.loads(said("plan", "--json"))["stages"]}

    first = keys(TINY)
    assert keys(TINY.replace("name: tiny", "name: other")) == first
    assert keys(TINY.replace("weight: 1.0e-3", "weight: 0.001")) == first
    changed = keys(TINY.replace("weight: 1.0e-3", "weight: 0.002"))
    assert {place for place, key in changed.items() if first[place] != key} == {
        place for place in first if "kl" in place[1]
    }
    generators = keys(TINY.replace("generator_steps: 12", "generator_steps: 13"))
    kinds = {place[0] for place, key in generators.items() if first[place] != key}
    assert kinds == {"generator", "samples", "scores"}
    assert not set(keys(TINY + "threads: 2\n").values()) & set(first.values())


def test_the_pairs_that_do_not_fit_are_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TINY.replace("{width: 16,", "{latents: 5, width: 16,").replace("  none: {}", "  repa: {}")
    (tmp_path / "matrix.yaml").write_text(text)
    cells = json.loads(said("plan", "--json"))["cells"]
    skipped = [cell for cell in cells if cell["skipped"]]
    assert {cell["cell"]["regularizer"] for cell in skipped} == {"repa"}
    assert "5 latent tokens" in skipped[0]["skipped"]


def test_a_generator_that_does_not_sample_the_latents_is_skipped_with_the_reason():
    cells = json.loads(said("plan", "--matrix", str(ROOT / "matrix.yaml"), "--json"))["cells"]
    joint = {c["cell"]["regularizer"]: c["skipped"] for c in cells if c["cell"]["generator"] == "joint"}
    assert joint["simflow"] is None and "own generator" not in joint["lzn"]
    assert "with alpha = 0.25 they lie about the centres of zones" in joint["lzn"]


PLUGIN = """
import torch
from latentbench.bench.api import LatentSpec, Regularizer
from latentbench.bench.registry import register

@register("mine")
class Mine(Regularizer):
    def __init__(self, spec: LatentSpec, weight: float = 1.0) -> None:
        super().__init__(spec)
"""


@pytest.mark.parametrize("inside", [False, True])
def test_an_edited_plugin_has_other_keys_wherever_it_lies(inside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(__file__).resolve().parents[2] / ".bench" / "test" if inside else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    plugin = folder / "edited_plugin.py"
    (tmp_path / "matrix.yaml").write_text(TINY.replace("  none: {}", "  mine: {}"))
    keys = []
    try:
        for text in (PLUGIN, PLUGIN + "# edited\n"):
            plugin.write_text(text)
            run = bench("plan", "--json", "--plugin", plugin, cwd=tmp_path)
            assert run.returncode == 0, run.stderr
            stages = json.loads(run.stdout)["stages"]
            keys.append({s["label"]: s["key"] for s in stages if s["kind"] == "tokenizer"})
    finally:
        plugin.unlink()
    first, second = keys
    assert {label for label in first if first[label] != second[label]} == {"vit · mine · seed 0"}


def test_a_constructor_that_fails_in_its_own_way_is_a_problem_at_its_row(tmp_path):
    text = PLUGIN + "        self.sizes = [float(x) for x in torch.linspace(0, 1, 3)]\n"
    (tmp_path / "plugin.py").write_text(text)
    (tmp_path / "matrix.yaml").write_text(TINY.replace("  none: {}", "  mine: {}"))
    run = bench_inline("plan", "--plugin", "plugin.py", cwd=tmp_path)
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert "matrix.yaml:12:3" in run.stderr and "plugin.py:10: RuntimeError" in run.stderr


def test_clean_leaves_what_is_not_its_own(tmp_path):
    (tmp_path / "matrix.yaml").write_text(TINY)
    home = tmp_path / "home"
    (home / "artifacts/x").mkdir(parents=True)
    (home / "thesis.txt").write_text("years of work")
    assert bench_inline("clean", "--yes", cwd=tmp_path, home=home).returncode == 0
    assert [file.name for file in home.iterdir()] == ["thesis.txt"]
