"""A folder of records as one file: read by every command, written to by none without unpacking it."""

import io
import subprocess
import tarfile

import pytest
from helpers import fabricated_records
from helpers.run import bench_inline

import latentbench.bench as lb
from latentbench.bench.records import packed_folder
from latentbench.bench.records.files import read_records, write_record
from latentbench.bench.records.packed_folder import (
    PACKED,
    PackError,
    has_records,
    pack_records,
    unpack_records,
)
from latentbench.bench.records.record import in_order
from latentbench.bench.report.write import rebuild_report

RECORDS = in_order(fabricated_records.records(("none", "kl"), ("mar", "tarflow"), ("0", "1")))
TABLES = ("leaderboard.csv", "leaderboard.md")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "run"
    for record in RECORDS:
        write_record(folder / "records", record)
    return folder


def by_key(records):
    return {record.key: record for record in records}


def archive(place, name, content=b"{}", kind=tarfile.REGTYPE):
    with tarfile.open(place, "w:xz") as made:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(content), kind, "elsewhere"
        made.addfile(member, io.BytesIO(content))


def test_packing_and_unpacking_give_the_same_files_and_packing_again_the_same_bytes(results):
    before = contents(results)
    packed = pack_records(results).read_bytes()
    assert contents(results).keys() == {PACKED} and len(packed) < sum(map(len, before.values())) / 3
    assert has_records(results) and read_records(results / "records") == RECORDS
    unpack_records(results)
    assert contents(results) == before
    assert pack_records(results).read_bytes() == packed


def test_records_beside_the_packed_ones_count_too(results):
    pack_records(results)
    more = fabricated_records.records(("repa",), ("mar",), ("0",))[1:]
    for record in more:
        write_record(results / "records", record)
    assert read_records(results / "records") == in_order([*RECORDS, *more])
    unpack_records(results)
    assert (
        read_records(results / "records") == in_order([*RECORDS, *more]) and not (results / PACKED).exists()
    )


def test_commands_read_packed_records_as_they_read_a_folder(results, tmp_path):
    rebuild_report([results], results)
    tables = {name: (results / name).read_bytes() for name in TABLES}
    done = bench_inline("compact", "run", "--pack", cwd=tmp_path)
    assert done.returncode == 0 and not (results / "records").exists(), done.stderr
    for command in (
        ("report", "run"),
        ("report", "--index", "."),
        ("compare", "run:regularizer=none", "run:regularizer=kl"),
        ("merge", "run", "-o", "merged"),
    ):
        done = bench_inline(*command, cwd=tmp_path)
        assert done.returncode in (0, 1) and "no records" not in done.stderr, (command, done.stderr)
    assert {name: (results / name).read_bytes() for name in TABLES} == tables
    assert "run/" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert by_key(read_records(tmp_path / "merged/records")) == by_key(RECORDS)
    assert len(lb.load(results).records) == len(RECORDS)


def test_what_is_no_record_stays_beside_the_packed_ones(results):
    (results / "records/old").mkdir()
    (results / "records/old/x.json").write_text("{}", encoding="utf-8")
    pack_records(results)
    assert contents(results).keys() == {PACKED, "records/old/x.json"}
    assert read_records(results / "records") == RECORDS


def test_more_bytes_than_one_file_may_have_are_not_packed(results, monkeypatch):
    before = contents(results)
    monkeypatch.setattr(packed_folder, "MOST", 1000)
    with pytest.raises(PackError, match="more than 1,000 bytes, too many for one file"):
        pack_records(results)
    assert contents(results) == before


def test_unpacking_that_is_interrupted_leaves_no_half_of_a_record(results, monkeypatch):
    pack_records(results)

    def interrupted(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(packed_folder, "replace_bytes", interrupted)
        unpack_records(results)
    assert (results / PACKED).exists() and not [*(results / "records").rglob("*.json")]
    unpack_records(results)
    assert read_records(results / "records") == RECORDS


def test_merging_into_packed_records_unpacks_them(results, tmp_path):
    pack_records(results)
    more = fabricated_records.records(("repa",), ("mar",), ("0", "1"))
    for record in more:
        write_record(tmp_path / "more/records", record)
    done = bench_inline("merge", "run", "more", "-o", "run", cwd=tmp_path)
    assert done.returncode == 0 and not (results / PACKED).exists(), done.stderr
    assert by_key(read_records(results / "records")) == by_key([*RECORDS, *more])


def test_another_report_does_not_replace_that_of_packed_records(results, tmp_path):
    pack_records(results)
    write_record(tmp_path / "other/records", RECORDS[1])
    done = bench_inline("report", "other", "-o", "run", cwd=tmp_path)
    assert done.returncode == 2 and "has records of its own" in done.stderr


def test_a_run_does_not_add_to_packed_records_that_git_tracks(results, tmp_path):
    pack_records(results)
    for arguments in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    asked = ("run", "-m", "digits-dmvae", "--profile", "smoke", "-o", "run")
    done = bench_inline(*asked, cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 2 and "git tracks the packed records in run" in done.stderr
    assert (results / PACKED).exists()


@pytest.mark.parametrize(
    "name, kind, said",
    [
        ("../a.json", tarfile.REGTYPE, "'../a.json' cannot be in it"),
        ("/a.json", tarfile.REGTYPE, "'/a.json' cannot be in it"),
        ("metrics/a.json", tarfile.REGTYPE, "'metrics/a.json' cannot be in it"),
        ("a.json", tarfile.SYMTYPE, "'a.json' cannot be in it"),
        ("a.json", tarfile.FIFOTYPE, "'a.json' cannot be in it"),
        ("C:a.json", tarfile.REGTYPE, "'C:a.json' cannot be in it"),
        ("a.txt", tarfile.REGTYPE, "'a.txt' cannot be in it"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, name, kind, said):
    archive(tmp_path / PACKED, name, kind=kind, content=b"{}" if kind == tarfile.REGTYPE else b"")
    for read in (lambda: read_records(tmp_path / "records"), lambda: unpack_records(tmp_path)):
        with pytest.raises(PackError, match=said):
            read()
    assert (tmp_path / PACKED).exists() and not (tmp_path.parent / "a.json").exists()


def test_a_damaged_file_is_named(results):
    place = pack_records(results)
    place.write_bytes(place.read_bytes()[:-40])
    with pytest.raises(PackError, match=rf"{PACKED} cannot be read"):
        read_records(results / "records")
    place.write_bytes(b"no archive")
    with pytest.raises(PackError, match=rf"{PACKED} cannot be read"):
        unpack_records(results)
    assert place.exists()
