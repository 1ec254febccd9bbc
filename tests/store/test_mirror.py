"""Artifacts at a URL: two machines share them, and a cut upload or a broken file is never a result."""

import json
import shutil
from types import SimpleNamespace

import fsspec
import pytest
import torch
from helpers.run import TINY, bench_inline, results

from latentbench.bench.store import mirror
from latentbench.bench.store.artifacts import Result, Store, home
from latentbench.bench.store.hashes import Corrupt

SMALL = TINY.replace("  kl: {weight: 1.0e-3}\n", "").replace(", guidance: [1.0, 1.5]", "")
WEIGHTS = torch.arange(1000.0)
URLS = ["memory://bench-test", "file://{}/remote"]


def stage(name="a"):
    return SimpleNamespace(
        kind="tokenizer", key=name * 64, id=name * 64, label=name, config={}, parents={}, known=True
    )


@pytest.fixture(params=URLS)
def url(request, tmp_path):
    yield request.param.format(tmp_path)
    fs = fsspec.filesystem("memory")
    if fs.exists("/bench-test"):
        fs.rm("/bench-test", recursive=True)


def machine(folder, url):
    """A store as a process that has just started on a machine has it."""
    mirror._listed.clear()
    return mirror.at(folder, url)


def made(store, one, **info):
    store.put(one, Result(info=info, tensors={"weights": WEIGHTS, "bias": WEIGHTS[:3]}))
    return store.upload(one)


def files(url):
    fs, base = fsspec.core.url_to_fs(url)
    return sorted(fs.find(base), key=lambda file: file.endswith("stage.json"))


def test_what_one_machine_makes_another_has(url, tmp_path):
    first = machine(tmp_path / "first", url)
    assert not first.has(stage())
    assert made(first, stage(), loss=0.5) is None
    second = machine(tmp_path / "second", url)
    assert second.has(stage()) and not second.has(stage("b"))
    assert second.get(stage()).info == {"loss": 0.5} and second.get(stage()).error is None
    assert not second.path(stage()).exists()  # nothing has asked for tensors
    assert torch.equal(second.get(stage()).tensor("weights"), WEIGHTS)
    assert set(second.get(stage()).tensors) == {"weights", "bias"}
    fsspec.filesystem("memory").store.clear()
    shutil.rmtree(tmp_path / "remote", ignore_errors=True)
    assert torch.equal(Store(tmp_path / "second").get(stage()).tensors["weights"], WEIGHTS)


def test_what_was_made_meanwhile_is_seen_by_who_is_about_to_make_it(url, tmp_path):
    second = machine(tmp_path / "second", url)
    assert not second.has(stage())
    listed = mirror._listed.copy()
    made(machine(tmp_path / "first", url), stage())
    mirror._listed.update(listed)
    assert not second.has(stage())  # one listing in a process
    with second.lock(stage(), wait=False) as held:
        assert held and second.has(stage())


@pytest.mark.parametrize("cut", ["put_file", "pipe_file", "mv"])
def test_an_upload_that_is_cut_leaves_nothing_and_is_made_up_for(url, tmp_path, cut, monkeypatch):
    fs, _ = fsspec.core.url_to_fs(url)

    def half(source, target, **_):
        if cut == "put_file":
            fs.pipe_file(target, open(source, "rb").read()[:100])
        raise ConnectionResetError("the line is dead")

    first = machine(tmp_path / "first", url)
    with monkeypatch.context() as patch:
        patch.setattr(type(fs), cut, lambda self, source, target=None, **_: half(source, target))
        said = made(first, stage())
    assert "the line is dead" in said and "the next run uploads it" in said
    assert first.has(stage())
    assert not machine(tmp_path / "second", url).has(stage())
    assert machine(tmp_path / "first", url).upload(stage()) is None  # as the next run does
    second = machine(tmp_path / "second", url)
    assert torch.equal(second.get(stage()).tensors["weights"], WEIGHTS)


@pytest.mark.parametrize("place", [0, -1])  # the tensors, stage.json
def test_a_broken_copy_is_taken_away_and_made_again(url, tmp_path, place):
    made(machine(tmp_path / "first", url), stage())
    fs, _ = fsspec.core.url_to_fs(url)
    file = files(url)[place]
    raw = bytearray(fs.cat_file(file))
    raw[len(raw) // 2] ^= 1
    fs.pipe_file(file, bytes(raw))
    second = machine(tmp_path / "second", url)
    assert second.has(stage())
    with pytest.raises(Corrupt):
        _ = second.get(stage()).tensors
    assert "made again" in second.quarantine_if_corrupt(stage())
    assert not second.has(stage()) and not second.path(stage()).exists()
    assert made(second, stage()) is None
    third = machine(tmp_path / "third", url)
    assert third.quarantine_if_corrupt(stage()) is None and torch.equal(
        third.get(stage()).tensor("weights"), WEIGHTS
    )


def test_two_machines_that_make_one_artifact_at_once_leave_a_whole_one(url, tmp_path):
    both = [machine(tmp_path / name, url) for name in "ab"]
    for i, store in enumerate(both):  # as with other processors, whose last bits differ
        store.put(stage(), Result(tensors={"weights": WEIGHTS + i}))
    for store in both:
        mirror._listed.clear()
        store._seen().clear()
        assert store.upload(stage()) is None
    third = machine(tmp_path / "c", url)
    assert third.quarantine_if_corrupt(stage()) is None
    assert third.get(stage()).tensor("weights")[0] in (0, 1)


def test_a_local_artifact_that_is_broken_isnt_uploaded(url, tmp_path):
    store = machine(tmp_path / "first", url)
    store.put(stage(), Result(tensors={"weights": WEIGHTS}))
    file = store.path(stage()) / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "isn't uploaded" in store.upload(stage())
    assert files(url) == [] or not any(one.endswith("stage.json") for one in files(url))


def test_a_url_in_the_environment_has_the_usual_folder_as_its_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTBENCH_HOME", f"file://{tmp_path}/remote/")
    assert home(tmp_path / "none.yaml") == tmp_path / ".bench"
    found = mirror.store(tmp_path / "none.yaml")
    assert (found.root, found.url) == (tmp_path / ".bench", f"file://{tmp_path}/remote")
    with pytest.raises(mirror.RemoteError, match="nowhere://x cannot be used"):
        mirror.store(tmp_path / "none.yaml", "nowhere://x")


def test_a_second_machine_makes_nothing_and_has_the_same_records(tmp_path):
    url = f"file://{tmp_path}/shared"
    said = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "matrix.yaml").write_text(SMALL)
        mirror._listed.clear()  # as in a process that has just started
        done = bench_inline("run", "--store", url, cwd=tmp_path / name)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    assert "start" in said[0] and "start" not in said[1]
    assert results(tmp_path / "first/results/tiny") == results(tmp_path / "second/results/tiny")
    pictures = [sorted((tmp_path / n / "results/tiny/samples").iterdir()) for n in ("first", "second")]
    assert [f.read_bytes() for f in pictures[0]] == [f.read_bytes() for f in pictures[1]]
    assert not list((tmp_path / "second/.bench/artifacts").glob("tokenizer/*"))
    plan = json.loads(bench_inline("plan", "--store", url, "--json", cwd=tmp_path / "second").stdout)
    assert all(one["cached"] for one in plan["stages"])
