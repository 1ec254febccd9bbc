"""Tokenizers that runs have trained, scored again from results folders and from exported folders."""

import json
import shutil

import pytest
import torch
import yaml
from helpers.image_folders import picture
from helpers.plugins import HALVED
from helpers.run import bench_inline, results

PLUGIN = (
    HALVED
    + """
from latentbench.bench.api import Regularizer

@register("squashed")
class Squashed(Regularizer):
    '''Latents between the learned bounds, whose draws aren't normal.'''

    def __init__(self, spec):
        super().__init__(spec)
        self.bound = nn.Parameter(torch.full((spec.channels,), 0.5))

    def latent(self, h, noise, labels=None):
        return self.bound * torch.tanh(h if noise is None else h + 0.1 * noise.normal(h))
"""
)
MATRIX = {
    "name": "mine",
    "dataset": {"use": "imagefolder", "root": "pictures", "size": 16},
    "features": "effnet_lite0",
    "budget": {"tokenizer_steps": 4, "batch": 8},
    "plugins": ["parts.py"],
    "tokenizers": {
        "conv": {"width": 32, "mult": [1, 1], "channels": 4},
        "vit": {"width": 16, "depth": 1, "heads": 2, "patch": 4, "channels": 4},
    },
    "regularizers": {"kl": {"weight": 0.001}, "squashed": {}, "lzn": {}},
    "skip": [{"tokenizer": "conv", "regularizer": "lzn|squashed", "why": "not needed"}],
    "generators": {"none": {}},
    "evaluators": ["reconstruction"],
}
DATA = ("--data", "pictures", "--size", "16")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with JPEGs, results of a short training, two exported tokenizers, and one of diffusers."""
    import diffusers

    folder = tmp_path_factory.mktemp("place")
    for split, count in (("train", 12), ("val", 8)):
        for number in range(count):
            file = folder / "pictures" / split / ("cat", "dog")[number % 2] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(100 * (split == "val") + number, 20, 18).save(file)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    torch.manual_seed(0)
    diffusers.AutoencoderKL(block_out_channels=[32, 32], latent_channels=4, **blocks).save_pretrained(
        folder / "vae"
    )
    (folder / "parts.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "matrix.yaml").write_text(yaml.safe_dump(MATRIX), encoding="utf-8")
    commands = [["run"]]
    for row in ("conv", "vit"):
        commands.append(
            ["export", "results/mine", "-k", f"tokenizer={row},regularizer=kl", "-o", f"{row}-out"]
        )
    for words in commands:
        done = bench_inline(*words, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def score(place, *words, out="out"):
    return bench_inline("score", *words, "-o", out, cwd=place)


def metrics(folder):
    """The values of records by tokenizer, after its regularizer in results of training."""
    found = {}
    for record in results(folder).values():
        labels = record["cell"]
        scored = labels["regularizer"] in ("mean", "drawn")
        name = labels["tokenizer"] if scored else f"{labels['tokenizer']} · {labels['regularizer']}"
        found[name] = {metric: entry["value"] for metric, entry in record["metrics"].items()}
    return found


def test_exported_folders_results_diffusers_and_plugins_are_ranked_side_by_side_with_ties(place):
    given = ("vae", "conv-out", "vit-out", "results/mine", "halved", "--plugin", "parts.py")
    done = score(place, *given, *DATA)
    assert done.returncode == 1, done.stdout + done.stderr  # for the one that cannot be scored
    assert "vit · lzn: skipped: latents of lzn depend on their minibatch" in done.stderr
    trained, scored = metrics(place / "results/mine"), metrics(place / "out")
    for name in ("conv · kl", "vit · kl", "vit · squashed"):
        assert scored[name]["PSNR"] == trained[name]["PSNR_mean"] == scored[name]["PSNR_mean"]
    for exported, name in (("conv-out", "conv · kl"), ("vit-out", "vit · kl")):
        for metric in ("PSNR", "SSIM", "rFD[effnet_lite0]"):
            assert scored[exported][metric] == pytest.approx(scored[name][metric], rel=1e-4)
    lines = done.stdout.splitlines()
    assert set(scored) == {
        "vae",
        "conv-out",
        "vit-out",
        "conv · kl",
        "vit · kl",
        "vit · squashed",
        "vit · lzn",
        "halved",
    }
    ranks = lines[2].split("by PSNR")[1].split()
    assert ranks[0] == "1" and any("–" in rank for rank in ranks)  # equal ones share a place


def test_draws_are_those_of_training_and_other_noise_than_normal_is_refused(place):
    done = score(place, "results/mine:regularizer=kl", *DATA, "--sample", out="drawn")
    assert done.returncode == 0, done.stderr
    trained, scored = metrics(place / "results/mine"), metrics(place / "drawn")
    for name in ("conv · kl", "vit · kl"):
        assert scored[name]["PSNR"] == pytest.approx(trained[name]["PSNR"], abs=1e-3)
        assert scored[name]["PSNR"] != scored[name]["PSNR_mean"]
    done = score(place, "results/mine:regularizer=squashed", *DATA, "--sample", out="squashed")
    assert done.returncode == 1 and "aren't a mean and normal noise" in done.stderr, done.stderr


def test_another_training_into_the_folder_gives_its_numbers(place):
    shutil.copytree(place / "results/mine", place / "results/changed")
    matrix = MATRIX | {"name": "changed", "budget": {"tokenizer_steps": 5, "batch": 8}}
    (place / "changed.yaml").write_text(yaml.safe_dump(matrix), encoding="utf-8")
    chosen = "results/changed:tokenizer=vit,regularizer=kl"
    first = score(place, chosen, *DATA, out="again")
    before, keys = metrics(place / "again"), [r["key"] for r in results(place / "again").values()]
    words = ("--filter", "tokenizer=vit,regularizer=kl", "-o", "results/changed")
    assert bench_inline("run", "-m", "changed.yaml", *words, cwd=place).returncode == 0
    second = score(place, chosen, *DATA, out="again")
    assert first.returncode == second.returncode == 0, second.stderr
    after, new_keys = metrics(place / "again"), [r["key"] for r in results(place / "again").values()]
    assert before != after and keys != new_keys
    truth = metrics(place / "results/changed")["vit · kl"]["PSNR_mean"]
    assert after["vit · kl"]["PSNR"] == truth


def test_results_of_a_cache_elsewhere_have_the_same_keys(place, tmp_path):
    shutil.copytree(place / "results/mine", tmp_path / "moved")
    shutil.copytree(place / ".bench", tmp_path / ".bench")
    words = ("tokenizer=vit,regularizer=kl", *DATA)
    for folder in ("results/mine", tmp_path / "moved"):
        done = score(place, f"{folder}:{words[0]}", *words[1:], out=f"from-{folder == 'results/mine'}")
        assert done.returncode == 0, done.stderr
    first, second = (results(place / f"from-{here}") for here in (True, False))
    assert first == second


def test_other_data_than_that_of_training_may_be_scored(place):
    shutil.copytree(place / "pictures", place / "others")
    picture(7, 20, 18).save(place / "others/val/cat/0.jpg")
    done = score(place, "results/mine:regularizer=kl", "--data", "others", "--size", "16", out="others-out")
    assert done.returncode == 0, done.stderr
    trained, scored = metrics(place / "results/mine"), metrics(place / "others-out")
    assert trained["vit · kl"]["PSNR_mean"] != scored["vit · kl"]["PSNR"]


BAD = {
    "a missing folder": (["results/nowhere:tokenizer=vit"], "there is no folder results/nowhere"),
    "a missing path": (["./nowhere"], "there is no folder ./nowhere"),
    "an empty folder": (["empty"], "has no config.json"),
    "a broken config": (["broken"], "config.json is no JSON"),
    "an older config": (["older"], "doesn't say how its latents are made"),
    "an unknown part in a config": (["unknown"], "unknown tokenizer 'vitt'; did you mean 'vit'"),
    "no weights": (["weightless"], "there is no file"),
    "results without a cache": (["uncached"], "set $LATENTBENCH_HOME"),
    "results without a matrix": (["unmade"], "no matrix.lock*.yaml in unmade"),
    "a filter that fits nothing": (["results/mine:tokenizer=dino"], "none in results/mine fits; there are"),
    "a filter of an unknown axis": (["results/mine:tokeniser=vit"], "did you mean 'tokenizer'"),
    "a filter without a pattern": (["results/mine:vit"], "takes AXIS=PATTERN"),
    "a filter of an exported folder": (["vit-out:tokenizer=vit"], "vit-out is none"),
    "a filter of any folder": (["pictures:tokenizer=vit"], "pictures is none"),
    "an unknown part": (["vitt"], "unknown tokenizer 'vitt'; did you mean 'vit'"),
    "one twice": (["vit-out", "./vit-out/"], "is named twice"),
    "one of a folder twice": (["results/mine", "results/mine:regularizer=kl"], "is named twice"),
    "latents of a minibatch": (["results/mine:regularizer=lzn"], "depend on their minibatch"),
    "another size": (["vit-out", "results/mine:tokenizer=vit,regularizer=kl", "--size", "12"],
                     "doesn't fit images of 3 x 12 x 12"),
    "grey images": (["vit-out", "results/mine:regularizer=kl", "--data", "digits"],
                    "doesn't fit images of 1 x 8 x 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_scored_is_refused_with_the_reason_and_leaves_nothing_behind(name, place, tmp_path):
    words, says = BAD[name]
    (tmp_path / "empty").mkdir()
    for source in ("results", "vit-out", "pictures", "parts.py"):
        (tmp_path / source).symlink_to(place / source)
    for folder, changes in (("broken", "{"), ("older", ("layer_norm", None)), ("unknown", ("part", "vitt"))):
        shutil.copytree(place / "vit-out", tmp_path / folder)
        text = changes
        if changes != "{":
            config = json.loads((tmp_path / folder / "config.json").read_text(encoding="utf-8"))
            config[changes[0]] = changes[1]
            text = json.dumps({key: value for key, value in config.items() if value is not None})
        (tmp_path / folder / "config.json").write_text(text, encoding="utf-8")
    shutil.copytree(place / "vit-out", tmp_path / "weightless")
    (tmp_path / "weightless/diffusion_pytorch_model.safetensors").unlink()
    shutil.copytree(place / "results/mine", tmp_path / "uncached")
    shutil.copytree(place / "results/mine/records", tmp_path / "unmade/records")
    before = sorted(tmp_path.iterdir())
    data = () if "--data" in words else DATA if "--size" not in words else DATA[:2]
    done = bench_inline("score", *words, *data, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert sorted(tmp_path.iterdir()) == before
