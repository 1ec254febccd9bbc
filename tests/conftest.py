"""One thread per process, and no part of one test in another."""

import os
import sys

# Two OpenMP threads collapse when a core is busy, and change the last bits.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest  # noqa: E402

from latentbench.bench import registry  # noqa: E402


def pytest_collection_modifyitems(config, items):
    """Leaves out what only a measurement needs, such as a benchmark's large sizes."""
    if not config.getoption("benchmark_enable"):
        left_out = [item for item in items if "measured" in item.keywords]
        items[:] = [item for item in items if "measured" not in item.keywords]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter):
    """Shows the tables that tests made, such as throughputs on a GPU; worker processes can't."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "table" and report.when == "call":
                terminalreporter.section(report.nodeid.rpartition("::")[2])
                terminalreporter.write_line(text)


@pytest.fixture(autouse=True)
def parts_end_with_their_test(monkeypatch):
    """Removes the parts that a test registers and its plugins; built-in parts that it imported stay."""
    before = set(registry._classes)
    monkeypatch.setattr(registry, "_plugins", dict(registry._plugins))
    yield
    for part in set(registry._classes) - before:
        module = registry._classes[part].__module__
        if not module.startswith("latentbench."):
            del registry._classes[part]
        if module.startswith("latentbench_plugin_"):
            sys.modules.pop(module, None)
