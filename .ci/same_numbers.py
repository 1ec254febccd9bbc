"""Compares two checkouts: stage keys of every matrix's plan and, with --smoke, the records of a smoke run.

    git worktree add /tmp/before 0a6092f
    python .ci/same_numbers.py /tmp/before . --smoke

Both run in this Python's environment; nothing needs to be installed anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGES = ("bench", "regularizers", "tokenizers", "generators", "evaluators")
PLANS = """
import json, sys
from pathlib import Path
try:
    from latentbench.bench.matrix.load import load_matrix
    from latentbench.bench.plan.make import make_plan
except ModuleNotFoundError:  # as the modules were called up to commit 0a6092f
    from latentbench.bench.matrix import load as load_matrix
    from latentbench.bench.plan import make as make_plan

root = Path(sys.argv[1])
presets = [*root.glob("bench/presets/*.yaml"), *root.glob("bench/matrices/*.yaml")]
found = {}
for file in [root / "matrix.yaml", *sorted(presets)]:
    for profile in (None, "smoke"):
        plan = make_plan(load_matrix(file, profile=profile))
        stages = {f"{s.kind} {s.label}": s.id for s in plan.stages.values()}
        cells = {cell.name: cell.key for cell in plan.cells}
        found[f"{file.name} {profile or ''}".strip()] = {"stages": sorted(plan.stages), **stages, **cells}
print(json.dumps(found))
"""
RECORDS = """
import json, sys
try:
    from latentbench.bench.records.files import read_records
    from latentbench.bench.records.record import comparable
except ModuleNotFoundError:
    from latentbench.bench.records import comparable, read as read_records

print(json.dumps({record.filename: comparable(record) for record in read_records(sys.argv[1])}))
"""  # by each checkout's own reader: the form of the files has changed


@contextmanager
def environment(checkout: Path) -> Iterator[dict[str, str]]:
    """Variables under which Python imports `latentbench` from a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "latentbench").mkdir()
        for package in PACKAGES:
            (Path(folder) / "latentbench" / package).symlink_to(checkout / package)
        yield os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}


def plans(checkout: Path) -> dict[str, dict[str, Any]]:
    """Keys of stages and cells by their labels, for each matrix without and with its smoke profile."""
    with environment(checkout) as env:
        command = [sys.executable, "-c", PLANS, str(checkout)]
        return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)


def smoke(checkout: Path) -> dict[str, dict[str, Any]]:
    """The records of the root matrix's smoke profile from an empty cache, without cost and provenance."""
    with environment(checkout) as env, tempfile.TemporaryDirectory() as folder:
        matrix = str(checkout / "matrix.yaml")
        command = [sys.executable, "-m", "latentbench.bench.cli", "run", "--matrix", matrix]
        command += ["--profile", "smoke", "-o", f"{folder}/results"]
        subprocess.run(command, env=env | {"LATENTBENCH_HOME": f"{folder}/home"}, check=True)
        command = [sys.executable, "-c", RECORDS, f"{folder}/results/records"]
        return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout)


def compare(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """The names of everything that differs, with both values."""
    found = [f"{name}: only in one checkout" for name in before.keys() ^ after.keys()]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                found.append(f"{name}: {key}: {str(old.get(key))[:100]} -> {str(new.get(key))[:100]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--smoke", action="store_true", help="Run the smoke profile in both, too.")
    chosen = parser.parse_args()
    different = []
    for what, collect in {"plans": plans, **({"records": smoke} if chosen.smoke else {})}.items():
        old, new = (collect(checkout.resolve()) for checkout in (chosen.before, chosen.after))
        different += compare(old, new)
        sizes = ", ".join(f"{name}: {len(entry.get('stages', entry))}" for name, entry in old.items())
        print(f"{what}: {sizes}", flush=True)
    print("\n".join(different) or "equal", flush=True)
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
