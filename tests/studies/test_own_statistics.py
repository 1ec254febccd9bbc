"""Every method of 2025 and 2026 changes what it is about, on digits over three seeds (nightly: minutes)."""

import pytest
from helpers.own_statistics import STATISTICS, table, trained
from helpers.run import bench

pytestmark = pytest.mark.nightly

ROWS = "|".join(["none", *STATISTICS])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    only = f"regularizer={ROWS},generator=gaussian"
    arguments = ("--matrix", "digits-all", "--seeds", "3", "-k", only, "-o", "methods")
    done = bench("run", *arguments, cwd=folder, home=folder / ".bench", timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found = table(trained(folder / "methods", "digits-all", folder / ".bench"))
    print(found.to_markdown(floatfmt=".3g"))
    return found


@pytest.mark.parametrize("name", STATISTICS)
def test_a_method_moves_its_own_statistic_beyond_the_spread_of_seeds(measured, name):
    row = measured.loc[name]
    assert row["n"] == 3 and row["p"] < 0.05, dict(row)
