"""Reconstruction losses with networks through a matrix: their options, the stages' keys, and a whole run."""

import json

import pytest
import torch
from helpers.run import bench_inline
from torch.utils.flop_counter import FlopCounterMode

from latentbench.bench.api import ImageSpec, Noise
from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.nn.discriminators import Patch
from latentbench.bench.plan import estimate
from latentbench.bench.plan.make import make_plan
from latentbench.bench.training.adversary import Adversarial, Adversary

PLUGIN = '''
import torch

from latentbench.bench.api import Dataset, ImageSpec
from latentbench.bench.registry import register


@register("blots")
class Blots(Dataset):
    """Colour pictures of 32 pixels."""

    image, classes = ImageSpec(3, 32, 32), 0

    def fingerprint(self):
        return "0" * 64

    def size(self, split):
        return 24 if split == "train" else 8

    def images(self, split, index):
        noise = torch.Generator().manual_seed(0 if split == "train" else 1)
        coarse = torch.rand(self.size(split), 3, 4, 4, generator=noise)[index] * 2 - 1
        return torch.nn.functional.interpolate(coarse, 32, mode="nearest")

    def labels(self, split):
        return None
'''
MATRIX = """\
name: tiny
plugins: [plugin.py]
dataset: {use: blots}
features: {use: timm, model: test_vit, weights: random, resolution: 32}
budget: {tokenizer_steps: 4, generator_steps: 2, refine_steps: 2, batch: 8}
reconstruction: LOSSES
samples: 8
tokenizers:
  conv: {width: 8, channels: 4}
regularizers: {none: {}}
generators: {gaussian: {}}
evaluators: [reconstruction, cost]
"""
ALL = """
  l1: 1.0
  l2: 0.5
  lpips: {weight: 0.5, weights: random, network: alex, ramp: 3}
  gan: {discriminator: DISCRIMINATOR, start: 2, discriminator_start: 1, lecam: 0.001, augment: 0.5,
        consistency: 1.0, optimizer: {lr: 1.0e-4, betas: [0.5, 0.9], warmup: 0}}
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "plugin.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture
def load(tmp_path, plugin):
    def do(losses):
        text = MATRIX.replace("LOSSES", losses).replace("plugin.py", str(plugin))
        (tmp_path / "matrix.yaml").write_text(text)
        return load_matrix(tmp_path / "matrix.yaml")

    return do


def keys(loaded):
    return {s.label: s.key for s in make_plan(loaded).stages.values() if s.kind == "tokenizer"}


def test_a_run_with_all_losses_is_finite_and_reports_psnr(load, tmp_path):
    load(ALL.replace("DISCRIMINATOR", "dino, dino: random, model: test_vit, resolution: 32"))
    done = bench_inline("run", "-m", "matrix.yaml", "--offline", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr + done.stdout
    records = [*(tmp_path / "results" / "tiny" / "records").glob("*.json")]
    found = [json.loads(file.read_text()) for file in records]
    psnr = [record["metrics"]["PSNR"]["value"] for record in found if "PSNR" in record["metrics"]]
    assert psnr and all(0 < value < 60 for value in psnr)
    (cost,) = {json.dumps(record["cost"]) for record in found if "loss_gflop_per_image" in record["cost"]}
    assert json.loads(cost)["loss_gflop_per_image"] > 0
    assert 0 < json.loads(cost)["discriminator_parameters_million"] < 1


def test_a_number_is_the_weight_and_stands_for_all_defaults(load):
    short, long = (
        load("{l1: 1, lpips: 0.5, gan: 0.25}"),
        load("{l1: 1.0, lpips: {weight: 0.5}, gan: {weight: 0.25}}"),
    )
    assert short.reconstruction == long.reconstruction
    assert short.reconstruction["l1"] == 1.0
    assert short.reconstruction["lpips"] == {"weight": 0.5, "network": "vgg", "weights": None, "ramp": 0}
    gan = short.reconstruction["gan"]
    assert gan["discriminator"] == "patch" and gan["adaptive"] is True and gan["optimizer"] == {}


def test_a_resolved_matrix_reads_back_as_the_same(load, tmp_path):
    loaded = load(ALL.replace("DISCRIMINATOR", "patch, width: 8"))
    written = resolved(loaded)
    (tmp_path / "again.yaml").write_text(json.dumps(written))
    assert load_matrix(tmp_path / "again.yaml").reconstruction == loaded.reconstruction


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ("{l1: 1, lpisp: 1}", "unknown reconstruction loss 'lpisp'; did you mean 'lpips'"),
        ("{l1: 1, lpips: {net: vgg}}", "unknown option 'net'"),
        ("{l1: 1, lpips: {network: squeeze}}", "network must be 'alex' or 'vgg', not 'squeeze'"),
        ("{l1: 1, lpips: {weight: 0}}", "weight must be a number > 0, not 0"),
        ("{l1: 1, gan: {augment: 1.5}}", "augment must be a number >= 0 and <= 1, not 1.5"),
        ("{l1: 1, gan: {start: -1}}", "start must be an integer >= 0, not -1"),
        ("{l1: 1, gan: {optimizer: {lr: 0}}}", "lr must be a number > 0"),
        ("{l1: 1, gan: {optimizer: {rate: 1}}}", "unknown option 'rate'"),
        ("{l1: 1, gan: {optimiser: {lr: 1}}}", "unknown option 'optimiser'; did you mean 'optimizer'"),
        ("{l1: 1, gan: -1}", "the weight of gan must be a number > 0, not -1"),
        ("{l1: 1, gan: {discriminator: dino}}", "needs its weights: `dino: PATH` or `dino: random`"),
        ("{gan: 0.5}", "gan needs a loss beside it"),
    ],
)
def test_what_is_wrong_is_said_at_its_line(losses, message, load):
    with pytest.raises(MatrixError) as error:
        load(losses)
    assert message.lower() in str(error.value).lower()
    assert "matrix.yaml:6:" in str(error.value)


def test_a_discriminator_that_comes_too_late_is_a_warning(load):
    late = load("{l1: 1, gan: {start: 5000}}")
    assert "gan starts at update 5,000, and a tokenizer has 6" in str(late.warnings[0])
    assert not load("{l1: 1, gan: {start: 3}}").warnings


def test_images_that_are_too_small_for_a_discriminator_are_a_problem_of_the_matrix(load):
    with pytest.raises(MatrixError, match="matrix.yaml:6:1: a discriminator of 5 layers takes images of 96"):
        make_plan(load("{l1: 1, gan: {layers: 5}}"))


def test_weights_are_known_by_their_hash_and_not_by_their_place(load, tmp_path):
    import timm

    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    losses = "{{l1: 1, gan: {{discriminator: dino, dino: {}, model: test_vit, resolution: 32}}}}"
    here, there = (keys(load(losses.format(tmp_path / name))) for name in ("a.pth", "b.pth"))
    assert here == there != keys(load(losses.format("random")))
    missing = keys(load(losses.format(tmp_path / "c.pth")))
    assert set(missing.values()) == {"unknown"}
    with pytest.raises(MatrixError, match="matrix.yaml:6:1: there is no file .*c.pth"):
        make_plan(load_matrix(tmp_path / "matrix.yaml"), fetch=True)


def test_options_of_losses_change_the_key_and_plain_weights_are_as_they_were(load):
    plain = keys(load("{l1: 1.0}"))
    assert plain == keys(load("{l1: 1}")) != keys(load("{l1: 1.0, gan: 0.5}"))
    assert keys(load("{l1: 1, gan: 0.5}")) != keys(load("{l1: 1, gan: {weight: 0.5, optimizer: {lr: 1}}}"))


def test_an_estimate_has_the_discriminator_and_the_operations_that_torch_counts(load):
    def cost(losses):
        made = make_plan(load(losses))
        return next(
            found
            for one, found in estimate.costs(made, made.stages.values()).items()
            if made.stages[one].kind == "tokenizer"
        )

    options = "width: 8, adaptive: false, consistency: 1.0"
    plain, judged = cost("{l1: 1}"), cost(f"{{l1: 1, gan: {{{options}}}}}")
    network = Patch(ImageSpec(3, 32, 32), 8)
    learned = sum(p.numel() for p in network.parameters())
    assert judged.parameters - plain.parameters == learned
    assert judged.optimizer_memory_bytes - plain.optimizer_memory_bytes == 12 * learned
    assert judged.disk_bytes == plain.disk_bytes
    adversary = Adversary(network, Adversarial(consistency=1.0))
    images = torch.rand(8, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        rebuilt = images.clone().requires_grad_()
        network.requires_grad_(False)
        adversary.fooled(rebuilt, Noise(0)).backward()
        network.requires_grad_(True)
        adversary.loss(images, rebuilt.detach(), Noise(0)).backward()
    added = judged.flops_per_image - plain.flops_per_image
    assert added * 8 == pytest.approx(counter.get_total_flops(), rel=1e-6)
    assert cost(f"{{l1: 1, lpips: {{weights: random}}, gan: {{{options}}}}}").flops > judged.flops
