"""`bench compact`: results folders of older versions become smaller, and say the same."""

import os

import numpy as np
import pytest
from helpers import fabricated_records
from helpers.run import bench_inline
from PIL import Image, PngImagePlugin

from latentbench.bench.records.files import RecordError, move_record, read_records
from latentbench.bench.records.record import in_order
from latentbench.bench.report import image_grids
from latentbench.bench.report.write import rebuild_report
from latentbench.bench.tools.compact import CompactError, compact
from latentbench.bench.tools.submission.submit import read_folder

RECORDS = in_order(fabricated_records.records(("none", "kl"), ("mar", "tarflow"), ("0", "1")))
TABLES = ("leaderboard.csv", "leaderboard.md", "leaderboard.tex")


@pytest.fixture
def older(tmp_path):
    """A results folder as older versions wrote it, with two pictures."""
    folder = tmp_path / "older"
    for kind in ("records", "samples", "figures"):
        (folder / kind).mkdir(parents=True)
    for record in RECORDS:
        (folder / "records" / record.filename).write_text(record.to_json(), encoding="utf-8")
    rng = np.random.default_rng(0)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Source", "ab" * 32)
    grey = Image.fromarray(rng.integers(0, 256, (60, 60, 1), dtype=np.uint8).repeat(3, 2))
    grey.save(folder / "samples/digits--reconstructions.png", pnginfo=notes)
    Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(
        folder / "figures/digits--vit--kl--noise.png"
    )
    rebuild_report([folder], folder, title="same")
    return folder


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_records_are_the_same_in_half_the_bytes_and_pictures_stay(older):
    before = contents(older)
    (shrunk,) = compact(older)
    assert (shrunk.kind, shrunk.files) == ("record", len(RECORDS)) and shrunk.after < shrunk.before / 2
    assert read_records(older / "records") == RECORDS
    after = contents(older)
    assert {name for name in before if after[name] != before[name]} == {
        f"records/{record.filename}" for record in RECORDS
    }
    rebuild_report([older], older, title="same")
    assert all(contents(older)[name] == before[name] for name in TABLES)


def test_cells_of_a_tokenizer_share_the_file_of_its_metrics_and_curves(older):
    compact(older)
    shared = list((older / "records/tokenizers").glob("*.json"))
    trained = {(r.cell["regularizer"], r.cell["seed"]) for r in RECORDS if not r.real}
    held_out = [r for r in RECORDS if r.real and any(e["scope"] == "tokenizer" for e in r.metrics.values())]
    assert len(shared) == len(trained) + len(held_out)
    assert all('"PSNR"' not in file.read_text() for file in (older / "records").glob("digits--vit*.json"))
    moved = older.parent / "moved"
    for record in RECORDS:
        assert move_record(older / "records" / record.filename, moved)
    assert read_records(moved) == RECORDS
    assert [file.to_json() for file in read_records(moved)] == [record.to_json() for record in RECORDS]


def test_shared_files_that_no_record_names_any_more_go(older):
    compact(older)
    kept = contents(older / "records")
    for folder in ("metrics", "tokenizers"):
        (older / "records" / folder / f"{'0' * 16}.json").write_text("{}")
    compact(older)
    assert contents(older / "records") == kept


def test_a_submitted_folder_has_its_shared_files(older):
    compact(older)
    files, records, _ = read_folder(older)
    assert len(records) == len(RECORDS)
    assert {name for name in files if "/tokenizers/" in name} == {
        f"records/tokenizers/{file.name}" for file in (older / "records/tokenizers").iterdir()
    }


def test_pictures_get_fewer_colours_if_asked_and_keep_their_source(older):
    before = contents(older)
    pictures = compact(older, pictures=True)[1]
    assert (pictures.kind, pictures.files) == ("picture", 2) and pictures.after < pictures.before / 2
    file = older / "samples/digits--reconstructions.png"
    assert image_grids.source_of(file) == "ab" * 32  # a run doesn't draw it again
    with Image.open(file) as picture:
        assert picture.size == (60, 60) and len(picture.convert("RGB").getcolors()) == 16
    assert len(file.read_bytes()) < len(before["samples/digits--reconstructions.png"])


def test_a_second_time_changes_no_byte(older):
    compact(older, pictures=True)
    once = contents(older)
    assert [one.before - one.after for one in compact(older, pictures=True)] == [0, 0]
    assert contents(older) == once


def test_the_command_says_what_it_saved(older):
    before = contents(older)
    done = bench_inline("compact", older, "--pictures", cwd=older.parent)
    assert done.returncode == 0, done.stderr
    assert f"{older}: {len(RECORDS)} records, " in done.stdout and "2 pictures, " in done.stdout
    same = bench_inline("compare", older, older, cwd=older.parent)
    assert same.returncode == 0, same.stderr
    again = bench_inline("report", older, cwd=older.parent)
    assert again.returncode == 0 and contents(older)["leaderboard.csv"] == before["leaderboard.csv"]


def test_a_transparent_picture_and_files_that_are_no_pictures_of_ours_stay(older):
    clear = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 4), dtype=np.uint8))
    clear.save(older / "figures/clear.png")
    (older / "samples/notes.txt").write_text("mine")
    before = contents(older)
    compact(older, pictures=True)
    after = contents(older)
    assert all(after[name] == before[name] for name in ("figures/clear.png", "samples/notes.txt"))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"text"])
def test_a_broken_picture_is_named_before_anything_is_written(older, content):
    whole = (older / "samples/digits--reconstructions.png").read_bytes()
    (older / "samples/broken.png").write_bytes(content or whole[:2000])
    before = contents(older)
    with pytest.raises(CompactError, match=r"broken\.png cannot be read"):
        compact(older, pictures=True)
    assert contents(older) == before


def test_a_picture_that_unpacks_to_too_many_pixels_is_refused(older, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # three times fewer than the pictures here have
    before = contents(older)
    with pytest.raises(CompactError, match="decompression bomb"):
        compact(older, pictures=True)
    assert contents(older) == before


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_records_is_an_error(tmp_path, name):
    (tmp_path / "empty/records").mkdir(parents=True)
    with pytest.raises(RecordError, match="no records in"):
        compact(tmp_path / name)
    assert bench_inline("compact", tmp_path / name, cwd=tmp_path).returncode == 2


def test_a_broken_record_is_named_before_anything_is_written(older):
    file = older / "records" / RECORDS[0].filename
    file.write_text(file.read_text()[:-100])
    before = contents(older)
    with pytest.raises(RecordError, match=file.name):
        compact(older, pictures=True)
    assert contents(older) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(older):
    (older / "records").chmod(0o500)
    assert bench_inline("compact", older, cwd=older.parent).returncode == 2
