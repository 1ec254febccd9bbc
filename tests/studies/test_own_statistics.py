"""Every method of 2025 and 2026 changes what it is about, on digits over three seeds (nightly: minutes)."""

import pytest
from helpers.own_statistics import STATISTICS, table, trained
from helpers.run import bench

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    arguments = ("--matrix", "digits-all", "--profile", "statistics", "--seeds", "3", "-o", "methods")
    done = bench("run", *arguments, cwd=folder, home=folder / ".bench", timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    found = table(trained(folder / "methods", folder / ".bench", "statistics"))
    print(found.to_markdown(floatfmt=".3g"))
    return found


# No linear measure of latents has been found that this one moves: results/README.md.
@pytest.mark.parametrize("name", sorted({*STATISTICS} - {"auxiliary_decoders"}))
def test_a_method_moves_its_own_statistic_beyond_the_spread_of_seeds(measured, name):
    row = measured.loc[name]
    assert row["n"] == 3 and row["p"] < 0.05, dict(row)
