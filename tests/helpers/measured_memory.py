"""Memory of stages as planned and as measured, each stage in a forked process of its own.

    python tests/helpers/measured_memory.py FOLDER < cases.json

reads a JSON list of cases, each {"name", "matrix": a YAML text, "kinds": of stages}, makes the stages of
these kinds and what they need in FOLDER, which all cases share, and prints a line of JSON for each of these
stages as soon as it is made. A stage's memory is the largest sum of anonymous pages above what its process
has at its start, with all imports: mapped files don't count, as the kernel can drop their pages.
"""

import ctypes
import functools
import importlib
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

IMPORTS = (
    "cleanfid.resize",
    "faiss",
    "lpips",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "scipy.stats",
    "skimage.metrics",
    "sklearn.cluster",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "timm",
    "torch._dynamo",
    "torch_fidelity.metric_prc",
    "torch_fidelity.feature_extractor_clip",
    "torch_fidelity.feature_extractor_inceptionv3",
    "torch_fidelity.interpolate_compat_tensorflow",
)
PAUSE = 0.001  # seconds between two looks at a process


def anonymous(pid):
    """Bytes of a process's memory that isn't a file's; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(
        1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon", "RssSh"))
    )


def peak_of(work):
    """The largest memory of a forked process that calls `work`, above that at its start."""
    ctypes.CDLL(None).malloc_trim(0)  # so that the process cannot reuse what this one has freed
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.read(ready, 1)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    start = peak = anonymous(pid)
    os.write(go, b"1")
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        peak = max(peak, anonymous(pid))
        time.sleep(PAUSE)
    os.close(ready), os.close(go)
    return peak - start


def measured(folder, cases):
    """Yields a dictionary for each stage of the wanted kinds that a case is the first to make."""
    for name in IMPORTS:
        importlib.import_module(name)
    from latentbench.bench import api, registry
    from latentbench.bench.matrix.load import load_matrix
    from latentbench.bench.plan.estimate import costs
    from latentbench.bench.plan.make import make_plan
    from latentbench.bench.store.artifacts import Store
    from latentbench.bench.training import steps

    for kind in api.KINDS:
        for name in registry.names(kind):
            registry.get(kind, name)
    steps.CHECKPOINT_SECONDS = 0.0  # even a short training writes a checkpoint, as long ones do
    store = Store(folder / ".bench")
    for case in cases:
        (folder / "matrix.yaml").write_text(case["matrix"])
        matrix = load_matrix(folder / "matrix.yaml")
        plan = make_plan(matrix, fetch=True)
        wanted = [stage.id for stage in plan.stages.values() if stage.kind in case["kinds"]]
        stages = [plan.stages[one] for one in plan.ancestors(wanted)]
        planned = costs(plan, stages)
        for stage in stages:
            if store.has(stage):
                continue
            began = time.monotonic()
            peak = peak_of(functools.partial(make, stage, plan, store, matrix))
            if stage.id not in wanted:
                continue
            cost, seconds = planned[stage.id], time.monotonic() - began
            parts = {name: size for name, size in cost.plain().items() if name.endswith("memory_bytes")}
            yield {
                "case": case["name"],
                "kind": stage.kind,
                "label": stage.label,
                "planned": cost.cpu_memory_bytes,
                "measured": peak,
                "made": store.has(stage),
                "seconds": round(seconds, 1),
                "parts": parts,
            }


def make(stage, plan, store, matrix):
    """Makes a stage as a worker does; returns an exit status."""
    from latentbench.bench.engine import worker
    from latentbench.bench.engine.companions import Team
    from latentbench.bench.engine.setting import Setting

    setting = Setting(store.root, (), matrix.threads, "cpu", matrix.precision)
    setting.apply()
    parents = {role: plan.stages[parent] for role, parent in stage.parents.items()}
    outcome = worker.run_stage(stage, parents, Team(setting), lambda message: None, threading.Event())
    if outcome[0] == "done":
        return 0
    print(stage.kind, stage.label, *outcome[2:], file=sys.stderr)
    return 1


if __name__ == "__main__":
    for row in measured(Path(sys.argv[1]).resolve(), json.load(sys.stdin)):
        print(json.dumps(row), flush=True)
