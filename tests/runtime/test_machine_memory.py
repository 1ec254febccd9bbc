"""Main memory under control groups of both versions, in folders that look like /proc and /sys."""

import os

import pytest

from latentbench.bench.runtime.machine_memory import main_memory

INSTALLED = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def machine(root, groups, limits):
    """A root folder with /proc/self/cgroup and files of limits below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": 3000}, 3000),
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": 2000}, 2000),
        ("0::/job/step\n", {"job/step/memory.max": 1000, "job/memory.max": 2000}, 1000),
        # In a container, whose own group is at the top and whose path there isn't seen.
        ("0::/docker/abc\n", {"memory.max": 4000}, 4000),
        ("4:memory:/job\n3:cpu:/x\n0::/\n", {"memory/job/memory.limit_in_bytes": 5000}, 5000),
        ("4:cpu,memory:/job\n", {"memory/memory.limit_in_bytes": 6000}, 6000),
        ("4:cpu:/job\n", {"memory/memory.limit_in_bytes": 6000}, INSTALLED),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": 9223372036854771712}, INSTALLED),
        ("0::/\n", {"memory.max": "max"}, INSTALLED),
        ("0::/\n", {}, INSTALLED),
    ],
)
def test_the_least_of_the_machines_memory_and_the_groups_limits_counts(tmp_path, groups, limits, expected):
    assert main_memory(machine(tmp_path, groups, limits)) == expected


def test_without_control_groups_the_machines_memory_counts(tmp_path):
    assert main_memory(tmp_path) == INSTALLED
