"""What every part promises, tested over `names(kind)`: a new part is tested the moment its file exists.

The promises themselves are in `bench/contracts/`, where `bench check` has them too.
"""

from functools import cache

import pytest
from helpers.diffusers_models import tiny_folder
from helpers.latent_folders import DECODER, latent_set, moments_folder
from helpers.trained_folders import exported_folder

from latentbench.bench.api import Unfit
from latentbench.bench.contracts import (
    datasets,
    evaluators,
    features,
    generators,
    references,
    regularizers,
    tokenizers,
)
from latentbench.bench.contracts.common import MissingData, NotApplicable, Part
from latentbench.bench.registry import get, names

RANDOM = {  # networks whose weights are seldom here, with random ones
    "clip": {"model": "ViT-B-32", "weights": "random"},
    "inception": {"weights": "random"},
    "timm": {"model": "test_vit", "weights": "random", "resolution": 64},
}
# Sets of options by which other code is run than by their defaults.
OPTIONS = [
    ("lightningdit", {"repa": 0.5, "repa_width": 16}),
    ("sit", {"repa": 1.0, "repa_projector": "conv"}),
    ("lightningdit", {"prediction": "x", "time_shift": 2.0}),
]
TOKENIZER_OPTIONS = [
    ("vit", {"style": "detok"}),
    ("vit", {"style": "detok", "latents": 5, "mask": (0.4, 0.6)}),
]


def with_files(kind, name):
    """A part with its defaults; one that has nothing without a folder gets a tiny one."""
    options = {}
    if (kind, name) == ("tokenizers", "diffusers"):
        options = {"path": tiny_folder()}
    elif (kind, name) == ("tokenizers", "cached"):
        options = {"latents": moments_folder(8), "decoder": DECODER}
    elif (kind, name) == ("tokenizers", "trained"):
        options = {"path": exported_folder()}
    elif (kind, name) == ("datasets", "latents"):
        options = latent_set()
    return Part(kind, name, options)


def every(kind):
    return pytest.mark.parametrize("name", names(kind))


def each(checks):
    """Every check but for those of cost, whose answer is a time."""
    chosen = [check for check in checks if check.__name__ != "cost"]
    return pytest.mark.parametrize("check", chosen, ids=lambda check: check.__name__)


def kept(check, scene):
    """Plays a check; skips the test where the part is not concerned."""
    try:
        check(scene())
    except (MissingData, NotApplicable, Unfit) as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("module", [tokenizers, generators, regularizers], ids=lambda m: m.__name__)
def test_every_part_fits_at_least_one_of_the_specs_tested_here(module):
    kind = module.__name__.rpartition(".")[2]
    for name in names(kind):
        assert any(_fits(module, with_files(kind, name), setting) for setting in module.SETTINGS), (
            f"{name} fits none of the tested specs with its defaults: no other test would see it"
        )


def _fits(module, part, setting):
    try:
        module.Scene(part, setting)
    except (Unfit, ValueError):
        return False
    return True


def scene(module, kind, name, setting):
    """A scene of a part with its defaults, where they fit."""
    try:
        return module.Scene(with_files(kind, name), setting)
    except ValueError as reason:  # Unfit too
        pytest.skip(str(reason))


@every("tokenizers")
@pytest.mark.parametrize("setting", tokenizers.SETTINGS, ids=str)
@each(tokenizers.CHECKS)
def test_tokenizers(name, setting, check):
    kept(check, lambda: scene(tokenizers, "tokenizers", name, setting))


@pytest.mark.parametrize(("name", "options"), TOKENIZER_OPTIONS)
@each(tokenizers.CHECKS)
def test_tokenizers_with_further_options(name, options, check):
    kept(check, lambda: tokenizers.Scene(Part("tokenizers", name, options), tokenizers.SETTINGS[1]))


@every("regularizers")
@pytest.mark.parametrize("setting", regularizers.SETTINGS, ids=str)
@each(regularizers.CHECKS)
def test_regularizers(name, setting, check):
    kept(check, lambda: scene(regularizers, "regularizers", name, setting))


@every("generators")
@pytest.mark.parametrize("setting", generators.SETTINGS, ids=str)
@each(generators.CHECKS)
def test_generators(name, setting, check):
    if check is generators.learns and setting != generators.SETTINGS[0]:
        pytest.skip("once is enough")
    kept(check, lambda: scene(generators, "generators", name, setting))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@each(generators.CHECKS)
def test_generators_with_further_options(name, options, check):
    kept(check, lambda: generators.Scene(Part("generators", name, options), generators.SETTINGS[0]))


@every("evaluators")
@each(evaluators.STATIC)
def test_evaluators(name, check):
    kept(check, lambda: evaluators.Scene(Part("evaluators", name)))


def test_no_two_evaluators_report_under_one_name():
    owners = [(base, name) for name in names("evaluators") for base in get("evaluators", name).metrics]
    assert len({base for base, _ in owners}) == len(owners), sorted(owners)


@every("datasets")
@each(datasets.CHECKS)
def test_datasets(name, check):
    kept(check, lambda: scene(datasets, "datasets", name, None))


@cache
def extractor(name, image):
    return features.Scene(Part("features", name, RANDOM.get(name, {})), image)


@every("features")
@each(features.CHECKS)
def test_features(name, check):
    kept(check, lambda: extractor(name, features.SETTINGS[0]))


@every("features")
@pytest.mark.parametrize("image", features.SETTINGS[1:], ids=str)
def test_features_of_other_images(name, image):
    kept(features.outputs, lambda: extractor(name, image))


@every("references")
@each(references.CHECKS)
def test_references(name, check):
    kept(check, lambda: scene(references, "references", name, references.SETTINGS[0]))
