"""`lb.run` and what it returns, against the command line's results of the same matrix."""

import io
import json
import shutil
import subprocess
import sys
import warnings

import pandas as pd
import pytest
import torch
import yaml
from helpers.run import TINY, bench_inline, environment, results

import latentbench.bench as lb
from latentbench.bench.report.csv import csv

TEXT = TINY.replace("1.0e-3", "0.001").replace("[1.0, 1.5]", "[1.0]").replace("seeds: [0]", "seeds: [0, 1]")
MATRIX = yaml.safe_load(TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the command line's results in `cli`, the cache in `.bench`, and Python's in `made`."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "tiny.yaml").write_text(TEXT)
    done = bench_inline("run", "--matrix", "tiny.yaml", "-o", "cli", cwd=folder, home=folder / "first")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def made(folder):
    """The results of the same matrix as a dict, in this process, from an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LATENTBENCH_HOME", str(folder / ".bench"))
        threads = torch.get_num_threads()
        with torch.inference_mode():
            found = lb.run(MATRIX, output="made")
        assert torch.get_num_threads() == threads
        return found


@pytest.fixture(autouse=True)
def in_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LATENTBENCH_HOME", str(folder / ".bench"))


def test_a_run_has_the_records_of_the_command_line_value_for_value(made, folder):
    assert results(folder / "made") == results(folder / "cli")
    assert len(results(folder / "made")) == 9 and not made.failed


def test_the_whole_frame_is_the_command_lines_table(made, folder):
    text = csv(made.frame("all"))
    assert text == (folder / "made/leaderboard.csv").read_text(encoding="utf-8")
    tables = (pd.read_csv(io.StringIO(text)), pd.read_csv(folder / "cli/leaderboard.csv"))
    ours, theirs = (table.filter(regex="^(?!cost_)") for table in tables)  # seconds differ
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def test_a_frame_has_few_columns_and_every_number_its_protocol_n_and_spread(made):
    table = made.frame()
    assert len(table.columns) <= 24 < len(made.frame("all").columns)
    names = [name for name in table.attrs["metrics"] if name in table]
    assert len(names) == 3 and table.attrs["ranked_by"] == names[0] == "gFD[effnet_lite0:32]"
    trained = table[table.regularizer != "real"]
    for name in names:
        assert set(trained[f"{name}_n"]) == {2} and trained[f"{name}_std"].notna().all()
        assert set(table[f"{name}_protocol"]) <= set(table.attrs["protocols"])
    assert table.attrs["protocols"][table[f"{names[0]}_protocol"][0]]["n"] == 64


def test_named_metrics_have_intervals_and_may_be_of_the_other_scope(made):
    table = made.frame(metrics=["PSNR", "gFD"])
    assert {"PSNR_ci_low", "PSNR_ci_high", "gFD[effnet_lite0:32]_ci_low"} <= set(table.columns)
    with pytest.raises(lb.UserError, match="no metric fits 'gDF'; there are .*PSNR"):
        made.frame(metrics="gDF")
    with pytest.raises(lb.UserError, match="scope takes 'generator', 'tokenizer', 'all', not 'tok'"):
        made.frame("tok")


def test_a_tidy_frame_has_a_row_for_each_number_that_the_records_have(made):
    table = made.frame("all", tidy=True)
    rows = table[(table.regularizer == "kl") & (table.generator == "gaussian") & (table.metric == "PSNR")]
    values = [r.metrics["PSNR"]["value"] for r in made.records if r.cell["regularizer"] == "kl"]
    assert rows.value.item() == pytest.approx(sum(values) / len(values)) and rows.n.item() == 2
    assert table[["protocol", "n", "images", "unit", "scope"]].notna().all().all()
    assert set(made.frame(tidy=True).scope) == {"generator"}
    assert set(made.frame("tokenizer", tidy=True).scope) == {"tokenizer"}


def test_comparing_rows_says_what_the_command_line_says(made, folder):
    compared = made.compare("regularizer=none", "regularizer=kl")
    done = bench_inline("compare", "made:regularizer=none", "made:regularizer=kl", "--json", cwd=folder)
    lines = json.loads(done.stdout)["lines"]
    assert compared.frame()["difference"].tolist() == [line["difference"] for line in lines]
    assert "differ" in repr(compared) and "<table>" in compared._repr_html_()
    assert set(made.compare(lb.load("cli")).frame().verdict) == {"identical"}
    with pytest.raises(lb.UserError, match="no cell fits"):
        made.compare("regularizer=none", "regularizer=nothing")
    with pytest.raises(lb.UserError, match="two filters"):
        made.compare("regularizer=none")


def test_results_show_their_leading_rows_page_and_figures(made, folder):
    assert made.page == made.folder / "leaderboard.html" and made.page.is_file()
    assert "gFD ↓" in repr(made) and "8 done cells" in repr(made)
    assert "<th>regularizer</th>" in made._repr_html_()
    assert "interaction" in made.figures()


def test_loaded_results_are_those_of_the_run(made, folder):
    loaded = lb.load("made")
    assert [r.key for r in loaded.records] == [r.key for r in made.records]
    pd.testing.assert_frame_equal(loaded.frame(), made.frame())
    both = lb.load("made", "cli")
    assert len(both.records) == len(made.records)
    with pytest.raises(lb.UserError, match="results of several folders; `bench report made cli -o DIR`"):
        both.page  # noqa: B018
    with pytest.raises(lb.UserError, match="no records in nowhere"):
        lb.load("nowhere")


def test_what_others_wrote_is_escaped_in_html(made):
    from dataclasses import replace

    labels = {"dataset": "<script>alert(1)</script>"}
    records = [replace(record, cell=record.cell | labels) for record in made.records]
    assert "<script>" not in lb.Results(records, made.folders)._repr_html_()


def test_a_trained_tokenizer_encodes_as_the_run_did_and_decodes_what_it_encoded(made):
    found = lb.tokenizer(made, regularizer="kl", seed=1)
    stage = found._trained.inputs["latents"]
    images = lb.create("datasets", "digits").images("val", torch.arange(40))
    latents = found.encode(images, normalised=False)
    torch.testing.assert_close(latents, stage.tensors["h/val"][:40].chunk(2, -1)[0], rtol=0, atol=1e-6)
    scaled = found.encode(images)
    torch.testing.assert_close(scaled, (latents - found.mean) / found.std)
    decoded = found.decode(scaled)
    torch.testing.assert_close(decoded, found.decode(latents, normalised=False), rtol=0, atol=1e-5)
    assert decoded.shape == images.shape and decoded.abs().max() <= 1
    levels = ((images + 1) * 127.5).round().to(torch.uint8)
    torch.testing.assert_close(found.encode(levels.numpy()), found.encode(levels.float() / 127.5 - 1))
    drawn = [found.encode(images, sample=True, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_trained_tokenizer_is_written_as_a_folder_for_diffusers(made, tmp_path):
    from diffusers import AutoModel

    found = lb.tokenizer(made, regularizer="kl", seed=1)
    done = found.export(tmp_path / "out")
    assert done.difference is not None and max(done.difference) < 1e-5
    model = AutoModel.from_pretrained(str(done.folder), trust_remote_code=True)
    images = lb.create("datasets", "digits").images("val", torch.arange(8))
    with torch.no_grad():
        mean = model.encode(images).latent_dist.mode().flatten(2).transpose(1, 2)
    torch.testing.assert_close(mean, found.encode(images, normalised=False), rtol=0, atol=1e-5)
    assert "seeds: 1" in (done.folder / "README.md").read_text()
    with pytest.raises(lb.UserError, match="must name a new folder"):
        found.export(tmp_path / "out")


def test_a_tokenizer_is_found_from_its_folder_too_or_its_absence_said(made, monkeypatch, tmp_path):
    images = torch.zeros(2, 1, 8, 8)
    latents = lb.tokenizer(made, regularizer="none").encode(images)
    assert torch.equal(lb.tokenizer(lb.load("made"), regularizer="none").encode(images), latents)
    for arguments, said in (
        ({}, "2 tokenizers fit: name one of digits · vit · kl"),
        ({"regularizer": "lzn"}, "no finished cell has regularizer='lzn' and seed 0; there are digits · vit"),
        ({"regularizer": "kl", "seed": 7}, "and seed 7"),
    ):
        with pytest.raises(lb.UserError, match=said):
            lb.tokenizer(made, **arguments)
    shutil.copytree("made", tmp_path / "moved")
    monkeypatch.setenv("LATENTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lb.UserError, match=f"no trained weights in {tmp_path}/home: run again"):
        lb.tokenizer(lb.load("moved"), regularizer="none")
    (tmp_path / "moved/matrix.lock.yaml").unlink()
    with pytest.raises(lb.UserError, match="isn't what made this record"):
        lb.tokenizer(lb.load("moved"), regularizer="none")


@pytest.mark.parametrize(
    "images, said",
    [
        (torch.zeros(2, 3, 8, 8), r"images are \(n, 1, 8, 8\), not \(2, 3, 8, 8\)"),
        (torch.zeros(8, 8), "not \\(8, 8\\)"),
        (torch.full((1, 1, 8, 8), 255.0), "images are uint8, or floats from -1 to 1"),
    ],
)
def test_images_of_another_kind_are_refused(made, images, said):
    with pytest.raises(ValueError, match=said):
        lb.tokenizer(made, regularizer="kl").encode(images)


def test_a_preview_counts_the_cells_and_runs_nothing(made, tmp_path, monkeypatch):
    seen = lb.preview(MATRIX)
    assert len(seen.cells) == 8 and seen.frame().cached.all() and seen.hours == 0
    monkeypatch.setenv("LATENTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    arguments = {"profile": (), "filter": "regularizer=kl", "seeds": [5], "output": "x", "jobs": 2}
    seen = lb.preview(MATRIX, **arguments, progress=False)
    assert len(seen.cells) == 2 and not seen.frame().cached.any() and seen.hours > 0
    assert "tiny: 2 cells" in repr(seen) and "<th>stages</th>" in seen._repr_html_()
    assert not list(tmp_path.iterdir())
    with pytest.raises(lb.UserError, match="unknown accelerator 'h10'; did you mean 'h100'"):
        lb.preview(MATRIX, accelerator="h10")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"filter": "regularizer=zzz"}, "no cell fits filter='regularizer=zzz'"),
        ({"filter": "regularizr=kl"}, "unknown axis in filter 'regularizr'; did you mean 'regularizer'"),
        ({"device": "gpu"}, "device takes 'cpu' or 'cuda', not 'gpu'"),
        ({"profile": "smoke"}, "profile: unknown profile 'smoke'"),
        ({"seeds": -1}, "seeds: seeds must be a number of seeds"),
        ({"jobs": -1}, "jobs is a number of workers, or 0 for this process, not -1"),
        ({"jobs": "auto"}, "not 'auto'"),
    ],
)
def test_arguments_without_a_meaning_are_refused_in_the_words_of_python(arguments, said):
    with pytest.raises(lb.UserError) as caught:
        lb.run(MATRIX, **arguments)
    assert said in str(caught.value) and "--" not in str(caught.value)


@pytest.mark.parametrize("matrix", [5, None, [MATRIX]])
def test_a_matrix_of_no_kind_is_refused(matrix):
    with pytest.raises(lb.UserError, match="a matrix is a dict, a path or the name of a preset, not"):
        lb.run(matrix)


def test_flags_in_messages_become_arguments():
    from latentbench.bench.python.words import reworded

    text = (
        "choose another folder with -o DIR, add to them with --keep-records, or replace them with --overwrite"
    )
    said = "choose another folder with output=DIR, add to them with keep_records=True, or replace them with"
    assert reworded(text) == f"{said} overwrite=True"
    assert reworded("vit--kl--0 and x-o stay") == "vit--kl--0 and x-o stay"


FAILING = """
import latentbench.bench as lb
from latentbench.bench.api import Regularizer


@lb.register("failing")
class Failing(Regularizer):
    def __init__(self, spec, fails: bool = True) -> None:
        super().__init__(spec)
        self.fails = fails

    def loss(self, z, h, step):
        if self.fails:
            raise RuntimeError("as it should")
        return {}
"""


def test_a_failed_cell_is_warned_of_and_an_edited_plugin_is_read_again(folder):
    plugin = folder / "failing.py"
    plugin.write_text(FAILING)
    matrix = MATRIX | {"regularizers": {"failing": {}}, "generators": {"gaussian": {}}, "seeds": [0]}
    matrix |= {"plugins": [str(plugin)], "evaluators": ["reconstruction"]}
    with pytest.warns(UserWarning, match="1 of 1 cell failed, the first digits · vit · failing") as seen:
        found = lb.run(matrix, output="failing")
    assert "as it should" in found.failed[0].reason and "0 done" not in repr(found)
    assert [one for one in seen if "cell failed" in str(one.message)][0].filename == __file__
    plugin.write_text(FAILING.replace("fails: bool = True", "fails: bool = False"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="set aside")
        assert not lb.run(matrix, output="failing").failed
    with pytest.raises(lb.UserError, match="unknown regularizer 'failing'"):
        lb.run({key: value for key, value in matrix.items() if key != "plugins"})


SCRIPT = """
import sys
import torch
import yaml
import latentbench.bench as lb
from latentbench.bench.api import Regularizer

torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True, warn_only=True)
SCALE = 0.5


@lb.register("shell")
class Shell(Regularizer):
    def loss(self, z, h, step):
        return {"shell": SCALE * (z.square().mean(-1).sqrt() - 1).square().mean()}


matrix = yaml.safe_load(open("tiny.yaml"))
matrix |= {"regularizers": {"kl": {"weight": 0.001}, "shell": {}}}
matrix |= {"generators": {"gaussian": {}}, "seeds": [0]}
results = lb.run(matrix, parts=[Shell], output=sys.argv[1], jobs=int(sys.argv[2]), offline=True)
assert not results.failed and len(results.records) == 3, results
assert torch.get_default_dtype() == torch.float64 and torch.are_deterministic_algorithms_enabled()
print("ran once")
"""


def test_a_script_without_a_guard_runs_workers_with_a_class_of_its_own_as_this_process_does(folder):
    (folder / "study.py").write_text(SCRIPT)
    said = []
    for output, jobs in (("alone", "0"), ("workers", "2")):
        command = [sys.executable, "study.py", output, jobs]
        env = environment(folder / f"home-{jobs}")
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said == ["ran once\n", "ran once\n"]
    assert results(folder / "alone") == results(folder / "workers")
    kl = "digits--vit--kl--gaussian--0.json"
    assert results(folder / "alone")[kl]["metrics"] == results(folder / "cli")[kl]["metrics"]
