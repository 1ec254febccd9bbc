"""Keys of parts that name tokenizers: they follow the tokenizers' files, and not where these lie."""

import shutil

import pytest
from helpers.diffusers_models import edit, model, saved
from helpers.latent_folders import moments_folder
from helpers.matrices import UNTRAINED, planned

from latentbench.bench.store.stage import UNKNOWN

MATRIX = (
    UNTRAINED
    + """\
reference: REFERENCE
reconstruction: {l1: 1.0}
tokenizers:
  row: TOKENIZER
regularizers: {METHOD}
generators: {none: {}}
evaluators: [prior]
"""
)
# A regularizer of another distribution that builds a tokenizer, as one that aligns latents with it would.
PLUGIN = '''
"""A regularizer with a tokenizer."""
from typing import Annotated

from latentbench.bench.api import ImageSpec, LatentSpec, Regularizer, Tokenizer
from latentbench.bench.registry import Use, register, use


@register("aligned")
class Aligned(Regularizer):
    """Names a tokenizer."""

    def __init__(self, spec: LatentSpec, network: Annotated[Use, Tokenizer] = "conv") -> None:
        super().__init__(spec)
        self.network = [use(Tokenizer, network, image=ImageSpec(1, 8, 8), expansion=1)]

    def loss(self, z, h, step):
        return {}
'''
NAMED = "{use: diffusers, path: FOLDER}"
OUTER = {
    "reference": {"REFERENCE": f"{{use: latents, tokenizer: {NAMED}, regularizer: none}}"},
    "reference of a reference": {
        "REFERENCE": f"{{use: diffusion, of: {{use: latents, tokenizer: {NAMED}, regularizer: kl}}}}"
    },
    "reference of stored latents": {
        "REFERENCE": f"{{use: latents, tokenizer: {{use: cached, latents: LATENTS, decoder: {NAMED}}}, "
        "regularizer: none}"
    },
    "decoder": {"TOKENIZER": f"{{use: cached, latents: LATENTS, decoder: {NAMED}}}"},
    "plugin's regularizer": {"METHOD": f"one: {{use: aligned, network: {NAMED}}}"},
}
USUAL = {"REFERENCE": "{use: teacher}", "TOKENIZER": "{use: conv}", "METHOD": "none: {}"}


@pytest.fixture
def vae(tmp_path):
    saved(tmp_path / "vae", latent_channels=8)  # as stored latents have
    (tmp_path / "aligned.py").write_text(PLUGIN)
    return tmp_path / "vae"


def keys(tmp_path, outer, folder):
    """The keys of all stages but features, where a part names the folder's tokenizer."""
    text = MATRIX
    for name, part in {**USUAL, **OUTER[outer]}.items():
        text = text.replace(name, part)
    latents = shutil.copytree(moments_folder(8), folder.parent / "latents", dirs_exist_ok=True)
    text = text.replace("FOLDER", str(folder)).replace("LATENTS", str(latents))
    text += f"plugins: [{tmp_path / 'aligned.py'}]\n" if "aligned" in text else ""
    stages = planned(tmp_path, text).stages.values()
    return {stage.label: stage.key for stage in stages if stage.kind != "features"}


@pytest.mark.parametrize(
    "outer", [pytest.param(name, marks=[pytest.mark.nightly] * (" of " in name)) for name in OUTER]
)
def test_a_moved_folder_has_the_same_keys_and_a_changed_one_has_others(outer, vae, tmp_path):
    before = keys(tmp_path, outer, vae)
    moved = shutil.copytree(vae, tmp_path / "elsewhere" / "vae")
    assert keys(tmp_path, outer, moved) == before and UNKNOWN not in before.values()
    edit(moved, act_fn="relu")
    edited = keys(tmp_path, outer, moved)
    model("AutoencoderKL", seed=1, latent_channels=8).save_pretrained(moved)
    retrained = keys(tmp_path, outer, moved)
    changed = [label for label in before if len({before[label], edited[label], retrained[label]}) == 3]
    assert changed and any("scope" in label for label in changed)  # the scores are others, too
    assert edited.keys() == before.keys()
