"""What every part promises, kept on a GPU: in single precision, with TF32, and under bf16."""

import pytest
import torch
from helpers.diffusers_models import tiny_folder
from helpers.gpu import GPU, arithmetic
from helpers.latent_folders import DECODER, moments_folder
from helpers.trained_folders import exported_folder

from latentbench.bench.api import Unfit
from latentbench.bench.contracts import features, generators, regularizers, tokenizers
from latentbench.bench.contracts.common import BrokenPromise, MissingData, NotApplicable, Part
from latentbench.bench.registry import names

MODULES = {
    "regularizers": regularizers,
    "generators": generators,
    "tokenizers": tokenizers,
    "features": features,
}
NOWHERE = {"documented", "versioned", "declared", "on_meta", "sampler", "protocol", "cost"}  # or of time
RANDOM = {
    "clip": {"model": "ViT-B-32", "weights": "random"},
    "inception": {"weights": "random"},
    "timm": {"model": "test_vit", "weights": "random", "resolution": 64},
}
PRECISIONS = ("fp32", "tf32", "bf16")
ON_A_GPU = [
    pytest.param(kind, name, precision, *GPU.values, marks=GPU.marks)
    for kind in MODULES
    for name in names(kind)
    for precision in PRECISIONS
    if (kind, precision) != ("features", "bf16")  # which trains nothing
]
HERE = [
    ("regularizers", "kl", "fp32", "cpu"),
    ("generators", "gaussian", "tf32", "cpu"),
    ("tokenizers", "vit", "bf16", "cpu"),
]


FILES = {
    "cached": lambda: {"latents": moments_folder(8), "decoder": DECODER},
    "diffusers": lambda: {"path": tiny_folder()},
    "trained": lambda: {"path": exported_folder()},
}


def options(kind, name):
    """Options of a part that needs files or weights to be built."""
    if kind == "tokenizers" and name in FILES:
        return FILES[name]()
    return RANDOM.get(name, {}) if kind == "features" else {}


def scenes(module, part, device):
    """A scene for each setting that the part fits."""
    for setting in module.SETTINGS:
        try:
            yield module.Scene(part, setting, device=device)
        except MissingData as reason:
            pytest.skip(str(reason))
        except ValueError:  # Unfit too
            continue


def broken(scene, checks):
    """A sentence for each promise that isn't kept; errors other than of the contract are raised."""
    for check in checks:
        try:
            check(scene)
        except (MissingData, NotApplicable, Unfit):
            continue
        except BrokenPromise as reason:
            yield f"{check.__doc__}: {reason}"


@pytest.fixture(autouse=True)
def deterministic_kernels():
    """torch's kernels that sum in a fixed order: a promise is about a part, not about a kernel."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
@pytest.mark.parametrize(("kind", "name", "precision", "device"), [*HERE, *ON_A_GPU])
def test_a_part_keeps_its_promises_on(kind, name, precision, device):
    module, part = MODULES[kind], Part(kind, name, options(kind, name))
    checks = [check for check in module.CHECKS if check.__name__ not in NOWHERE]
    if precision == "bf16":
        checks = [check for check in checks if check.__name__ == "half"]
    fitting, found = 0, []
    with arithmetic(precision):
        for scene in scenes(module, part, device):
            fitting += 1
            found += broken(scene, checks)
            if device == "cpu":
                break  # all settings are those of tests/contracts
    assert fitting, "the part fits no setting of its contract"
    assert not found, "\n".join(found)
