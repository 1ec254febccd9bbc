"""Speed of samplers and training steps against another commit's, by turns on one thread of the CPU.

    python tests/benchmarks/against_commit.py 0a6092f [--rounds 5] [--only mar]

A process of either commit takes its turn at each case, at least five times. Seconds are those of the CPU.
Both have the same weights, where names and shapes agree, and draw the same noise; the table shows how far
their samples and losses differ. Its last column is the share of this checkout's time that torch's profiler
finds in matrix products, attention among them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
GENERATORS = ("tarflow", "mar", "lightningdit")
SAMPLERS = {"tarflow": {}, "mar": {"iterations": 8}, "lightningdit": {"steps": 5}}  # fewer steps, equal ones
BATCHES = {96: 128, 384: 32}  # samples at a time, by the width
CASES = [
    (name, width, tokens, work)
    for name in GENERATORS
    for width in BATCHES
    for tokens in (16, 64)
    for work in ("sampling", "a training step")
]
CHANNELS, CLASSES, GUIDANCE = 16, 10, 1.5
PRODUCTS = {
    *(f"aten::{name}" for name in ("addmm", "mm", "bmm", "baddbmm")),
    "mkldnn::_linear_pointwise",
    *(f"aten::_scaled_dot_product_flash_attention_for_cpu{end}" for end in ("", "_backward")),
}


def import_package(folder, place):
    """A new folder in `place` from which Python imports the checkout in `folder` as `latentbench`."""
    package = Path(tempfile.mkdtemp(dir=place)) / "latentbench"
    package.mkdir()
    for part in ("bench", "tokenizers", "regularizers", "generators", "evaluators"):
        (package / part).symlink_to(folder / part)
    return package.parent


@contextmanager
def worktree(commit):
    with tempfile.TemporaryDirectory(prefix="latentbench-") as folder:
        place = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", place, commit], cwd=ROOT, check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", place], cwd=ROOT, check=True)


class Side:
    """A process with one commit's package, which takes cases line by line."""

    def __init__(self, folder, weights):
        settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "KINETO_LOG_LEVEL": "9"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(weights)],
            env=os.environ | settings | {"PYTHONPATH": str(import_package(folder, weights))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, case, profiled=False):
        print(json.dumps([*case, profiled]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def serve(weights):
    """Answers each case with seconds, a sample of the results, and whether the weights are the other's."""
    _with_variables_of_a_run()
    import torch
    from torch.profiler import profile

    try:
        from latentbench.bench.runtime.onednn import by_onednn
    except ImportError:  # an older commit's name
        from latentbench.bench.products import by_onednn
    try:
        from latentbench.bench.runtime.heap import keep_freed_memory

        keep_freed_memory()  # as every process does that runs stages
    except ImportError:
        pass
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cache = {}
    for line in sys.stdin:
        *case, profiled = json.loads(line)
        case = tuple(case)
        if case[:3] not in cache:
            cache.clear()
            cache[case[:3]] = model_of(*case[:3], weights)
        model, same = cache[case[:3]]
        answer = {"same": same}
        with by_onednn(), profile() if profiled else nullcontext() as profiler:
            answer["seconds"], answer["values"] = WORK[case[3]](model, *case[:3])
        if profiled:
            times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
            answer["products"] = sum(times.get(name, 0) for name in PRODUCTS) / sum(times.values())
        print(json.dumps(answer), flush=True)


def _with_variables_of_a_run():
    """Starts this process anew with the environment variables of processes that compute in a run."""
    try:
        from latentbench.bench.engine.start_process import start_variables
    except ImportError:  # an older commit, whose variables set the threads alone
        return
    if "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | start_variables(1))


def model_of(name, width, tokens, weights):
    """The generator, and whether its weights are those in the file of the commit that came first."""
    import torch

    from latentbench.bench.api import LatentSpec
    from latentbench.bench.registry import create

    options = {"head_width": width} if name == "mar" else {}
    side = round(tokens**0.5)
    torch.manual_seed(0)
    model = create(
        "generators",
        name,
        spec=LatentSpec(tokens, CHANNELS, (side, side)),
        classes=CLASSES,
        width=width,
        heads=width // 32,
        **options,
    )
    for parameter in model.parameters():  # layers that start at zero would hide what comes before them
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=2 / width)
    file = Path(weights) / f"{name}-{width}-{tokens}.pt"
    if not file.exists():
        torch.save(model.state_dict(), file)
    stored, own = torch.load(file), model.state_dict()
    same = {key: value.shape for key, value in stored.items()} == {k: v.shape for k, v in own.items()}
    if same:
        model.load_state_dict(stored)
    return model, same


def sampling(model, name, width, tokens):
    import torch

    from latentbench.bench.api import Noise

    labels = torch.arange(BATCHES[width]) % CLASSES
    began = time.process_time()
    with torch.no_grad():
        z = model.eval().sample(labels, GUIDANCE, Noise(0), **SAMPLERS[name])
    return time.process_time() - began, z[:, -1].flatten().tolist()


def training_step(model, name, width, tokens):
    import torch

    from latentbench.bench.api import Noise

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(BATCHES[width] // 2, tokens, CHANNELS, generator=generator)
    labels = torch.arange(len(z)) % CLASSES
    model.train().zero_grad()
    began = time.process_time()
    losses = model.loss(z, labels, Noise(0))
    torch.stack([*losses.values()]).sum().backward()
    return time.process_time() - began, [value.item() for value in losses.values()]


WORK = {"sampling": sampling, "a training step": training_step}


def compare(commit, rounds, only):
    import torch

    print(f"{cpu()}, one thread; torch {torch.__version__}, Python {platform.python_version()}")
    print(f"this checkout against {commit}, {rounds} rounds; times are medians in seconds of CPU\n")
    print(f"{'generator':13} {'width':>5} {'tokens':>6}  {'':16} {'other':>8} {'this':>8}  times as fast")
    with ExitStack() as stack:
        weights = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latentbench-")))
        other = stack.enter_context(Side(stack.enter_context(worktree(commit)), weights))
        this = stack.enter_context(Side(ROOT, weights))
        for case in CASES:
            if only in (None, case[0]):
                answers = turns(case, other, this, rounds)
                print(row(case, *answers, this(case, profiled=True)["products"]), flush=True)


def turns(case, other, this, rounds):
    """The answers of both sides, which take turns at going first; a first round warms up."""
    answers = [], []
    for count in range(rounds + 1):
        sides = (0, 1) if count % 2 else (1, 0)
        for side in sides:
            answers[side].append((other, this)[side](case))
    return answers[0][1:], answers[1][1:]


def row(case, others, ours, products):
    name, width, tokens, work = case
    pairs = list(zip(others, ours, strict=True))
    ratios = [a["seconds"] / b["seconds"] for a, b in pairs]
    times = [median(answer["seconds"] for answer in side) for side in (others, ours)]
    gap = max(abs(x - y) for a, b in pairs for x, y in zip(a["values"], b["values"], strict=True))
    equal = f"values differ by {gap:.0e}" if ours[0]["same"] and others[0]["same"] else "other weights"
    return (
        f"{name:13} {width:5} {tokens:6}  {work:16} {times[0]:8.3f} {times[1]:8.3f}  "
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); {equal}; {products:.0%} in products"
    )


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("commit", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=GENERATORS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    elif options.commit is None:
        parser.error("name a commit")
    else:
        compare(options.commit, options.rounds, options.only)
