"""Archives of results: equal bytes for equal files, and nothing of what a stranger may put into one."""

import zipfile
from unittest import mock

import pytest
from helpers.archives import archive, understated

from latentbench.bench.records import archive as archives
from latentbench.bench.records.archive import ArchiveError, pack, submission_of, unpack, unpacked

FILES = {"records/b.json": b"{}", "records/a.json": b'{"x": 1}', "matrix.lock.yaml": b"name: x\n"}
FAR = "mine/records/a.json"


def test_equal_files_give_equal_bytes_in_any_order_and_come_back(tmp_path):
    content = pack("mine", FILES)
    assert content == pack("mine", dict(reversed(FILES.items())))
    (tmp_path / "x.zip").write_bytes(content)
    folder = unpack(tmp_path / "x.zip", tmp_path)
    assert folder == tmp_path / "mine"
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    with zipfile.ZipFile(tmp_path / "x.zip") as made:
        assert made.namelist() == [f"mine/{name}" for name in sorted(FILES)]
        assert {entry.date_time for entry in made.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_what_would_not_be_unpacked_is_not_packed():
    for name in ("samples/a.png", "../x.json", "records/.hidden.json", "cache/model.safetensors"):
        with pytest.raises(ArchiveError, match="cannot be in an archive"):
            pack("mine", {name: b""})


@pytest.mark.parametrize(
    "name",
    [
        "../records/a.json",
        "mine/../../a.json",
        "mine/records/../../../a.json",
        "/etc/records/a.json",
        "mine\\records\\a.json",
        "C:/records/a.json",
        "mine/records/a\x1b[2J.json",
        "mine/records/\u202ea.json",
        "mine/records/deep/a.json",
        "mine/plugin.py",
        "mine/records/a.json\n",
        ".ssh/records/a.json",
        "records/a.json",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written(tmp_path, name):
    path = archive(tmp_path / "x.zip", {FAR: "{}", name: "{}"})
    (tmp_path / "into").mkdir()
    with pytest.raises(ArchiveError) as caught:
        unpack(path, tmp_path / "into")
    assert str(path) in str(caught.value) and "\x1b" not in str(caught.value)
    assert [*(tmp_path / "into").iterdir()] == [] and {p.name for p in tmp_path.iterdir()} == {
        "x.zip",
        "into",
    }


def test_links_two_folders_and_equal_names_are_refused(tmp_path):
    cases = {
        "cannot be in an archive": archive(tmp_path / "link.zip", {FAR: "/etc/passwd"}, link=FAR),
        "2 folders": archive(tmp_path / "two.zip", {FAR: "{}", "yours/records/a.json": "{}"}),
        "two files of one name": archive(tmp_path / "twin.zip", {FAR: "{}", "mine/records/A.json": "{}"}),
        "0 folders": archive(tmp_path / "none.zip", {}),
    }
    for says, path in cases.items():
        with pytest.raises(ArchiveError, match=says):
            unpack(path, tmp_path)


def test_a_file_that_is_larger_than_it_says_is_not_unpacked_whole(tmp_path):
    size = 3_000_000
    path = understated(tmp_path / "bomb.zip", FAR, size)
    assert path.stat().st_size < size / 100
    with pytest.raises(ArchiveError):
        unpack(path, tmp_path)
    honest = archive(tmp_path / "large.zip", {FAR: b"\0" * size})
    with (
        mock.patch.object(archives, "MOST_OF_A_FILE", size // 2),
        pytest.raises(ArchiveError, match="larger"),
    ):
        unpack(honest, tmp_path / "b")
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.json"))
    assert written <= size / 2 + archives.CHUNK
    with mock.patch.object(archives, "MOST", size // 2), pytest.raises(ArchiveError, match="larger"):
        unpack(honest, tmp_path / "c")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(pack("mine", FILES)[:-30])
    with pytest.raises(ArchiveError, match=r"x\.zip is no archive that can be read"):
        unpack(tmp_path / "x.zip", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "submission.json").write_text("[" * 100_000)
    with pytest.raises(ArchiveError, match="cannot be read"):
        submission_of(tmp_path / "mine")


def test_folders_stay_and_unpacked_archives_go_away(tmp_path):
    (tmp_path / "x.zip").write_bytes(pack("mine", FILES))
    with unpacked([tmp_path, tmp_path / "x.zip"]) as (first, second):
        assert first == tmp_path and (second / "records" / "a.json").is_file()
    assert not second.exists() and tmp_path.exists()
