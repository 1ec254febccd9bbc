"""Merging results folders: what goes together, what is refused, and that no order of merging matters."""

import csv
import json
import re
from copy import deepcopy
from dataclasses import replace

import pytest
import yaml
from helpers import fabricated_records
from helpers.run import TINY, bench_inline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentbench.bench.leaderboard.folders import MergeError, ResultsFolder, one_each
from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.plan.make import make_plan
from latentbench.bench.records import provenance
from latentbench.bench.records.files import RecordError, read_records, write_record
from latentbench.bench.records.record import Record
from latentbench.bench.report import write
from latentbench.bench.report.write import write_report
from latentbench.bench.tools.merge import LOCK, merge

FEW = {"generators": ("mar", "tarflow"), "guidances": (1.0,)}
MATRIX = {
    "name": "made_up",
    "dataset": [{"use": "digits", "split_seed": 0}],
    "seeds": [0, 1, 2],
    "budget": {"tokenizer_steps": 400},
    "tokenizers": {"vit": {"use": "vit", "width": 64}},
    "regularizers": {"kl": {"use": "kl", "weight": 0.001}},
    "generators": {"mar": {"use": "mar"}, "tarflow": {"use": "tarflow", "guidance": [1.0, 1.5]}},
    "skip": [],
    "plugins": [],
    "normalise": "channel",
}


def folder(path, records, matrix=None):
    for record in records:
        write_record(path / "records", record)
    if matrix is not None:
        (path / "matrix.lock.yaml").write_text(yaml.safe_dump(matrix))
    return path


def made(regularizers, seeds=("0", "1", "2"), **other):
    return fabricated_records.records(regularizers, seeds=seeds, **{**FEW, **other})


def changed(records, **provenance):
    return [replace(r, provenance={**r.provenance, **provenance}) for r in records]


@pytest.fixture
def without_tables(monkeypatch):
    """For tests of what is merged: pages and figures take a second each."""
    monkeypatch.setattr(write, "write_report", lambda folder, records: [])


def table(path):
    with open(path / "leaderboard.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_two_folders_give_the_leaderboard_of_one_run_of_all(tmp_path):
    everything = made(("kl", "none", "simflow"))
    mine = [r for r in everything if r.cell["regularizer"] in ("kl", "real")]
    a = folder(tmp_path / "a", mine)
    b = folder(tmp_path / "b", [r for r in everything if r not in mine])
    found = merge([a, b], tmp_path / "c")
    whole = write_report(tmp_path / "whole", everything)
    for file in whole:
        assert (tmp_path / "c" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()
    assert set(whole) - {tmp_path / "whole" / f.relative_to(tmp_path / "c") for f in found.written} == set()
    assert {"rank_low", "rank_high"} <= table(tmp_path / "c")[0].keys()


def test_seeds_of_two_groups_join_in_one_row(tmp_path):
    a = folder(tmp_path / "a", made(("kl",), ("0", "1")))
    b = folder(tmp_path / "b", made(("kl",), ("1", "2")))
    merge([a, b], tmp_path / "c")
    row = next(r for r in table(tmp_path / "c") if r["generator"] == "mar")
    assert row["seeds_done"] == "3"
    alone = next(r for r in table(tmp_path / "c") if r["generator"] == "mar")["gFD[net]"]
    values = [r.metrics["gFD[net]@1"]["value"] for r in made(("kl",)) if r.cell["generator"] == "mar"]
    assert float(alone) == pytest.approx(sum(values) / 3)


def test_the_same_cell_with_other_numbers_is_an_error_that_names_them(tmp_path, without_tables):
    ours = made(("kl",))
    metrics = deepcopy(ours[1].metrics)
    metrics["PSNR"]["value"] *= 1.01
    metrics["gFD[net]@1"]["value"] *= 1.5
    a = folder(tmp_path / "a", ours)
    b = folder(tmp_path / "b", [*ours[:1], replace(ours[1], metrics=metrics), *ours[2:]])
    with pytest.raises(MergeError) as error:
        merge([a, b], tmp_path / "c")
    said = str(error.value)
    assert "digits/vit/kl/mar/0" in said and str(a) in said and "--prefer" in said
    assert re.search(r"gFD\[net\]@1 .*\(0\.33 of it\), PSNR .*\(0\.0099 of it\)\n", said)
    assert not (tmp_path / "c").exists()
    for preferred, value in ((a, ours[1].metrics["PSNR"]["value"]), (b, metrics["PSNR"]["value"])):
        found = merge([a, b], tmp_path / "c", prefer=[preferred])
        kept = next(r for r in found.records if r.cell == ours[1].cell)
        assert kept.metrics["PSNR"]["value"] == value
        assert any("different numbers" in note for note in found.notes)
    with pytest.raises(MergeError, match="--prefer takes one of the merged folders"):
        merge([a, b], tmp_path / "c", prefer=[tmp_path])


def test_a_cell_that_is_done_somewhere_is_done(tmp_path, without_tables):
    ours = made(("kl",))
    failed = replace(ours[1], status="failed", reason="killed", metrics={})
    a, b = folder(tmp_path / "a", [*ours[:1], failed, *ours[2:]]), folder(tmp_path / "b", ours)
    found = merge([a, b], tmp_path / "c")
    assert {r.status for r in found.records} == {"done"}
    assert any("done in" in note and "failed in" in note and str(a) in note for note in found.notes)


@pytest.mark.parametrize(
    ("other", "says", "allow"),
    [
        ({"latentbench": "0.2.0"}, r"latentbench\n +0\.1\.0: .*a\n +0\.2\.0: .*b\n", "versions"),
        ({"packages": {"torch": "2.13.0"}}, r"torch\n +2\.14\.1: .*a\n +2\.13\.0: .*b\n", "versions"),
        ({"git_dirty": True}, r"not committed\n +true: .*b\n", "dirty"),
        ({"precision": "bf16"}, r"precision\n +fp32: .*a\n +bf16: .*b\n", "precision"),
        ({"budget": {"tokenizer_steps": 4000}}, r"budget\.tokenizer_steps\n +400: .*a\n +4000: .*b\n", None),
        ({"parts": {"frame": "3", "tokenizer.vit": "2"}}, r"tokenizer\.vit\n +1: .*a\n +2: .*b\n", None),
    ],
)
def test_settings_that_differ_are_listed_by_folder_and_refused(tmp_path, without_tables, other, says, allow):
    parts = {"frame": "3", "tokenizer.vit": "1"}
    a = folder(tmp_path / "a", changed(made(("kl",)), parts=parts))
    b = folder(tmp_path / "b", changed(made(("none",))[1:], **{"parts": parts, **other}))
    with pytest.raises(MergeError) as error:
        merge([a, b], tmp_path / "c")
    assert re.search(says, str(error.value)) and not (tmp_path / "c").exists()
    assert ("--allow" in str(error.value)) == bool(allow)
    if allow:
        assert len(merge([a, b], tmp_path / "c", allow=[allow]).records) == 13
        merge([tmp_path / "c", a], tmp_path / "d", allow=[allow])
        with pytest.raises(MergeError):  # what was allowed once isn't forgotten
            merge([tmp_path / "c", a], tmp_path / "e")
    else:
        with pytest.raises(MergeError, match="--allow takes versions, dirty, precision, not 'budget'"):
            merge([a, b], tmp_path / "c", allow=["budget"])


def test_other_images_under_the_same_name_are_refused(tmp_path):
    def seen(records, data):
        for record in records:
            for entry in record.metrics.values():
                entry["protocol"]["data"] = data
        return records

    a = folder(tmp_path / "a", seen(made(("kl",)), "digits 0123456789ab"))
    b = folder(tmp_path / "b", seen(made(("none",))[1:], "digits ba9876543210"))
    with pytest.raises(MergeError, match=r"images of digits\n.*0123456789ab: .*a\n.*ba9876543210: .*b"):
        merge([a, b], tmp_path / "c")


def test_protocols_stay_apart_and_are_told(tmp_path):
    theirs = made(("none",))[1:]
    for record in theirs:
        record.metrics["gFD[net]@1"]["protocol"]["features"] = {
            **fabricated_records.DISTANCE,
            "resolution": 32,
        }
    a, b = folder(tmp_path / "a", made(("kl",))), folder(tmp_path / "b", theirs)
    found = merge([a, b], tmp_path / "c")
    note = next(note for note in found.notes if "several protocols" in note)
    assert "gFD[net]" in note and f"{a}: features.resolution 64; {b}: features.resolution 32" in note
    columns = [name for name in table(tmp_path / "c")[0] if re.fullmatch(r"gFD\[net\]\{\w{6}\}", name)]
    assert len(columns) == 2
    for row in table(tmp_path / "c"):
        assert sum(row[name] != "" for name in columns) == (row["regularizer"] != "real")


def test_a_label_with_two_meanings_is_refused(tmp_path, without_tables):
    other = deepcopy(MATRIX)
    other["regularizers"]["kl"]["weight"] = 0.01
    other["tokenizers"]["vit"] |= {"budget": {"batch": 8}, "latents": None}  # an option that only one knows
    other["generators"]["mar"]["weights"] = "/elsewhere/mar.safetensors"
    ours = deepcopy(MATRIX)
    ours["generators"]["mar"]["weights"] = "/here/mar.safetensors"
    a = folder(tmp_path / "a", made(("kl",), ("0",)), ours)
    b = folder(tmp_path / "b", made(("kl",), ("1",)), other)
    with pytest.raises(MergeError) as error:
        merge([a, b], tmp_path / "c")
    said = str(error.value)
    assert re.search(r"regularizers\.kl\.weight\n +0\.001: .*a\n +0\.01: .*b", said)
    assert re.search(r"tokenizers\.vit\.budget\n +null: .*a\n +\{\"batch\": 8\}: .*b", said)
    assert "latents" not in said and "mar" not in said and "rename one" in said
    (b / "matrix.lock.yaml").unlink()
    assert any("could not be checked" in note for note in merge([a, b], tmp_path / "c").notes)


def test_the_matrices_of_a_merge_plan_its_cells(tmp_path, without_tables):
    (tmp_path / "m.yaml").write_text(TINY)
    planned = make_plan(load_matrix(tmp_path / "m.yaml", seeds=2))
    halves = []
    for name, seed in (("a", 0), ("b", 1)):
        half = load_matrix(tmp_path / "m.yaml", seeds=[seed])
        records = [Record(cell.identity, cell.key, "done") for cell in make_plan(half).cells]
        halves.append(folder(tmp_path / name, records, resolved(half)))
    merge(halves, tmp_path / "c")
    again = [make_plan(load_matrix(file)) for file in (tmp_path / "c").glob(LOCK)]
    assert len(again) == 2
    assert {c.key for plan in again for c in plan.cells} == {c.key for c in planned.cells}
    assert {c.key for c in planned.cells} == {r.key for r in read_records(tmp_path / "c" / "records")}


def test_each_matrix_is_kept_once_by_its_name(tmp_path, without_tables):
    one = {**deepcopy(MATRIX), "name": "ours", "seeds": [0]}
    two = {**deepcopy(MATRIX), "name": "../theirs", "seeds": [1], "plugins": ["../plugins/shell.py"]}
    two["regularizers"] = {"none": {"use": "none"}}
    a = folder(tmp_path / "a", made(("kl",), ("0",)), one)
    b = folder(tmp_path / "b", made(("none",), ("1",))[1:], two)
    merge([a, b], tmp_path / "deep" / "c")
    files = sorted(path.name for path in (tmp_path / "deep" / "c").glob(LOCK))
    assert files == ["matrix.lock.-theirs.yaml", "matrix.lock.ours.yaml"]
    kept = yaml.safe_load((tmp_path / "deep" / "c" / files[0]).read_text())
    assert kept == two  # a plugin's path begins where commands run, wherever the matrix lies
    d = folder(tmp_path / "d", made(("kl",), ("2",))[1:], {**one, "seeds": [2]})
    merge([tmp_path / "deep" / "c", a, d], tmp_path / "e")
    assert sorted(path.name for path in (tmp_path / "e").glob(LOCK)) == [
        "matrix.lock.-theirs.yaml",
        "matrix.lock.ours-2.yaml",
        "matrix.lock.ours.yaml",
    ]


def test_one_matrix_of_all_folders_keeps_its_plain_name(tmp_path, without_tables):
    a = folder(tmp_path / "a", made(("kl",), ("0",)), MATRIX)
    b = folder(tmp_path / "b", made(("kl",), ("1",))[1:], MATRIX)
    merge([a, b], tmp_path / "c")
    assert [path.name for path in (tmp_path / "c").glob(LOCK)] == ["matrix.lock.yaml"]
    bare = folder(tmp_path / "bare", made(("kl",), ("2",))[1:])
    merge([a, b, bare], tmp_path / "d")  # it doesn't say how the third folder's records were made
    assert [path.name for path in (tmp_path / "d").glob(LOCK)] == ["matrix.lock.made_up.yaml"]


def test_pictures_come_along_and_a_folder_with_other_records_is_left_alone(tmp_path, without_tables):
    a, b = (
        folder(tmp_path / f, made((r,), ("0",), generators=("mar",))) for f, r in (("a", "kl"), ("b", "none"))
    )
    for source, content in ((a, b"2"), (b, b"1")):
        (source / "samples").mkdir()
        (source / "samples" / "shared.png").write_bytes(content)
        (source / "samples" / f"{source.name}.png").write_bytes(content)
    merge([a, b], tmp_path / "c")
    assert {p.name for p in (tmp_path / "c" / "samples").iterdir()} == {"a.png", "b.png", "shared.png"}
    assert (tmp_path / "c" / "samples" / "shared.png").read_bytes() == b"1"
    merge([a, b], tmp_path / "c", prefer=[a])
    assert (tmp_path / "c" / "samples" / "shared.png").read_bytes() == b"2"
    with pytest.raises(MergeError, match=r"in none of the merged folders \(1\)"):
        merge([a], tmp_path / "c")
    merge([a, tmp_path / "c"], tmp_path / "c")
    with pytest.raises(MergeError, match="no records in"):
        merge([a, tmp_path], tmp_path / "d")


def test_older_records_load_and_newer_ones_say_who_wrote_them(tmp_path, without_tables):
    ours = json.loads(made(("kl",))[1].to_json())
    older = {name: value for name, value in ours.items() if name not in ("curves", "cost", "provenance")}
    assert Record.from_json(json.dumps(older)).curves == {}
    (tmp_path / "a" / "records").mkdir(parents=True)
    (tmp_path / "a" / "records" / "x.json").write_text(json.dumps(older))
    assert any("records without provenance" in note for note in merge([tmp_path / "a"], tmp_path / "c").notes)
    newer = {**ours, "colour": 1, "provenance": {**ours["provenance"], "latentbench": "9.1.0"}}
    (tmp_path / "a" / "records" / "x.json").write_text(json.dumps(newer))
    with pytest.raises(RecordError, match=r"unknown 'colour' \(written by latentbench 9\.1\.0, this is 0"):
        merge([tmp_path / "a"], tmp_path / "d")


def test_versions_of_parts_are_those_of_the_configs():
    used = {"prior": {"name": "tarflow", "version": 2}}
    config = {
        "frame": 3,
        "regularizer": {"name": "simflow", "version": 4, "options": {}, "uses": used, "source": "ab" * 32},
        "evaluators": [{"name": "cost", "version": 1}, {"name": "density", "version": 5}],
        "optimizer": [{}, {"lr": 1.0}],
    }
    assert provenance.parts([config, {"steps": 3}]) == {
        "evaluators.cost": "1",
        "evaluators.density": "5",
        "frame": "3",
        "prior.tarflow": "2",
        "regularizer.simflow": "4 abababab",
    }


POOL = made(("kl", "none"), ("0", "1"))


@st.composite
def shares(draw):
    """A group's records: some cells, some of them failed or run elsewhere, none with other numbers."""
    found = []
    for record in draw(st.lists(st.sampled_from(POOL), unique_by=id, min_size=1, max_size=6)):
        if draw(st.booleans()):
            record = replace(record, status="failed", reason=draw(st.sampled_from("ab")), metrics={})
        seconds = draw(st.integers(0, 3))
        found.append(replace(record, cost={"seconds": seconds}))
    return found


def joined(*groups):
    return one_each([ResultsFolder(str(i), list(group)) for i, group in enumerate(groups)])[0]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(shares(), shares(), shares())
def test_merging_is_idempotent_commutative_and_associative(a, b, c):
    assert joined(a, a) == joined(a)
    assert joined(a, b) == joined(b, a)
    assert joined(joined(a, b), c) == joined(a, joined(b, c)) == joined(a, b, c)
    assert joined(joined(a, b), b) == joined(a, b)


@pytest.mark.parametrize("order", [(2, 0, 1)])
def test_folders_merge_to_the_same_files_in_any_order(tmp_path, order):
    matrix = {**MATRIX, "generators": {"mar": {"use": "mar"}}}
    groups = [made(("kl",), (str(i),), generators=("mar",)) for i in range(3)]
    folders = [folder(tmp_path / str(i), groups[i], {**matrix, "seeds": [i]}) for i in range(3)]
    merge(folders, tmp_path / "once")
    merge([folders[i] for i in order[:2]], tmp_path / "half")
    merge([tmp_path / "half", folders[order[2]], folders[order[0]]], tmp_path / "again")
    names = ["leaderboard.csv", *(file.name for file in (tmp_path / "once").glob(LOCK))]
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "once" / name).read_text() == (tmp_path / "again" / name).read_text()


def test_the_command_line_merges_and_refuses(tmp_path):
    folder(tmp_path / "a", made(("kl",))), folder(tmp_path / "b", made(("none",)))
    done = bench_inline("merge", "a", "b", "-o", "c", cwd=tmp_path)
    assert done.returncode == 0 and "13 records of 2 folders are in c" in done.stdout, done.stderr
    assert "note: no matrix.lock.yaml in a, b" in done.stderr
    folder(tmp_path / "b", changed(made(("none",)), git_dirty=True))
    refused = bench_inline("merge", "a", "b", "-o", "e", cwd=tmp_path)
    assert refused.returncode == 2 and "--allow dirty" in refused.stderr and "Traceback" not in refused.stderr
