"""Files that a report finds in its folder: others' are never replaced, and older reports not unsaid."""

from dataclasses import replace

import pytest
from helpers import fabricated_records
from helpers.run import TINY, bench_inline
from PIL import Image

from latentbench.bench.records.files import read_record, read_records, write_record
from latentbench.bench.report.places import NotWritable, check_places
from latentbench.bench.report.write import rebuild_report

FEW = {"generators": ("mar",), "guidances": (1.0,), "seeds": ("0",)}


def results(folder, *regularizers):
    for record in fabricated_records.records(regularizers, **FEW):
        write_record(folder / "records", record)
    return folder


@pytest.fixture
def here(tmp_path):
    results(tmp_path / "a", "kl", "none")
    return tmp_path


def files(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def report(here, *words):
    return bench_inline("report", *words, cwd=here)


@pytest.mark.parametrize(
    "name", ["leaderboard.csv", "leaderboard.html", "analysis/mine.png", "analysis/pareto.csv"]
)
@pytest.mark.parametrize("command", ["report", "merge", "run"])
def test_files_that_no_report_has_written_are_refused_and_kept(command, name, here):
    (here / "out" / name).parent.mkdir(parents=True)
    (here / "out" / name).write_text("years of work")
    (here / "matrix.yaml").write_text(TINY)
    before = files(here)
    words = {"report": ["a"], "merge": ["a"], "run": []}[command]
    done = bench_inline(command, *words, "-o", "out", cwd=here, home=here / "home")
    assert done.returncode == 2 and name in done.stderr and "-o" in done.stderr, done.stderr
    assert files(here) == before


def test_a_folder_of_other_things_takes_a_report(here):
    for name in ("notes.txt", "analysis/notes.txt", "table.csv"):
        (here / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "out" / name).write_text("mine")
    before = files(here / "out")
    done = report(here, "a", "-o", "out")
    assert done.returncode == 0 and "replaced" not in done.stderr
    assert before.items() <= files(here / "out").items()
    again = report(here, "a", "-o", "out")
    assert again.returncode == 0 and "note: the report that was in out is replaced" in again.stderr
    assert "replaced" not in report(here, "a").stderr  # in its own folder, where it belongs


def test_a_report_without_pictures_is_made_and_says_so(here):
    done = report(here, "a")
    assert done.returncode == 0 and (here / "a/leaderboard.html").is_file()
    assert "note: the page shows no pictures: there are none in samples/ and figures/ of a." in done.stderr
    (here / "a/figures").mkdir()
    Image.new("RGB", (8, 8)).save(here / "a/figures/digits--vit--kl--noise.png")
    assert "note" not in report(here, "a").stderr


def test_a_results_folder_is_no_place_for_the_report_of_others(here):
    results(here / "b", "simflow")
    assert report(here, "b").returncode == 0
    before = files(here)
    done = report(here, "a", "-o", "b")
    assert done.returncode == 2 and "b has records of its own" in done.stderr
    assert files(here) == before
    both = report(here, "a", "b", "-o", "b")
    assert both.returncode == 0 and b"simflow" in (here / "b/leaderboard.csv").read_bytes()


def test_a_merge_sets_records_aside_whose_contents_it_would_replace(here):
    first = bench_inline("merge", "a", "-o", "c", cwd=here)
    assert first.returncode == 0 and "set aside" not in first.stderr
    assert "set aside" not in bench_inline("merge", "a", "-o", "c", cwd=here).stderr  # nothing is another
    file = next((here / "c/records").glob("*none*.json"))
    hours = file.read_text(encoding="utf-8").replace('"done"', '"failed"')
    for count in (1, 2):
        file.write_text(hours, encoding="utf-8")
        done = bench_inline("merge", "a", "-o", "c", cwd=here)
        note = f"note: set aside in c/set-aside/{count}: 3 records with other contents than the merged ones"
        assert done.returncode == 0 and note in done.stderr
        kept = here / f"c/set-aside/{count}/records" / file.name
        assert kept.read_text(encoding="utf-8") == hours
        assert read_records(here / "c/records") == read_records(here / "a/records")


def test_an_interrupted_report_leaves_every_file_whole(here, monkeypatch):
    """A disk that is full after so many files: each file is the old one or the new one."""
    from latentbench.bench.store import disk

    rebuild_report([here / "a"], here / "a")
    old = files(here / "a")
    for file in sorted((here / "a/records").glob("*none*")):
        record = read_record(file)
        write_record(here / "a/records", replace(record, reason="edited"))
    rebuild_report([here / "a"], here / "b")
    new = {here / "a" / file.relative_to(here / "b"): content for file, content in files(here / "b").items()}
    write, written = disk.os.replace, []

    def full(source, target):
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(target)
        write(source, target)

    monkeypatch.setattr(disk.os, "replace", full)
    with pytest.raises(disk.DiskFull):
        rebuild_report([here / "a"], here / "a")
    monkeypatch.undo()
    left = files(here / "a")
    assert len(written) == 4 and all(
        content in (old.get(f), new.get(f)) for f, content in left.items() if "records" not in str(f)
    )
    assert left.keys() == old.keys()


@pytest.mark.parametrize("name", ["leaderboard.csv", "matrix.lock.yaml"])
def test_a_folder_in_a_files_place_is_refused(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(NotWritable, match=f"{name}: it is a folder"):
        check_places(tmp_path)


@pytest.mark.parametrize("name", ["", "records", "analysis", "samples", "figures"])
def test_a_file_in_a_folders_place_is_refused(name, tmp_path):
    place = tmp_path / "out" / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("in the way")
    with pytest.raises(NotWritable, match="cannot write to .*: File exists"):
        check_places(tmp_path / "out")
