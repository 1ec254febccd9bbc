"""The compact form of records: the same record in fewer bytes, with what metrics are beside it."""

import json
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
from helpers import fabricated_records
from helpers.run import bench_inline

from latentbench.bench.records import files
from latentbench.bench.records.files import (
    RecordError,
    move_record,
    new_records,
    read_record,
    read_records,
    write_record,
)
from latentbench.bench.records.git import tracked_records
from latentbench.bench.records.record import Record, in_order
from latentbench.bench.report.write import rebuild_report

RECORDS = in_order(fabricated_records.records(("none", "kl"), ("mar", "tarflow"), ("0", "1")))
CURVE = {"step": [1, 2], "l1": [0.10000000149011612, None], "exact": [0.1, 0.2]}


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write_inline(folder, record):
    """Writes a record as versions before the compact form did."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / record.filename).write_text(record.to_json(), encoding="utf-8")


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.filename)
def test_a_record_comes_back_to_the_last_bit_with_its_keys_in_order(tmp_path, record):
    record = replace(record, curves={**record.curves, "more": CURVE})
    file = write_record(tmp_path, record)
    assert read_record(file).to_json() == record.to_json()
    assert read_records(tmp_path) == new_records(tmp_path, {}) == [record]


def test_a_file_can_be_read_by_eye(tmp_path):
    record = RECORDS[0]
    lines = write_record(tmp_path, record).read_text().splitlines()
    assert lines[1] == ' "format": 2,'
    table = tmp_path / json.loads("{" + lines[2].rstrip(",") + "}")["described_in"]
    for name, entry in record.metrics.items():
        start = f'  {json.dumps(name)}: {{"value": {entry["value"]},"n": {entry["n"]}'
        assert sum(line.startswith(start) for line in lines) == 1
    about = json.loads(table.read_text())
    assert about["PSNR"]["protocol"] == record.metrics["PSNR"]["protocol"]
    guided = {name.rpartition("@")[0] for name in record.metrics if name.endswith("@2")}
    assert guided and guided <= about.keys() and not [name for name in about if name.endswith("@2")]


def test_a_folder_may_have_both_forms_and_gives_the_same_report_to_the_last_byte(tmp_path):
    for i, record in enumerate(RECORDS):
        write_inline(tmp_path / "old/records", record)
        (write_inline, write_record)[i % 2](tmp_path / "both/records", record)
        write_record(tmp_path / "new/records", record)
    assert read_records(tmp_path / "old/records") == read_records(tmp_path / "both/records")
    sizes = {}
    for name in ("old", "both", "new"):
        sizes[name] = sum(map(len, contents(tmp_path / name / "records").values()))
        rebuild_report([tmp_path / name], tmp_path / name, title="same")
    old, both, new = (contents(tmp_path / name) for name in ("old", "both", "new"))
    tables = [name for name in old if not name.startswith("records/")]
    assert len(tables) > 8
    assert [name for name in tables if not old[name] == both[name] == new[name]] == []
    assert sizes["new"] < sizes["old"] / 2


def test_the_bytes_do_not_depend_on_order_processes_or_what_was_there(tmp_path):
    for record in RECORDS:
        write_record(tmp_path / "once", record)
        write_inline(tmp_path / "again", record)
        write_record(tmp_path / "again", replace(record, reason="before"))
    for record in reversed(RECORDS):
        write_record(tmp_path / "again", record)
    with ProcessPoolExecutor(2) as pool:
        assert all(pool.map(write_record, [tmp_path / "two"] * len(RECORDS) * 2, [*RECORDS, *RECORDS]))
    assert contents(tmp_path / "once") == contents(tmp_path / "again") == contents(tmp_path / "two")


def test_a_run_killed_between_the_two_files_of_a_record_loses_nothing(tmp_path, monkeypatch):
    old, new = replace(RECORDS[0], metrics={}), RECORDS[0]
    write_record(tmp_path, old)
    with monkeypatch.context() as patch:
        patch.setattr(files, "replace_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_record(tmp_path, new)
    assert read_records(tmp_path) == [old] and len(contents(tmp_path)) == 2
    write_record(tmp_path, new)
    write_record(tmp_path / "undisturbed", new)
    killed = contents(tmp_path)
    assert all(killed[name] == content for name, content in contents(tmp_path / "undisturbed").items())


def test_a_damaged_description_is_written_anew(tmp_path):
    file = write_record(tmp_path, RECORDS[0])
    (described,) = (tmp_path / "metrics").iterdir()
    whole = described.read_bytes()
    described.write_bytes(whole[:-20])
    with pytest.raises(RecordError):
        read_record(file)
    write_record(tmp_path, RECORDS[0])
    assert described.read_bytes() == whole and read_record(file) == RECORDS[0]
    described.write_bytes(whole.replace(b"\n", b"\r\n"))  # as git may check it out
    assert read_record(file) == RECORDS[0]


def entry(value, scope="generator", **protocol):
    return {"value": value, "n": 8, "protocol": protocol, "scope": scope, "better": None}


@pytest.mark.parametrize(
    "metrics",
    [
        {"a@1": entry(1.0, w=1), "a@2": entry(2.0, w=2)},
        {"a": entry(0.0, "tokenizer"), "a@1": entry(1.0, w=1), "a@1@2": entry(2.0, w=2), "a@1@3": entry(3.0)},
        {"a@8": entry(0.0, "tokenizer", n=8), "a@16": entry(0.0, "tokenizer", n=16)},
        {"a@1": {**entry(1.0), "extra": [1]}, "a@2": {**entry(None), "about": "another"}},
    ],
)
def test_metrics_of_one_name_may_be_described_differently(tmp_path, metrics):
    record = replace(RECORDS[0], metrics=metrics)
    assert read_record(write_record(tmp_path, record)).to_json() == record.to_json()


def broken(text, **changes):
    return json.dumps(json.loads(text) | changes)


HOSTILE = {
    "a newer format": ("its format is 4; latentbench", {"format": 4}),
    "shared metrics of the older format": ("measured_in", {"measured_in": f"tokenizers/{'0' * 16}.json"}),
    "nothing shared": ("measured_in must be tokenizers/", {"format": 3}),
    "descriptions in its place": (
        "measured_in must be tokenizers/",
        {"format": 3, "measured_in": f"metrics/{'0' * 16}.json"},
    ),
    "shared metrics that are not there": (
        "is missing: copy it",
        {"format": 3, "measured_in": f"tokenizers/{'0' * 16}.json"},
    ),
    "format as text": ("its format is '2'", {"format": "2"}),
    "a path elsewhere": ("described_in must be", {"described_in": "../../secret.json"}),
    "an absolute path": ("described_in must be", {"described_in": "/etc/passwd"}),
    "a number as path": ("described_in must be", {"described_in": 3}),
    "no description": ("described_in must be", {"described_in": None}),
    "a description that is not there": ("is missing: copy it", {"described_in": f"metrics/{'0' * 16}.json"}),
    "a metric not described": ("'other' is not in the file", {"metrics": {"other": {"value": 1.0, "n": 1}}}),
    "a metric that is a number": ("'PSNR' has no value", {"metrics": {"PSNR": 3.0}}),
    "a list of metrics": ("metrics must be an object", {"metrics": [1]}),
    "a list of curves": ("curves must be an object", {"curves": [1]}),
    "bits missing": (
        "'PSNR': packed numbers .* have 2 bytes; 100 of 10 bits have 125",
        {"metrics": {"PSNR": {"value": 1.0, "n": 1, "replicates": "3,1,10,100,AAA="}}},
    ),
    "a billion numbers": (
        "'PSNR': packed numbers are",
        {"metrics": {"PSNR": {"value": 1.0, "n": 1, "replicates": "0,1,0,1000000000,"}}},
    ),
    "a curve of objects": ("curves.a.b: a list of numbers", {"curves": {"a": {"b": {"float64": [1.0]}}}}),
}


@pytest.mark.parametrize(("says", "changes"), HOSTILE.values(), ids=HOSTILE)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, says, changes):
    file = write_record(tmp_path, RECORDS[0])
    file.write_text(broken(file.read_text(), **changes))
    with pytest.raises(RecordError, match=says) as error:
        read_records(tmp_path)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "must be an object"),
        (b'{"PSNR": 3}', "must be an object"),
        (b"{}", "was changed"),
        (b'{"PSNR": {"protocol": {"reference": "test"}}}', "was changed"),
    ],
)
def test_a_broken_description_is_named_with_what_is_wrong(tmp_path, content, says):
    write_record(tmp_path, RECORDS[0])
    (described,) = (tmp_path / "metrics").iterdir()
    described.write_bytes(content)
    with pytest.raises(RecordError, match=says) as error:
        read_records(tmp_path)
    assert str(described) in str(error.value)


def test_a_record_nested_without_end_is_named(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(RecordError, match=r"deep.json is not a record: its JSON is nested too deeply"):
        read_records(tmp_path)


def test_a_record_that_is_moved_takes_along_what_its_metrics_are(tmp_path):
    files_here = [write_record(tmp_path / "here", record) for record in RECORDS[:2]]
    assert move_record(files_here[0], tmp_path / "there")
    assert read_records(tmp_path / "there") + read_records(tmp_path / "here") == RECORDS[:2]
    broken_file = tmp_path / "here/broken.json"
    broken_file.write_text("{")
    assert move_record(broken_file, tmp_path / "there") and not move_record(broken_file, tmp_path / "there")


def test_git_tracks_records_and_not_what_describes_them(tmp_path):
    write_record(tmp_path / "records", RECORDS[0])
    for arguments in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert [file.name for file in tracked_records(tmp_path)] == [RECORDS[0].filename]


@pytest.mark.parametrize("form", [write_inline, write_record])
def test_folders_of_both_forms_are_merged_compared_and_tell_apart_other_numbers(tmp_path, form):
    for i, record in enumerate(RECORDS):
        (form if i % 2 else write_record)(tmp_path / "ab"[i % 2] / "records", record)

    done = bench_inline("merge", "a", "b", "-o", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_records(tmp_path / "all/records") == RECORDS
    again = bench_inline("merge", "b", "a", "-o", "all", cwd=tmp_path)
    assert again.returncode == 0 and "set aside" not in again.stderr
    same = bench_inline("compare", "all", "all", cwd=tmp_path)
    assert same.returncode == 0, same.stderr
    name = next(name for name, e in RECORDS[0].metrics.items() if "replicates" in e)
    other = dict(RECORDS[0].metrics[name], value=7.0)
    form(tmp_path / "c/records", replace(RECORDS[0], metrics={**RECORDS[0].metrics, name: other}))
    refused = bench_inline("merge", "a", "c", "-o", "more", cwd=tmp_path)
    assert refused.returncode == 2 and "different numbers" in refused.stderr


def test_records_of_before_the_compact_form_are_read(tmp_path):
    text = """{
 "cell": {"dataset": "d","tokenizer": "t","regularizer": "none","generator": "g","seed": "0"},
 "key": "00", "status": "done",
 "metrics": {"PSNR": {"value": 20.5,"n": 3,"protocol": {},"scope": "tokenizer","replicates": [20.0,21.0]}}
}"""
    (tmp_path / "old.json").write_text(text)
    record = read_record(tmp_path / "old.json")
    assert record == Record.from_json(text)
    assert record.metrics["PSNR"]["replicates"] == [20.0, 21.0] and record.curves == {}
