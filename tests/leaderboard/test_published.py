"""Published numbers: all there, as printed, and never passed off as comparable."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.fabricated_records import records

from latentbench.bench import registry
from latentbench.bench.leaderboard.published import figures, table
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import find, packaged
from latentbench.bench.metrics.names import INCEPTION

SMALL = {"digits", "lab2d", "strength", "fashion-mnist", "study"}
PAPERS = sorted(name for name in packaged() if name not in SMALL and not name.startswith("digits-"))


def value(paper, number, setting, metric, guided=False, data="ImageNet-256"):
    (one,) = (
        f
        for f in figures()
        if f.paper.startswith(paper) and (f.table, f.setting, f.metric) == (number, setting, metric)
        if f.guided == guided and f.data.startswith(data)
    )
    return one


@pytest.mark.parametrize(
    ("expected", "where"),
    [
        (4.87, ("Aligning", "1", "DINO prior", "gFID", True)),
        (102.23, ("Aligning", "1", "Qwen prior", "IS")),
        (13.67, ("Aligning", "2b", "weight 0.01", "gFID")),
        (37.9, ("Distribution", "1", "a part of DINO", "gFID")),
        (1.64, ("Distribution", "3", "DMVAE 800 epochs", "gFID")),
        (0.3376, ("Latent Zoning", "1", "RF + LZN", "CMMD", False, "AFHQ-Cat")),
        (94.47, ("Latent Zoning", "3", "RF + LZN", "zone_accuracy", False, "CIFAR-10")),
        (2.15, ("SimFlow", "1", "SimFlow 160 epochs", "gFID", True)),
        (9.72, ("SimFlow", "5", "B", "gFID", True)),
        (84.44, ("SimFlow", "10", "frozen, learnable variance", "gFID")),
        (1.35, ("READMEs", "LightningDiT", "VA-VAE 800 epochs", "gFID", True)),
        (4.25, ("VAE Arena", "README, SiT-XL", "RAE", "gFID")),
        (8.14, ("VAE Arena", "README, SiT-XL", "DMVAE", "iFID")),
        (20.27, ("VAE Arena", "README, SiT-B", "l-DeTok", "gFID")),
        (26.15, ("Tokenizers", "READMEs, reconstruction", "EQ-VAE, trained on ImageNet", "PSNR")),
    ],
)
def test_numbers_are_the_printed_ones(expected, where):
    assert value(*where).value == expected


def test_every_figure_of_the_methods_reference_is_in_the_table():
    assert len(figures()) > 300
    assert len({f[:9] for f in figures()}) == len(figures()), "a number stands twice"


def test_regularizers_are_parts_of_the_suite():
    assert {f.regularizer for f in figures()} - {""} <= set(registry.names("regularizers"))


def test_five_thousand_samples_are_not_fifty_thousand():
    assert value("Distribution", "1", "DINO", "gFID").n == 5000
    assert value("Distribution", "3", "DMVAE 64 epochs", "gFID").n == 50_000
    assert value("Distribution", "1", "DINO", "PSNR").n == 50_000  # held-out images


def test_numbers_of_digits_are_never_comparable_and_say_why():
    found = table(records())
    assert not found.comparable.any() and found.why.str.len().gt(0).all()
    beside = found[(found.regularizer == "kl") & (found.metric == "rFID")]
    assert beside.ours.str.contains(r"rFD\[net\] \(kl\[").any()
    assert beside.why.iloc[0] == "digits is not ImageNet-256"


def test_a_number_compares_with_the_same_data_metric_and_n_alone():
    def verdict(metric, name, generators=("mar",), **changes):
        """Ours of MAR on kl without guidance, as if it had been measured on ImageNet."""
        some = records(regularizers=("kl",), generators=generators, guidances=(1.0,), dataset="imagenet256")
        some = [r for r in some if not r.real]
        for one in some:
            entry = one.metrics["PSNR" if name == "PSNR" else "gFD[net]@1"]
            one.metrics[name] = {**entry, "n": 50_000, **changes}
        found = table(some)
        rows = found[(found.metric == metric) & (found.setting == "KL") & ~found.guided].to_dict("records")
        return rows[0]["comparable"], rows[0]["why"]

    inception = {"weights_sha256": INCEPTION}
    train = {"reference": "train", "features": inception}
    assert verdict("gFID", "gFID@1", protocol=train)[0]
    assert verdict("gFID", "gFID@1", protocol=train, n=1437) == (False, "n = 1,437, there 50,000")
    assert verdict("recall", "recall[inception]@1", protocol=train)[0]
    assert verdict("recall", "recall[net]@1")[1] == "recall[net] is not recall: other features"
    assert verdict("IS", "IS[net]@1")[1] == "IS[net] is not IS: other features"
    assert verdict("PSNR", "PSNR", n=64) == (False, "n = 64, there 50,000")
    assert verdict("gFID", "gFID@1", protocol={**train, "reference": "test"})[1].startswith("reference test")
    assert verdict("gFID", "gFID@1", generators=("ar",), protocol=train) == (False, "not measured here")


def test_numbers_of_a_table_apart_compare_with_none_of_ours():
    some = records(regularizers=("kl",), generators=("sit",), guidances=(1.0,), dataset="imagenet256")
    for one in (one for one in some if not one.real):
        protocol = {"reference": "train", "features": {"weights_sha256": INCEPTION}}
        one.metrics["gFID@1"] = {**one.metrics["gFD[net]@1"], "n": 50_000, "protocol": protocol}
    found = table(some)
    arena = found[found.paper.str.startswith("VAE Arena") & (found.regularizer == "kl")]
    beside = arena[arena.ours != ""]
    assert len(beside) and not beside.comparable.any()
    assert beside.why.str.contains("private codebase").all()
    assert not found[found.apart != ""].comparable.any()


def test_a_row_without_a_value_gives_way_to_one_that_has_it():
    names = ("kl[weight=0.001]", "kl[weight=0.01]")
    some = records(regularizers=names, generators=("mar",), guidances=(1.0,), dataset="imagenet256")
    for one in some:
        if not one.real:
            score = 5.0 if one.cell["regularizer"] == names[1] else None
            one.metrics["IS[net]@1"] = {**one.metrics["gFD[net]@1"], "better": "higher", "value": score}
    found = table(some)
    mine = found[(found.metric == "IS") & (found.setting == "KL") & ~found.guided]
    assert mine.ours.iloc[0].startswith("5 ± 0 IS[net] (kl[weight=0.01], mar")


@pytest.mark.parametrize("name", PAPERS)
def test_a_preset_s_data_are_called_as_published_ones(name):
    known = {f.data.lower().replace("-", "") for f in figures()}
    for profile in {None, *yaml.safe_load(find(name).read_text())["profiles"]} - {"smoke"}:
        for row in load_matrix(name, profile=profile).datasets:
            assert row.label.replace("_", "") in known, profile


def test_a_row_is_known_by_its_part_whatever_its_label():
    some = records(regularizers=("prior",), generators=("mar",), guidances=(1.0,), dataset="imagenet256")
    for one in some:
        one.provenance["uses"] = {"regularizer": "flow_prior"}
    found = table(some)
    beside = found[found.ours.str.contains("prior", regex=False)]
    assert set(beside.regularizer) == {"flow_prior"} and {"PSNR", "gFID"} <= set(beside.metric)


def test_generators_are_parts_of_the_suite():
    names = {f.generator.split(" ")[0] for f in figures() if f.regularizer}
    assert names <= {*registry.names("generators"), "joint", "none"}


def test_the_command_lists_them():
    command = [sys.executable, "-m", "latentbench.bench.cli", "list", "published"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"DINO prior.*4\.87", shown.stdout)
    rows = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True).stdout)
    assert rows["published"][0]["metric"] == "rFID"
