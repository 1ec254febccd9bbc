"""What each regularizer is about, measured on trained tokenizers: a table of its statistic against `none`'s.

    bench run --matrix digits-all --profile statistics --seeds 3
    python tests/helpers/own_statistics.py results/digits-all-statistics .bench statistics

The arguments are the results folder of a run of `digits-all` with three seeds, the folder of its artifacts,
and its profile, if it had one.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_ind
from sklearn.linear_model import Ridge

from latentbench.bench.api import Noise, to_uint8
from latentbench.bench.data.images import psnr
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.metrics.epps_pulley import sigreg
from latentbench.bench.metrics.local_correlation import local_correlation
from latentbench.bench.models.latents import decode_all_uint8
from latentbench.bench.plan.make import make_plan
from latentbench.bench.records.files import read_records
from latentbench.bench.stages.reference_samples import in_space_of, reference_samples, split_of
from latentbench.bench.stages.trained_cell import TrainedCell
from latentbench.bench.store.artifacts import Store
from latentbench.regularizers.eq import transformed
from latentbench.regularizers.masked import masked, masked_places
from latentbench.regularizers.swae import sliced_wasserstein
from latentbench.regularizers.vicreg import variance_covariance

KINDS = ("tokenizer", "latents", "features", "reference")


class Trained:
    """A row's trained tokenizer of one seed, with its metrics."""

    def __init__(self, cell, metrics):
        self.cell, self.metrics = cell, metrics
        self.z = cell.latents("val", Noise(0, ("statistics",)))

    @property
    def tokens(self):
        return self.z.flatten(0, 1).double()


def unit_directions(channels, count=512):
    drawn = torch.randn(count, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


def sigreg_value(row):
    """SIGReg of all held-out tokens, over their number."""
    return sigreg(row.tokens, unit_directions(row.z.shape[2]).T).item() / len(row.tokens)


def distance_to_reference(row):
    """The squared sliced Wasserstein distance of held-out tokens to the reference's held-out tokens."""
    inputs = row.cell.inputs["reference"]
    reference = split_of(in_space_of(row.cell.regularizer, reference_samples(inputs)), "val")
    count = min(len(row.tokens), reference.samples.flatten(0, 1).shape[0])
    y = reference.samples.flatten(0, 1).double()[:count]
    return sliced_wasserstein(row.tokens[:count], y, unit_directions(row.z.shape[2])).item()


def covariance(row):
    return variance_covariance(row.tokens)[1].item()


def correlation(row):
    return local_correlation(row.z.double(), row.cell.tokenizer.spec.grid).item()


def spread_of_norms(row):
    """Deviation of the tokens' norms over their mean."""
    norms = row.tokens.norm(dim=1)
    return (norms.std() / norms.mean()).item()


def least_spread(row):
    """The posterior's smallest standard deviation of a channel, over that of the latents; 0 without one."""
    mean = row.cell.latents("val", None)
    return ((row.z - mean).flatten(0, 1).std(0) / row.z.flatten(0, 1).std(0)).min().item()


def psnr_of_masked(row):
    """PSNR of images decoded with half of the tokens replaced: by the learned token, or by the mean token."""
    token = getattr(row.cell.regularizer, "token", None)
    token = row.tokens.mean(0).float() if token is None else token.detach()
    z = masked(row.z, token, masked_places(row.z.shape[1], 0.5, Noise(0)))
    images = row.cell.dataset.images("val", torch.arange(len(z)))
    return psnr(decode_all_uint8(row.cell.tokenizer, z, "cpu"), to_uint8(images)).mean().item()


def psnr_transformed(row):
    """PSNR of decoded latents to the images, both at half their size and after quarter turns, as in `eq`."""
    tokenizer, images = row.cell.tokenizer, row.cell.dataset.images("val", torch.arange(len(row.z)))
    found = []
    for turns in (1, 2, 3):
        z, grid, target = transformed(row.z, images, tokenizer.spec.grid, 0.5, turns)
        with torch.no_grad():
            decoded = tokenizer.decode(z, grid=grid).clamp(-1, 1)
        found.append(psnr(to_uint8(decoded), to_uint8(target)))
    return torch.cat(found).mean().item()


def teacher_found(row):
    """R^2 of a ridge regression from latents to the teacher's tokens, on held-out images."""
    features = row.cell.inputs["features"].tensors
    z = {split: row.cell.latents(split, None).flatten(1).numpy() for split in ("train", "val")}
    tokens = {split: features[f"tokens/{split}"].flatten(1).numpy() for split in z}
    return Ridge(1.0).fit(z["train"], tokens["train"]).score(z["val"], tokens["val"])


def metric(name):
    return lambda row: row.metrics[name]


STATISTICS = {  # row: what it is to change, how that is computed, and whether up (1) or down (-1)
    "eq": ("PSNR of half-size, turned latents (dB)", psnr_transformed, 1),
    "scale_eq": ("PSNR of half-size latents (dB)", metric("PSNR_half"), 1),
    "denoising": ("noise that costs 3 dB", metric("noise_tolerance"), 1),
    "masked": ("PSNR with half of the tokens replaced (dB)", psnr_of_masked, 1),
    "nested": ("PSNR of the first eighth of channels (dB)", metric("PSNR_prefix_12.5"), 1),
    "lcr": ("local correlation", correlation, 1),
    "auxiliary_decoders": ("R² of the teacher's tokens", teacher_found, 1),
    "variance_expansion": ("least posterior deviation, relative", least_spread, 1),
    "sphere": ("spread of tokens' norms", spread_of_norms, -1),
    "rms": ("spread of tokens' norms", spread_of_norms, -1),
    "vicreg": ("squared covariances", covariance, -1),
    "sigreg": ("SIGReg per token", sigreg_value, -1),
    "swae": ("squared sliced W2 to the reference", distance_to_reference, -1),
}


def trained(results, artifacts, profile=None):
    """(row, seed) -> a trained row of a run of `digits-all` with three seeds."""
    records = {}
    for record in read_records(Path(results) / "records"):
        values = {name: entry["value"] for name, entry in record.metrics.items()}
        key = record.cell["regularizer"], record.cell["seed"].split(".")[0]
        records.setdefault(key, {}).update(values)
    matrix = load_matrix("digits-all", seeds=3, profile=profile)
    made, store, found = make_plan(matrix), Store(Path(artifacts)), {}
    for cell in made.cells:
        key = cell.regularizer, cell.seed.split(".")[0]
        if key in records and key not in found and cell.tokenizer != "real":
            # Of features those with tokens, whose label names no other outputs.
            stages = [s for s in made.needed([cell]) if s.kind in KINDS and "(" not in s.label]
            inputs = {s.kind: store.get(s) for s in stages}
            found[key] = Trained(TrainedCell(inputs, "cpu"), records[key])
    return found


def table(rows):
    """A row for each method: its statistic over seeds, that of `none`, and Welch's p of their difference."""
    lines = []
    for name, (what, statistic, direction) in STATISTICS.items():
        of = {
            one: np.array([statistic(row) for (label, _), row in sorted(rows.items()) if label == one])
            for one in (name, "none")
        }
        mine, plain = of[name], of["none"]
        side = "greater" if direction > 0 else "less"
        p = ttest_ind(mine, plain, equal_var=False, alternative=side).pvalue
        lines.append(
            {
                "regularizer": name,
                "statistic": what,
                "with it": mine.mean(),
                "± (seeds)": mine.std(ddof=1),
                "none": plain.mean(),
                "± none": plain.std(ddof=1),
                "n": len(mine),
                "p": p,
            }
        )
    return pd.DataFrame(lines).set_index("regularizer")


if __name__ == "__main__":
    print(table(trained(*sys.argv[1:])).to_markdown(floatfmt=".3g"))
