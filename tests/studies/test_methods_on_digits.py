"""Every method at its defaults, and ten times stronger, on digits over three seeds (nightly: minutes)."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.run import bench
from scipy.stats import ttest_rel
from sklearn.linear_model import Ridge

from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.plan.make import make_plan
from latentbench.bench.stages.trained_cell import TrainedCell
from latentbench.bench.store.artifacts import Store

pytestmark = pytest.mark.nightly

SEEDS = 3
# Weights at their defaults, and times ten; lzn has none but its alignment's.
MATRIX = """\
name: methods
dataset: {use: digits}
seeds: 3
budget: {tokenizer_steps: 400, prior_steps: 700, generator_steps: 1, batch: 64}
features: effnet_lite0
tokenizers: {vit: {width: 64, depth: 3, patch: 2, channels: 8}}
regularizers:
  none: {}
  kl: {weight: [1.0e-4, 1.0e-3]}
  flow_prior: {weight: [0.01, 0.1]}
  dmvae: {critic_steps: 3, weight: [1.0, 10.0]}
  simflow: {weight: [0.1, 1.0]}
  lzn: {align: [1.0, 10.0], steps: 10}
  repa: {weight: [0.1, 1.0]}
  vf: {weight: [0.1, 1.0]}
  softvq_align: {mode: average, weight: [0.1, 1.0]}
  repa_e: {weight: [1.5, 15.0]}
  aae: {weight: [0.1, 1.0], optimizer: {critics: {discriminator: {lr: 5.0e-3, betas: [0.0, 0.99]}}}}
  mmd: {weight: [0.1, 1.0]}
generators: {gaussian: {}}
evaluators: [reconstruction, density, coverage]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    (folder / "matrix.yaml").write_text(MATRIX)
    done = bench("run", cwd=folder, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    table = pd.read_csv(folder / "results/methods/leaderboard.csv").set_index("regularizer")
    print(table[[name for name in table if name.startswith(("PSNR", "kNN", "SWD", "KS"))]].T.to_string())
    return folder


@cache
def cells(folder):
    """(regularizer, seed) -> its tokenizer and latents, loaded."""
    made, store, found = make_plan(load_matrix(folder / "matrix.yaml")), Store(folder / ".bench"), {}
    for cell in made.cells:
        inputs = {
            s.kind: store.get(s)
            for s in made.needed([cell])
            if s.kind in ("tokenizer", "latents", "features")
        }
        if cell.tokenizer != "real":
            found[cell.regularizer, cell.seed] = TrainedCell(inputs, "cpu")
    return found


@cache
def metrics(folder):
    """(regularizer, seed) -> metric -> value."""
    found = {}
    for file in (folder / "results/methods/records").glob("*.json"):
        record = json.loads(file.read_text())
        assert record["status"] == "done", record["reason"]
        values = {name: entry["value"] for name, entry in record["metrics"].items()}
        found[record["cell"]["regularizer"], record["cell"]["seed"]] = values
    return found


def of_metric(folder, name, row):
    return np.array([metrics(folder)[row, str(seed)][name] for seed in range(SEEDS)])


def gap(folder, row):
    """How far the nearest-neighbour distances, both ways, are from fresh reference samples'."""
    both = [of_metric(folder, name, row) for name in ("kNN_NLL", "kNN_NLL_reverse")]
    return sum(abs(one - of_metric(folder, "kNN_NLL_real", row)) for one in both)


def of_latents(statistic):
    def values(folder, row):
        return np.array([statistic(cells(folder)[row, str(seed)]) for seed in range(SEEDS)])

    return values


def total_correlation(cell):
    """What the latent's values tell about each other, in nats per value, as Gaussians: low if independent."""
    z = cell.latents("train", None).flatten(1).double()
    correlation = torch.corrcoef(z.T + 1e-9 * torch.randn(z.T.shape, dtype=z.dtype))
    return float(-0.5 * torch.linalg.slogdet(correlation)[1] / z.shape[1])


def alignment(cell):
    """How well a ridge regression finds the teacher's tokens in held-out latents, as R^2."""
    z = {split: cell.latents(split, None) for split in ("train", "val")}
    of = {split: cell.inputs["features"].tensors[f"tokens/{split}"] for split in z}
    pooled = {split: tokens.mean(1).numpy() for split, tokens in of.items()}
    fitted = Ridge(1.0).fit(z["train"].flatten(1).numpy(), pooled["train"])
    return fitted.score(z["val"].flatten(1).numpy(), pooled["val"])


def to_normal(folder, row):
    return of_metric(folder, "KS", row)


def to_modes(folder, row):
    return of_metric(folder, "kNN_NLL", row)


STATISTICS = {  # what each method is to change, and whether up (1) or down (-1)
    "kl[weight=0.001]": (to_normal, -1),
    "flow_prior[weight=0.1]": (to_modes, -1),  # beyond the reference's own value: it seeks modes
    "dmvae[weight=10]": (gap, -1),
    "simflow[weight=1]": (of_latents(total_correlation), 1),
    "lzn[align=10]": (to_normal, -1),
    "repa[weight=1]": (of_latents(alignment), 1),
    "vf[weight=1]": (of_latents(alignment), 1),
    "softvq_align[weight=1]": (of_latents(alignment), 1),
    "repa_e[weight=15]": (of_latents(alignment), 1),
    "aae[weight=1]": (gap, -1),
    "mmd[weight=1]": (gap, -1),
}


def test_every_method_trains_at_its_defaults_and_ten_times_stronger(made):
    rows = {row for row, _ in metrics(made)} - {"real"}
    assert len(rows) == 23


@pytest.mark.parametrize("row", STATISTICS)
def test_ten_times_stronger_a_method_changes_its_statistic(made, row):
    statistic, direction = STATISTICS[row]
    strong, plain = statistic(made, row), statistic(made, "none")
    p = ttest_rel(strong, plain, alternative="greater" if direction > 0 else "less").pvalue
    print(f"{row}: {strong.round(3)} against {plain.round(3)}, p = {p:.4f}")
    assert p < 0.05


@pytest.mark.parametrize("method", ["flow_prior[weight=0.01]", "dmvae[weight=1]"])
@pytest.mark.parametrize("way", ["kNN_NLL", "kNN_NLL_reverse"])
def test_latents_come_nearer_to_the_reference_both_ways(made, method, way):
    real = of_metric(made, "kNN_NLL_real", method)
    mine, plain = (abs(of_metric(made, way, row) - real) for row in (method, "none"))
    print(f"{method} {way}: {mine.round(3)} against {plain.round(3)} from {real.round(3)}")
    # Over seeds: `none` has a kNN_NLL that is anything, as nothing holds its scale.
    assert mine.mean() < plain.mean()


def test_latents_tell_their_label_by_the_zone_they_are_in(made):
    for seed in range(SEEDS):
        cell = cells(made)["lzn[align=1]", str(seed)]
        z, labels = cell.latents("val", None), cell.dataset.labels("val")
        accuracy = (cell.regularizer.classify(z) == labels).float().mean().item()
        print(f"accuracy of lzn's labels on held-out digits, seed {seed}: {accuracy:.3f}")
        assert accuracy > 0.2  # chance is 0.1
