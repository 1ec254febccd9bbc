"""Two groups join one leaderboard through the command line; edited results are refused or found out."""

import json
import shutil

import pytest
from helpers.run import bench_inline

from latentbench.bench.records.digest import with_digest
from latentbench.bench.records.files import read_record, rewrite_record

NANO = """\
name: nano
dataset: {use: shapes, count: {train: 96, val: 48}, size: 16}
seeds: [0]
budget: {tokenizer_steps: 4, generator_steps: 4, batch: 16}
features: {use: effnet_lite0, resolution: 32}
reference: {use: teacher}
reconstruction: {l1: 1.0}
samples: 48
tokenizers:
  vit: {width: 16, depth: 1, heads: 2, patch: 4, channels: 4}
regularizers:
  kl: {weight: 1.0e-3}
generators:
  gaussian: {}
evaluators: [reconstruction, generation]
"""
CELL = "records/shapes--vit--kl--gaussian--{}.json"
SCORE = "gFD[effnet_lite0:32]@1"


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """The folders of two groups: the same matrix with other seeds."""
    folder = tmp_path_factory.mktemp("groups")
    for name, seed in (("group-a", 0), ("group-b", 1)):
        (folder / f"{name}.yaml").write_text(NANO.replace("seeds: [0]", f"seeds: [{seed}]"))
        done = bench_inline("run", "--matrix", f"{name}.yaml", "-o", name, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def copy(groups, folder, name):
    shutil.copytree(groups / "group-b", folder / name)
    return folder / name / CELL.format(1)


def edit(file, metric, careful, **changes):
    """Edits an entry of a record; who is careful makes a digest that fits."""
    if careful:
        record = read_record(file)
        metrics = record.metrics | {metric: record.metrics[metric] | changes}
        fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
        rewrite_record(file, with_digest(type(record)(**fields | {"metrics": metrics})))
        return
    text = file.read_text()
    value = json.loads(text)["metrics"][metric]["value"]
    assert text.count(f'"value": {value!r}') == 1
    file.write_text(text.replace(f'"value": {value!r}', f'"value": {changes["value"]!r}'))


def submit(cwd, name):
    return bench_inline(
        "submit", name, "-o", f"{name}.zip", "--contributor", name, "--min-seeds", "1", cwd=cwd
    )


def test_good_results_of_two_groups_join_and_edited_ones_do_not(groups, tmp_path):
    edit(copy(groups, tmp_path, "other-n"), SCORE, careful=True, n=20)
    file = copy(groups, tmp_path, "careless")
    good = read_record(file).metrics[SCORE]["value"]
    edit(file, SCORE, careful=False, value=good * 0.99)
    edit(copy(groups, tmp_path, "careful"), SCORE, careful=True, value=good * 0.8)
    for name in ("group-a", "group-b"):
        shutil.copytree(groups / name, tmp_path / name)
        sent = submit(tmp_path, name)
        assert sent.returncode == 0 and "2 records" in sent.stdout, sent.stderr
    says = {
        "other-n": f"the protocol of {SCORE} isn't what its evaluator declares: n is 20, not 48",
        "careless": "it was changed after it was written",
        "careful": f"the metric {SCORE} is ",
    }
    for name, why in says.items():
        refused = submit(tmp_path, name)
        assert refused.returncode == 2 and why in refused.stderr, (name, refused.stderr)
        assert CELL.format(1) in refused.stderr and "Traceback" not in refused.stderr
        assert not (tmp_path / f"{name}.zip").exists()

    allowed = ("--allow", "dirty")  # whoever runs the tests may be at work on the code
    joined = bench_inline("merge", "group-a.zip", "group-b.zip", "-o", "all", *allowed, cwd=tmp_path)
    assert joined.returncode == 0 and "3 records of 2 folders" in joined.stdout, joined.stderr
    careless = bench_inline("merge", "group-a.zip", "careless", "-o", "no", *allowed, cwd=tmp_path)
    assert careless.returncode == 2 and "it was changed after it was written" in careless.stderr
    page = bench_inline("leaderboards", "group-a.zip", "group-b", "-o", "all.html", cwd=tmp_path)
    assert page.returncode == 0 and "group-a" in (tmp_path / "all.html").read_text(), page.stderr
    archived = bench_inline("report", "group-a.zip", "-o", "report", cwd=tmp_path)
    assert archived.returncode == 0 and (tmp_path / "report" / "leaderboard.md").is_file(), archived.stderr


def test_a_cell_is_made_again_and_an_edit_of_any_care_is_found(groups, tmp_path):
    shutil.copytree(groups / "group-a", tmp_path / "good")
    listed = bench_inline("reproduce", "good", "--list", cwd=tmp_path)
    assert listed.returncode == 0 and "shapes · vit · kl · gaussian · seed 0" in listed.stdout, listed.stderr

    def reproduce(name):
        words = ("reproduce", name, "--engine", "inline", "-o", "again", "--json")
        done = bench_inline(*words, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        return done, json.loads(done.stdout) if done.returncode < 2 else {}

    done, found = reproduce("good")
    assert done.returncode == 0 and found["reproduced"] and found["failed"] == [], done.stderr
    record = read_record(tmp_path / "good" / CELL.format(0))
    assert {one["metric"]: one["made"] for one in found["numbers"]} == {
        name: entry["value"] for name, entry in record.metrics.items()
    }
    assert {one["verdict"] for one in found["numbers"]} == {"equal"}
    assert any("losses of the tokenizer: equal to the last bit" in note for note in found["notes"])

    # A value that lies well within its resamples, and a digest that fits: no check of the folder can tell.
    shutil.copytree(groups / "group-a", tmp_path / "edited")
    value = record.metrics[SCORE]["value"]
    edit(tmp_path / "edited" / CELL.format(0), SCORE, careful=True, value=value * 0.98)
    assert submit(tmp_path, "edited").returncode == 0
    done, found = reproduce("edited")
    assert done.returncode == 1 and not found["reproduced"]
    assert [one["metric"] for one in found["numbers"] if one["verdict"] == "outside"] == [SCORE]


def test_what_cannot_be_made_again_is_said(tmp_path, groups):
    none = bench_inline("reproduce", groups / "group-a", "-k", "regularizer=repa", cwd=tmp_path)
    assert none.returncode == 2 and "done are shapes · vit · kl · gaussian · 0" in none.stderr
    shutil.copytree(groups / "group-a", tmp_path / "bare")
    (tmp_path / "bare" / "matrix.lock.yaml").unlink()
    bare = bench_inline("reproduce", "bare", cwd=tmp_path)
    assert bare.returncode == 2 and "bare has no matrix.lock.yaml" in bare.stderr
