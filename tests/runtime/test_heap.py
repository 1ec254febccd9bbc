import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from latentbench.bench.runtime.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        layers = [torch.ones(2**21) for _ in range(4)]  # of 8 MB
        del layers
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(5)
print(faults(20))
"""


# glibc's first threshold, held there: otherwise glibc moves the threshold by how the heap happens to lie.
MAP_EVERY_LAYER = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}


def page_faults(way):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True, env=MAP_EVERY_LAYER
    )
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
def test_pages_of_freed_tensors_are_not_asked_for_again():
    pages = 4 * 8 * 2**20 // 4096
    assert page_faults("keep") < pages
    assert page_faults("give back") > 10 * pages
