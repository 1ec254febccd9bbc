"""Nothing that somebody else wrote, a matrix, weights, a plugin or a record, does more than it may."""

import ast
import csv as csv_files
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.matrices import planned, tiny_with
from helpers.plugins import PLUGIN, package
from helpers.run import TINY
from safetensors.torch import save_file
from typer.testing import CliRunner

from latentbench.bench import registry
from latentbench.bench.api import ImageSpec
from latentbench.bench.cli import app
from latentbench.bench.cli.safe_text import escape_control_characters
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.metrics import lpips
from latentbench.bench.nn import discriminators, released_weights
from latentbench.bench.records.record import Record
from latentbench.bench.report.write import write_report
from latentbench.bench.tools.audit import read as read_images

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("bench", "regularizers", "tokenizers", "generators", "evaluators")

# The calls by which others' bytes become objects or code.
UNSAFE = {"eval", "exec", "compile", "__import__"}
READERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MESSAGES = ("bench/engine/companions.py",)  # between a worker and its own companions


def calls(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                yield f"import {module + '.' if module else ''}{alias.name}", {}


def test_the_sources_read_nothing_by_pickle_and_yaml_by_its_safe_loader_alone():
    seen = 0
    for file in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        for called, words in calls(file):
            at = f"{name}: {called}({words})"
            if called.startswith("import ") and called.split()[1].split(".")[0] in READERS:
                assert name in MESSAGES or called == "import pickle.UnpicklingError", at
            if called in UNSAFE or called.endswith(("os.system", "os.popen")):
                raise AssertionError(at)
            if called == "torch.load":
                seen += 1
                assert words.get("weights_only") == "True", at
            if called in ("np.load", "numpy.load"):
                assert words.get("allow_pickle", "False") == "False", at
            if called.startswith("yaml.") and "load" in called.lower():
                assert called in ("yaml.safe_load", "yaml.SafeLoader"), at
            assert words.get("shell", "False") == "False" and words.get("trust_remote_code") is None, at
    assert seen >= 2  # all weights are read by nn/weight_files.py


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


def vit():
    with torch.device("meta"):
        return registry.create("tokenizers", "vit", image=ImageSpec(3, 32, 32), expansion=1)


def described(part, **options):
    return registry.create("features", part, **options)(torch.zeros(1, 3, 32, 32))


def lpips_with(file):
    measure = lpips.Lpips("alex", "random")
    return lpips._built(measure.net, file)


WEIGHTS = {
    "of a tokenizer": lambda file: released_weights.state(vit(), file),
    "of Inception": lambda file: described("inception", weights=str(file), verify=False),
    "of CLIP": lambda file: described("clip", model="ViT-B-32", weights=str(file), verify=False),
    "of a timm model": lambda file: described("timm", model="resnet18", weights=str(file)),
    "of LPIPS": lpips_with,
    "of a discriminator": lambda file: discriminators.Features(
        ImageSpec(3, 32, 32), discriminators.LAYOUTS["dinov2"], str(file), "vit_tiny_patch16_224"
    ),
    "of an audit": read_images,
}


@pytest.mark.parametrize("kind", ["zip", "pickle"])
@pytest.mark.parametrize("reader", WEIGHTS)
def test_a_malicious_checkpoint_is_refused_and_does_nothing(reader, kind, tmp_path):
    done, file = tmp_path / "done", tmp_path / ("weights.npy" if "audit" in reader else "weights.pth")
    evil = {"state_dict": Malicious(done)}
    if "audit" in reader:
        np.save(file, np.array([Malicious(done)], dtype=object), allow_pickle=True)
    elif kind == "zip":
        torch.save(evil, file)
    else:
        file.write_bytes(pickle.dumps(evil, protocol=2))
    with pytest.raises(Exception) as refusal:
        WEIGHTS[reader](file)
    assert not isinstance(refusal.value, TypeError | AttributeError), refusal.value
    assert not done.exists()
    pickle.loads(pickle.dumps(evil))  # elsewhere it would
    assert done.exists()


def test_a_checkpoint_of_objects_is_a_problem_at_its_row(tmp_path):
    torch.save({"model": Malicious(tmp_path / "done")}, tmp_path / "evil.pth")
    text = tiny_with("vit: {", f"vit: {{weights: {tmp_path / 'evil.pth'}, ")
    with pytest.raises(MatrixError, match=r"matrix.yaml:10:3: .*needs code to be read"):
        planned(tmp_path, text)
    assert not (tmp_path / "done").exists()


def test_an_installed_plugin_runs_when_it_is_asked_for_by_name_alone(tmp_path):
    done = tmp_path / "done"
    runs = f"import pathlib\npathlib.Path({str(done)!r}).touch()\n"
    package(tmp_path, "nosy", runs + PLUGIN.format(name="nosy"), "nosy = nosy")
    (tmp_path / "matrix.yaml").write_text(TINY)

    def code(*arguments):
        line = "import sys; sys.path.insert(0, '.'); from latentbench.bench.cli import app; app()"
        command = [sys.executable, "-c", line, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    listed = code("list", "regularizers")
    assert "nosy" in listed.stdout and not done.exists()
    assert code("plan").returncode == 0 and not done.exists()
    (tmp_path / "matrix.yaml").write_text(tiny_with("  kl: {weight: 1.0e-3}", "  nosy: {}"))
    assert code("plan").returncode == 0 and done.exists()


EVIL = ["=1+1", "+cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "\t=1", '=HYPERLINK("http://a","b")']


def test_no_text_of_a_csv_is_a_formula_and_numbers_stay_numbers(tmp_path):
    found = []
    for i, text in enumerate(EVIL):
        cell = dict.fromkeys(("dataset", "tokenizer", "regularizer", "generator"), text) | {"seed": str(i)}
        protocol = {"value": -1.5, "n": 4, "protocol": {"a": 1}, "scope": "tokenizer", "better": "higher"}
        found.append(Record(cell, str(i), "failed", text, {f"PSNR{i}": protocol}))
    write_report(tmp_path, found)
    text = (tmp_path / "leaderboard.csv").read_text()
    header, *lines = csv_files.reader(io.StringIO(text))
    assert "-1.5" in text
    for value in (value for line in (header, *lines) for value in line if value):
        assert value[0] not in "=+@\t\r" and (value[0] != "-" or float(value)), value


def test_control_characters_are_shown_and_not_sent_to_a_terminal(tmp_path):
    assert (
        escape_control_characters("a\x1b[2Jb\x07\r\x9bc\u202ed\ne\tf")
        == "a\\x1b[2Jb\\x07\\r\\x9bc\\u202ed\ne\tf"
    )
    (tmp_path / "records").mkdir()
    cell = dict.fromkeys(("dataset", "tokenizer", "regularizer", "generator", "seed"), "a\x1b]0;b\x07")
    (tmp_path / "records" / "a.json").write_text(Record(cell, "a", "failed", "\x1b[2J gone").to_json())
    joined = CliRunner().invoke(app, ["merge", str(tmp_path), "-o", str(tmp_path / "all")])
    assert joined.exit_code == 0 and "\x1b" not in joined.output and "\x07" not in joined.output
    broken = CliRunner().invoke(app, ["plan", "--matrix", "no\x1b[31mwhere"])
    assert broken.exit_code == 2 and "\x1b" not in broken.output and "\\x1b[31m" in broken.output


def test_an_artifact_of_tensors_and_json_is_all_that_a_stage_leaves(tmp_path):
    """By the first bytes: no file of an artifact or a checkpoint is a pickle."""
    from latentbench.bench.store.artifacts import Result, Store
    from latentbench.bench.store.stage import Stage
    from latentbench.bench.training import checkpoint

    store, stage = Store(tmp_path), Stage("latents", "x", {"a": 1}, {}, "ab" * 32, True)
    state = checkpoint.State({"m": torch.nn.Linear(2, 2)}, {}, {}, 3)
    checkpoint.save(store.work(stage), state)
    save_file({"a": torch.zeros(1)}, tmp_path / "known.safetensors")
    files = [file for file in tmp_path.rglob("*") if file.is_file() and "locks" not in file.parts]
    store.put(stage, Result({"b": 1.0}, {"z": torch.zeros(2)}))
    files += [file for file in store.path(stage).iterdir()]
    kinds = {file.suffix for file in files}
    assert kinds == {".json", ".safetensors"}
