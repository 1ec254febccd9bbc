# ruff: noqa: E402 (what follows needs ray)
"""The Ray engine, on clusters of this machine and through the command line."""

import json
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.run import (
    TINY,
    bench,
    bench_inline,
    cmdline,
    gone_within,
    results,
    start,
    until,
    workers_of,
)

ray = pytest.importorskip("ray", reason="the Ray engine needs ray, which isn't installed")

from ray.cluster_utils import Cluster

from latentbench.bench.engine import ray_cluster
from latentbench.bench.engine.ray_cluster import Needs, Task, make, needs, versions
from latentbench.bench.engine.setting import Setting
from latentbench.bench.store.stage import Stage

SMALL = re.sub(r"  lightningdit: .*\n", "", TINY).replace(", generation, density, cost", "")


def cluster():
    """Two nodes of one CPU each."""
    os.environ["RAY_worker_niceness"] = "0"  # beside other tests the nice wait for minutes
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = found.add_node(num_cpus=1)
    return found, second


@pytest.fixture(scope="module")
def nodes():
    found, _ = cluster()
    yield found.address
    found.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = matrix(tmp_path_factory.mktemp("undisturbed"), SMALL)
    assert bench_inline("run", cwd=folder).returncode == 0
    return folder


def matrix(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.yaml").write_text(text)
    return folder


def stage(kind, **parents):
    return Stage(kind, "label", {}, parents, "1" * 64, True)


def setting(threads, loaders, processes, device):
    return Setting(Path(), (), threads, device, "fp32", loaders, processes=processes)


def test_a_stage_asks_for_the_cores_of_its_threads_and_loaders_in_all_processes():
    assert needs(stage("tokenizer"), setting(2, 3, 4, "cpu")) == Needs(20, 0)
    assert needs(stage("scores"), setting(2, 3, 4, "cpu")) == Needs(5, 0)


def test_a_stage_asks_for_a_gpu_a_process_unless_it_only_draws_samples():
    assert needs(stage("tokenizer"), setting(1, 0, 8, "cuda")) == Needs(8, 8)
    assert needs(stage("scores"), setting(1, 0, 8, "cuda")) == Needs(1, 1)
    assert needs(stage("reference", features="f"), setting(1, 0, 8, "cuda")) == Needs(1, 0)
    assert needs(stage("reference", tokenizer="t"), setting(1, 0, 8, "cuda")) == Needs(1, 1)


@pytest.fixture
def interrupts():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "folder, found, reason",
    [("there", {"torch": "1.0"}, "has {"), ("elsewhere", None, "nodes must share that folder")],
)
def test_a_node_that_is_not_like_the_others_makes_nothing(tmp_path, interrupts, folder, found, reason):
    (tmp_path / "there").mkdir()
    said = []
    setting = Setting(tmp_path / folder, (), 1, "cpu", "fp32")
    task = Task(stage("tokenizer"), {}, setting, tmp_path, found or versions())
    what, _, why, _ = make(task, SimpleNamespace(put=said.append))
    assert what == "failed" and reason in why
    assert [message[0] for message in said] == ["started"]
    assert not list((tmp_path / "there").iterdir())


def test_what_another_machine_has_made_may_be_seen_late(tmp_path, monkeypatch):
    looks = iter([False, False, True, True])
    store = SimpleNamespace(has_now=lambda stage: next(looks), path=lambda stage: tmp_path / "kind/key")
    monkeypatch.setattr(ray_cluster.time, "sleep", lambda seconds: None)
    assert ray_cluster.appear(store, stage("tokenizer"))
    monkeypatch.setattr(ray_cluster, "VISIBLE_SECONDS", 0)
    assert not ray_cluster.appear(SimpleNamespace(has_now=lambda stage: False), stage("tokenizer"))


def test_two_nodes_give_the_numbers_of_one_worker(undisturbed, nodes, tmp_path):
    folder = matrix(tmp_path, SMALL)
    done = bench("run", "--engine", "ray", "--ray-address", nodes, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(folder / "results/tiny") == results(undisturbed / "results/tiny")
    assert done.stdout.count("start  tokenizer") == done.stdout.count("done   tokenizer") == 2
    again = bench("run", "--engine", "ray", "--ray-address", "nobody:1", cwd=folder)
    assert again.returncode == 0 and "start" not in again.stdout  # nothing is missing, so nobody is asked


FAILING = '''
from pathlib import Path
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register

@register("failing")
class Failing(Regularizer):
    """Fails at its first step, and counts how often."""

    def loss(self, z, h, step):
        with open(Path(__file__).with_name("tries"), "a") as file:
            file.write("x")
        raise RuntimeError("as it must")
'''


@pytest.mark.nightly
def test_an_exception_of_a_part_is_a_failed_row_and_is_not_tried_again(undisturbed, nodes, tmp_path):
    text = SMALL.replace("  kl: {weight: 1.0e-3}\n", "  failing: {}\n") + "plugins: [failing.py]\n"
    folder = matrix(tmp_path, text)
    (folder / "failing.py").write_text(FAILING)
    done = bench("run", "--engine", "ray", "--ray-address", nodes, cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "RuntimeError: as it must" in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert (folder / "tries").read_text() == "x"
    mine, truth = results(folder / "results/tiny"), results(undisturbed / "results/tiny")
    shared = [name for name in mine if "none" in name]
    assert shared and all(mine[name] == truth[name] for name in shared)


def test_a_cluster_that_is_not_there_is_an_error_of_one_line(tmp_path):
    folder = matrix(tmp_path, SMALL)
    done = bench("run", "--engine", "ray", "--ray-address", "127.0.0.1:1", cwd=folder, timeout=120)
    assert done.returncode == 2
    assert "no Ray cluster at 127.0.0.1:1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "sign",
    [signal.SIGINT, signal.SIGTERM, signal.SIGKILL],
)
@pytest.mark.nightly
def test_a_cluster_of_its_own_ends_with_the_run_which_says_how_to_go_on(tmp_path, sign):
    folder = matrix(tmp_path, re.sub(r"_steps: 12", "_steps: 100000", SMALL))
    process = start("run", "--engine", "ray", "-j", 1, cwd=folder)
    until(process, "start  tokenizer")
    time.sleep(1)
    # A killed cluster's agents see it within a minute or two; they do no work.
    workers = [pid for pid in workers_of(process.pid) if "Agent" not in cmdline(pid)]
    process.send_signal(sign)
    rest = process.communicate(timeout=120)[0]
    assert workers and gone_within(30, workers), list(map(cmdline, workers))
    if sign != signal.SIGKILL:
        assert process.returncode == 128 + sign
        assert "bench run --engine ray -j 1" in rest
        assert list((folder / ".bench/work").glob("*/*.safetensors"))  # a last checkpoint


@pytest.mark.nightly
def test_a_node_killed_in_the_middle_changes_no_number(tmp_path):
    text = TINY.replace("tokenizer_steps: 12", "tokenizer_steps: 2000")
    straight, killed = matrix(tmp_path / "straight", text), matrix(tmp_path / "killed", text)
    assert bench_inline("run", cwd=straight).returncode == 0
    found, second = cluster()
    try:
        process = start("run", "--engine", "ray", "--ray-address", found.address, cwd=killed)
        said = until(process, "start  tokenizer")
        said += until(process, "start  tokenizer")  # both nodes are busy
        time.sleep(3)
        found.remove_node(second, allow_graceful=False)
        said += process.communicate(timeout=600)[0]
    finally:
        found.shutdown()
    assert process.returncode == 0, said
    assert "it was lost with its node" in said
    assert results(killed / "results/tiny") == results(straight / "results/tiny")
    records = [json.loads(file.read_text()) for file in (killed / "results/tiny/records").glob("*.json")]
    assert {record["status"] for record in records} == {"done"}
