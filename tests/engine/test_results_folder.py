"""What a run does with a results folder that has records already: git's, or another matrix's."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.run import TINY, bench_inline, results, start

ROOT = Path(__file__).resolve().parents[2]
SMALL = TINY.replace("  lightningdit", "  # lightningdit").replace(", density", "")  # two cells


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(folder, *arguments, text=SMALL):
    """Runs a matrix in a folder; all of the tests below share its cache."""
    (folder / "matrix.yaml").write_text(text)
    return bench_inline("run", *arguments, cwd=folder, home=folder.parent / "home")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder whose results/tiny has the two records of the small matrix and that of real images."""
    folder = tmp_path_factory.mktemp("made") / "work"
    folder.mkdir()
    done = run(folder)
    assert done.returncode == 0 and "set aside" not in done.stdout, done.stdout + done.stderr
    return folder


@pytest.fixture
def mine(made, request):
    """A copy of that folder, beside the same cache."""
    folder = made.parent / request.node.name
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def committed(mine):
    """The same as the clone of a repository that has this one's .gitignore and committed the results."""
    shutil.move(mine / "results/tiny", mine / "results/studies/tiny")
    shutil.copy(ROOT / ".gitignore", mine)
    git(mine, "init", "-q")
    git(mine, "add", ".")
    git(mine, "commit", "-qm", "Results")
    return mine


def test_records_know_the_shape_of_their_latents(made):
    found = {}
    for file in (made / "results/tiny/records").glob("*.json"):
        record = json.loads(file.read_text())
        found[record["cell"]["regularizer"]] = record["provenance"].get("latent")
    assert found.pop("real") is None
    # Images of 8 x 8 pixels in patches of 4.
    assert list(found.values()) == [{"tokens": 4, "channels": 4}] * 2


def test_the_first_command_in_a_clone_leaves_git_status_empty(committed):
    for arguments in ((), ("--filter", "regularizer=kl", "-o", "results/mine")):
        done = run(committed, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (committed / "results/tiny/leaderboard.csv").is_file()
    assert git(committed, "status", "--porcelain") == ""


@pytest.mark.parametrize("removed", [False, True], ids=["there", "removed without git"])
def test_a_run_stops_before_it_would_replace_records_that_git_tracks(committed, removed):
    if removed:
        shutil.rmtree(committed / "results/studies/tiny")
    before = git(committed, "status", "--porcelain")
    done = run(committed, "-o", "results/studies/tiny", "--rerun", text=SMALL + "threads: 2\n")
    git(committed, "checkout", "matrix.yaml")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "git tracks 3 records in results/studies/tiny" in done.stderr
    assert all(choice in done.stderr for choice in ("-o DIR", "--keep-records", "--overwrite"))
    assert git(committed, "status", "--porcelain") == before


def test_overwrite_lets_a_run_replace_records_that_git_tracks(committed):
    done = run(committed, "-o", "results/studies/tiny", "--overwrite", text=SMALL.replace("1.0e-3", "2.0e-3"))
    assert done.returncode == 0, done.stdout + done.stderr
    changed = git(committed, "status", "--porcelain")
    assert "leaderboard.csv" in changed and "set-aside" not in changed
    assert len(results(committed / "results/studies/tiny/set-aside/1")) == 1


def test_keep_records_adds_to_records_that_git_tracks_and_sets_none_of_them_aside(committed):
    added = SMALL.replace("  kl:", "  aae: {}\n  kl:")
    done = run(committed, "-o", "results/studies/tiny", "--keep-records", text=added)
    assert done.returncode == 0, done.stdout + done.stderr
    changed = git(committed, "status", "--porcelain", "--", "results/studies/tiny/records")
    assert [line[:2] for line in changed.splitlines()] == ["??"]
    edited = SMALL.replace("batch: 16", "batch: 8")
    done = run(committed, "-o", "results/studies/tiny", "--keep-records", text=edited)
    assert done.returncode == 2
    assert "git tracks 2 records in results/studies/tiny, which are of another matrix" in done.stderr
    assert len(results(committed / "results/studies/tiny")) == 4


def test_a_run_goes_on_from_packed_records_and_makes_none_again(mine):
    folder, first = mine / "results/tiny", results(mine / "results/tiny")
    packed = bench_inline("compact", "results/tiny", "--pack", cwd=mine)
    assert packed.returncode == 0 and not (folder / "records").exists(), packed.stderr
    done = bench_inline("run", "--keep-records", cwd=mine, home=mine / "another home")
    assert done.returncode == 0 and "start" not in done.stdout, done.stdout + done.stderr
    assert results(folder) == first and not (folder / "records.tar.xz").exists()


def test_an_edited_matrix_says_what_it_sets_aside_and_overwrites_no_earlier_one(mine):
    folder, first = mine / "results/tiny", results(mine / "results/tiny")
    pictures = {file.name for file in (folder / "samples").iterdir()}
    lock = (folder / "matrix.lock.yaml").read_text()
    for number in (1, 2):
        done = run(mine, "-q", text=SMALL.replace("1.0e-3", f"{1 + number}.0e-3"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"set aside in results/tiny/set-aside/{number}: 1 record of" in done.stdout
    aside, (name,) = folder / "set-aside", results(folder / "set-aside/1")
    kept = [results(place)[name] for place in (aside / "1", aside / "2", folder)]
    assert "--kl--" in name and kept[0] == first[name] and kept[0] != kept[1] != kept[2]
    assert (aside / "1/matrix.lock.yaml").read_text() == lock
    assert "weight: 0.002" in (aside / "2/matrix.lock.yaml").read_text()
    moved = {file.name for file in (aside / "1/samples").iterdir()}
    assert moved == {picture for picture in pictures if "--kl--" in picture}
    assert bench_inline("report", aside / "1", cwd=mine).returncode == 0


def test_a_plugin_and_a_broken_record_are_found_again_from_where_they_were_set_aside(mine):
    (mine / "own.py").write_text("")
    run(mine, text=SMALL + "plugins: [own.py]\n")
    broken = next((mine / "results/tiny/records").glob("*--kl*"))
    broken.write_text("{")
    done = run(mine)
    assert "set-aside/1: 1 record of" in done.stdout
    aside = mine / "results/tiny/set-aside/1"
    assert (aside / "records" / broken.name).read_text() == "{"
    lock = aside / "matrix.lock.yaml"
    assert "plugins:\n- own.py\n" in lock.read_text()
    assert bench_inline("plan", "-m", lock, cwd=mine).returncode == 0
    assert json.loads(broken.read_text())["status"] == "done"


def test_shards_of_an_edited_matrix_set_none_of_each_other_s_records_aside(mine):
    shards = [run(mine, "--shard", f"{i}/2", text=SMALL.replace("1.0e-3", "2.0e-3")) for i in (1, 2)]
    assert [shard.stdout.count("set aside in") for shard in shards] == [1, 0]
    assert len(results(mine / "results/tiny")) == 3


def test_what_a_shard_prints_at_its_end_is_the_table_of_the_whole_folder(made, tmp_path):
    (tmp_path / "matrix.yaml").write_text(SMALL)
    said = [
        bench_inline("run", "--shard", f"{i}/2", cwd=tmp_path, home=made.parent / "home").stdout
        for i in (1, 2)
    ]
    assert "1 done cell" in said[0] and "other runs" not in said[0]
    assert "2 done cells\n1 cell of these came from other runs into this folder" in said[1]
    assert all(name in said[1] for name in ("none", "kl"))


@pytest.mark.nightly
def test_shards_that_begin_at_the_same_time_set_records_aside_once(mine):
    (mine / "matrix.yaml").write_text(SMALL.replace("batch: 16", "batch: 12"))
    home = mine.parent / "home"
    both = [start("run", "-j", 1, "--shard", f"{i}/2", cwd=mine, home=home) for i in (1, 2)]
    said = "".join(process.communicate(timeout=300)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert said.count("set aside in") == 1 and "2 records of" in said
    assert len(results(mine / "results/tiny")) == 3
    assert [file.name for file in (mine / "results/tiny/set-aside").iterdir()] == ["1"]
