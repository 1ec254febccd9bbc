"""Submitting results: what is sent, and everything that is wrong with a folder, told at once."""

import json
import re
import zipfile
from dataclasses import replace
from unittest import mock

import pytest
import yaml
from helpers import fabricated_records
from helpers.run import TINY, bench_inline

from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.plan.make import make_plan
from latentbench.bench.records.archive import unpacked
from latentbench.bench.records.digest import with_digest
from latentbench.bench.records.files import read_records, write_record
from latentbench.bench.records.packed_numbers import pack_classes
from latentbench.bench.records.record import Record
from latentbench.bench.tools.compact import compact
from latentbench.bench.tools.submission import private_text
from latentbench.bench.tools.submission.declared_protocols import DeclaredProtocols
from latentbench.bench.tools.submission.findings import Finding, joined, refusals
from latentbench.bench.tools.submission.matrix_checks import matrix_findings
from latentbench.bench.tools.submission.private_text import private_findings
from latentbench.bench.tools.submission.record_checks import record_findings
from latentbench.bench.tools.submission.submit import SubmissionRefused, submit

COMMIT = "c0ffee00" * 5


def made(seeds=("0", "1", "2"), **other):
    """Records of a study that was never run, as a run of today would write them."""
    found = fabricated_records.records(("kl", "none"), ("mar",), seeds, (1.0,), **other)
    return [with_digest(replace(r, provenance=r.provenance | {"git_commit": COMMIT})) for r in found]


def named(records):
    return {f"records/{record.filename}": record for record in records}


def told(records, seeds=3, refused=True):
    """The findings on records as texts, in the order of checks."""
    found = record_findings(named(records), seeds)
    return [f"{one.where[0]}: {one.what}" for one in joined(found) if one.refuses == refused]


def edited(record, metric, **changes):
    """A record with another entry and the digest that fits: whoever edits well rewrites that too."""
    entry = record.metrics[metric] | changes
    return with_digest(replace(record, metrics=record.metrics | {metric: entry}))


def swap(records, place, record):
    return [*records[:place], record, *records[place + 1 :]]


def test_good_records_have_no_findings():
    assert told(made()) == [] and told(made(), refused=False) == []


def test_an_edited_value_contradicts_its_resamples_even_with_a_fitting_digest():
    records = made()
    value = records[1].metrics["gFD[net]@1"]["value"]
    for factor, refused in ((1.1, True), (0.9, True), (1.002, False)):
        found = told(swap(records, 1, edited(records[1], "gFD[net]@1", value=value * factor)))
        assert bool(found) == refused
        assert not refused or re.search(
            r"kl--mar--0\.json: the metric gFD\[net\]@1 is .* an edited value", *found
        )


def test_a_mean_lies_among_those_of_its_classes():
    records = made()
    classes = {"0": 0.5, "1": 0.9}
    entry = {"replicates": None, "classes": classes}
    ok = edited(records[1], "probe_accuracy", value=0.7, **entry)
    assert told(swap(records, 1, ok)) == []
    wrong = edited(records[1], "probe_accuracy", value=1.2, **entry)
    assert "its classes 0.5 to 0.9: an edited value" in told(swap(records, 1, wrong))[0]
    distance = edited(records[1], "gFD[net]@1", classes={"0": 900.0, "1": 990.0})  # of fewer images each
    assert told(swap(records, 1, distance)) == []


def test_other_protocols_missing_ones_and_wrong_counts_are_told():
    records = made()
    protocol = records[1].metrics["PSNR"]["protocol"]
    found = told(swap(records, 1, edited(records[1], "PSNR", n=180)))
    assert found == [
        "records/digits--vit--kl--mar--0.json: PSNR: another protocol than in other rows (n 180 and 360)"
    ]
    found = told(swap(records, 1, edited(records[1], "PSNR", protocol=protocol | {"rounding": "none"})))
    assert 'rounding "none" and null' in found[0]
    found = told(swap(records, 1, edited(records[1], "PSNR", protocol={}, n=0)))
    assert any("has no protocol" in line for line in found) and any("n = 0" in line for line in found)
    blank = edited(records[1], "PSNR", value=None, replicates=None)
    assert "neither a value nor a note" in told(swap(records, 1, blank))[0]


def test_seeds_that_lack_or_are_copied_are_told():
    records = made()
    assert told(made(("0",)))[0].endswith("has the seeds 0; 3 are asked for") and told(made(("0",)), 1) == []
    without = [r for r in records if (r.cell["regularizer"], r.cell["seed"]) != ("kl", "2")]
    assert "the row digits · vit · kl · mar lacks the seeds 2, which other rows have" in told(without, 2)[0]
    copy = with_digest(
        replace(
            records[1],
            cell=records[2].cell,
            key=records[2].key,
            provenance=records[1].provenance | {"seed": "1"},
        )
    )
    found = told(swap(records, 2, copy))
    assert any("several seeds have the same numbers to the last bit" in line for line in found)


def test_provenance_is_asked_for_and_older_records_are_only_noted():
    records = made()

    def changed(**facts):
        return swap(records, 1, with_digest(replace(records[1], provenance=records[1].provenance | facts)))

    assert "not YYYY-MM-DD" in told(changed(date="yesterday"))[0]
    assert "not 40 hex digits" in told(changed(git_commit="HEAD"))[0]
    assert "its provenance 7" in told(changed(seed="7"))[0]
    assert (
        told(changed(git_dirty=True)) == [] and "not committed" in told(changed(git_dirty=True), 3, False)[0]
    )
    assert "isn't known" in told(changed(git_commit=None), refused=False)[0]
    assert "doesn't say what made it" in told(swap(records, 1, replace(records[1], provenance={})))[0]
    older = {key: value for key, value in records[1].provenance.items() if key != "digest"}
    (found,) = told(swap(records, 1, replace(records[1], provenance=older)), refused=False)
    assert "kl--mar--0.json: no digest, so an edit can't be told" in found


def test_one_finding_names_all_its_files():
    two = [Finding((f"records/{n}.json",), "x", "y") for n in "abcde"]
    (one,) = joined(two)
    assert str(one) == "records/a.json, records/b.json, records/c.json and 2 more: x\n  → y"
    assert refusals([*two, Finding(("z",), "x", "y", refuses=False)]) == two


PRIVATE = [
    "/home/ada/data/x.json",
    "/data",
    "lies in /mnt/disk/images here",
    "C:\\Users\\ada\\x",
    "\\\\server\\share",
    "~/images",
    "file:///srv/x",
    "$HOME/images",
    "ada@example.org",
    "of sappho-7",
    "lovelace: no space",
]
PUBLIC = [
    "data/images",
    "https://arxiv.org/abs/2506.05240",
    "gFD@360[effnet_lite0]@1.5",
    "(x.y / F + 1)^3",
    "1/2 and a/b/c",
    "lovelaces",
    "n/a",
]


@pytest.mark.parametrize("text", PRIVATE + PUBLIC)
def test_paths_names_and_addresses_are_found(text):
    names = mock.patch.object(private_text, "machine_names", lambda: {"lovelace", "sappho-7"})
    with names:
        found = list(private_findings({"records/a.json": json.dumps({"reason": [text]})}))
        in_keys = list(private_findings({"records/a.json": json.dumps({text: 1})}))
    assert bool(found) == bool(in_keys) == (text in PRIVATE), found


def test_packed_numbers_are_no_paths():
    numbers = "3,14788,10,16,Abc/de/fgh+/home/x="
    assert list(private_findings({"records/a.json": json.dumps({"replicates": numbers})})) == []
    classes = pack_classes({str(label): -1.9375 / (label + 1) for label in range(10)})
    assert "/" in classes
    assert list(private_findings({"records/a.json": json.dumps({"classes": classes})})) == []
    hidden = f"10,/home/alice/{classes[15:]}"  # as long as packed numbers, but a path
    assert list(private_findings({"records/a.json": json.dumps({"reason": hidden + "/x"})}))


def test_a_user_called_as_a_row_is_no_finding():
    with mock.patch.object(private_text, "machine_names", lambda: {"lightningdit"}):
        text = {"records/a.json": '{"generator": "lightningdit"}'}
        assert list(private_findings(text)) and not list(private_findings(text, {"lightningdit"}))


# ---- against the matrix -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A results folder without values: the keys and protocols of the tiny matrix's cells."""
    folder = tmp_path_factory.mktemp("planned")
    (folder / "m.yaml").write_text(TINY)
    matrix = load_matrix(folder / "m.yaml")
    plan = make_plan(matrix)
    (folder / "matrix.lock.yaml").write_text(yaml.safe_dump(resolved(matrix)))
    declared = DeclaredProtocols(plan)
    from latentbench.bench.records.provenance import parts

    records = []
    for cell in plan.cells:
        metrics = {}
        for name, scope in (("PSNR", "tokenizer"), ("gFD[effnet_lite0:32]@1", "generator")):
            if cell.tokenizer != "real":
                protocol = dict(declared.of(cell, name, {"scope": scope}))
                n = protocol.pop("n")
                metrics[name] = {"value": 1.0, "n": n, "protocol": protocol, "scope": scope}
        facts = {"device": "cpu", "parts": parts(stage.config for stage in plan.needed([cell]))}
        records.append(Record(cell.identity, cell.key, "done", None, metrics, {}, {}, facts))
    return folder, records


def on_matrix(planned, place=None, record=None):
    folder, records = planned
    records = records if place is None else swap(records, place, record)
    return [one for one in joined(matrix_findings([folder / "matrix.lock.yaml"], named(records)))]


def test_declared_protocols_have_the_sizes_of_the_matrix(planned):
    _, records = planned
    generated = next(r for r in records if r.cell["generator"] == "gaussian").metrics[
        "gFD[effnet_lite0:32]@1"
    ]
    assert generated["n"] == 64 and generated["protocol"]["reference_n"] == 1437
    assert records[0].metrics["PSNR"]["n"] == 360
    assert (
        generated["protocol"]["data"].startswith("digits ") and generated["protocol"]["precision"] == "fp32"
    )


def test_keys_and_protocols_of_the_matrix_pass(planned):
    assert on_matrix(planned) == []


def test_another_key_cell_or_protocol_is_refused_with_the_file(planned):
    _, records = planned
    first = records[0]
    (found,) = on_matrix(planned, 0, replace(first, key="0" * 64))
    assert found.refuses and found.where == (f"records/{first.filename}",) and "its key isn't" in found.what
    (found,) = on_matrix(planned, 0, edited(first, "gFD[effnet_lite0:32]@1", n=128))
    assert found.what.endswith("isn't what its evaluator declares: n is 128, not 64") and found.refuses
    other = edited(first, "PSNR", scope="tokenizer")
    other = replace(other, metrics={"made_up": other.metrics["PSNR"]})
    (found,) = on_matrix(planned, 0, other)
    assert "made_up isn't one of the matrix's evaluators" in found.what
    strange = replace(first, cell=first.cell | {"regularizer": "else"})
    found = on_matrix(planned, 0, strange)
    assert [one.refuses for one in found] == [True, False]  # and a cell of the matrix has no record


def test_other_versions_of_parts_are_told_and_not_refused(planned):
    _, records = planned
    facts = records[0].provenance
    older = replace(
        records[0],
        key="0" * 64,
        provenance=facts | {"parts": facts["parts"] | {"evaluators.generation": "1"}},
    )
    (found,) = on_matrix(planned, 0, older)
    assert not found.refuses and "evaluators.generation 1, here 4" in found.what


# ---- the archive ------------------------------------------------------------------------------------------


@pytest.fixture
def unplanned(monkeypatch):
    """For tests of what is packed: the made-up records are of no matrix that can be planned."""
    monkeypatch.setattr("latentbench.bench.tools.submission.submit.matrix_findings", lambda *_: [])


def folder(path, records, matrix=True):
    for record in records:
        write_record(path / "records", record)
    if matrix:
        sections = ("tokenizers", "regularizers", "generators")
        text = {"name": "x", "dataset": [{"use": "digits"}]} | {s: {"x": {"use": "y"}} for s in sections}
        (path / "matrix.lock.yaml").write_text(yaml.safe_dump(text))
    return path


def test_an_archive_has_records_and_matrix_and_no_pictures_and_is_the_same_each_time(tmp_path, unplanned):
    path = folder(tmp_path / "mine", made())
    (path / "samples").mkdir()
    (path / "samples" / "a.png").write_bytes(b"x")
    (path / "leaderboard.csv").write_text("a,b\n")
    (path / "records" / "metrics" / "0000000000000000.json").write_text("{}\n")  # which no record needs
    first = submit(path, tmp_path / "a.zip", "Ada")
    submit(path, tmp_path / "b.zip", "Ada")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert first.records == len(made()) and first.size == (tmp_path / "a.zip").stat().st_size
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        names = set(packed.namelist())
        facts = json.loads(packed.read("mine/submission.json"))
        assert all(packed.read(f"mine/{f}") == (path / f).read_bytes() for f in named(made()))
    assert facts["contributor"] == "Ada" and facts["records"] == len(made())
    tables = {f"records/metrics/{file.name}" for file in (path / "records" / "metrics").iterdir()}
    tables.remove("records/metrics/0000000000000000.json")
    assert names == {f"mine/{n}" for n in {*named(made()), *tables, "submission.json", "matrix.lock.yaml"}}
    submit(path, tmp_path / "c.zip", tables=True)
    assert "mine/leaderboard.csv" in zipfile.ZipFile(tmp_path / "c.zip").namelist()


@pytest.mark.parametrize("packed", [False, True], ids=["shared tables", "packed"])
def test_a_compacted_folder_is_sent_whole(tmp_path, unplanned, packed):
    path = folder(tmp_path / "mine", made())
    compact(path, pack=packed)
    submit(path, tmp_path / "a.zip")
    with unpacked([tmp_path / "a.zip"]) as [there]:
        assert {r.key: r for r in read_records(there / "records")} == {r.key: r for r in made()}


def test_all_problems_are_listed_at_once_and_nothing_is_written(tmp_path, unplanned):
    records = made(("0", "1"))
    wrong = edited(records[1], "gFD[net]@1", value=1.0)
    wrong = with_digest(replace(wrong, provenance=wrong.provenance | {"machine": "/home/ada/vm"}))
    path = folder(tmp_path / "mine", swap(records, 1, wrong), matrix=False)
    broken, careless = (path / "records" / records[place].filename for place in (2, 3))
    broken.write_text("{")
    careless.write_text(careless.read_text().replace('"PSNR": {"value": ', '"PSNR": {"value": 1'))
    with pytest.raises(SubmissionRefused) as caught:
        submit(path, tmp_path / "x.zip")
    said = str(caught.value)
    for file, what in (
        (wrong.filename, "an edited value"),
        (wrong.filename, "a path of a machine: '/home/ada/vm'"),
        (broken.name, "Expecting property name"),
        (careless.name, "it was changed after it was written"),
        ("matrix.lock.yaml", "there is no matrix.lock.yaml"),
    ):
        assert re.search(rf"{re.escape(file)}.*: .*{re.escape(what)}", said), (file, what)
    assert "3 are asked for" in said and said.count("\n  → ") == len(caught.value.findings)
    assert not (tmp_path / "x.zip").exists()


def test_the_command_line_names_what_is_missing(tmp_path):
    done = bench_inline("submit", "nowhere", cwd=tmp_path)
    assert done.returncode == 2 and "no records in nowhere/records" in done.stderr
    folder(tmp_path / "mine", made(), matrix=False)
    done = bench_inline("submit", "mine", "-o", "x.zip", cwd=tmp_path)
    assert done.returncode == 2 and "mine is not fit to be sent; nothing was written" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "x.zip").exists()
