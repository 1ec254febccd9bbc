"""Tokenizers scored as they are, by one command or one call, on data that lies in a folder or has a name."""

import re
import shutil

import numpy as np
import pytest
import torch
from helpers.plugins import HALVED
from helpers.run import bench_inline, results
from PIL import Image

import latentbench.bench as lb


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two models of diffusers, JPEGs in class folders and a plugin."""
    import diffusers

    folder = tmp_path_factory.mktemp("place")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    for seed, name in enumerate(("small", "wide")):
        torch.manual_seed(seed)
        widths = [32, 32 * (seed + 1)]
        model = diffusers.AutoencoderKL(block_out_channels=widths, latent_channels=4, **blocks)
        model.save_pretrained(folder / "models" / name / "vae")
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8)):
        for kind in ("cat", "dog"):
            (folder / "pictures" / split / kind).mkdir(parents=True)
            for number in range(count):
                levels = draw.integers(0, 256, (4, 4, 3), np.uint8)
                picture = Image.fromarray(levels).resize((40, 30), Image.Resampling.BICUBIC)
                picture.save(folder / "pictures" / split / kind / f"{number}.jpg")
    (folder / "halved.py").write_text(HALVED)
    return folder


def score(place, *words):
    return bench_inline("score", *words, "-o", "out", cwd=place)


def test_several_are_ranked_side_by_side_with_n_protocols_and_intervals(place):
    done = score(
        place, "models/small/vae", "models/wide/vae", "halved", "--plugin", "halved.py", "--data", "digits"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("360 held-out images of digits; in brackets 95 %")
    assert {"small-vae", "wide-vae", "halved"} == set(lines[1].split()[1:])
    psnr = next(line for line in lines if line.startswith("PSNR ↑"))
    assert re.search(r"PSNR ↑ [0-9a-f]{6} +[\d.]+ \[[\d.]+–[\d.]+\]", psnr)
    assert lines[1].split()[1] == "halved" and lines[2].split("PSNR")[1].split()[0] == "1"
    assert "bench compare out:tokenizer=halved out:tokenizer=" in lines[-1] and "--metric PSNR" in lines[-1]
    assert "latents have different sizes (tokens x channels): " in done.stderr
    pictures = {file.name for file in (place / "out/samples").iterdir()}
    assert "digits--reconstructions.png" in pictures and any("worst" in name for name in pictures)


def test_a_plugin_has_the_psnr_of_a_computation_by_hand(place):
    done = bench_inline("score", "halved", "--plugin", "halved.py", "-o", "alone", cwd=place)
    assert done.returncode == 0, done.stderr
    images = lb.create("datasets", "digits").images("val", torch.arange(360))
    halved = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(images, 2), scale_factor=2)
    levels = [((x + 1) * 127.5).round() for x in (images, halved)]
    squares = (levels[0] - levels[1]).square().flatten(1).mean(1)
    (record,) = [r for r in results(place / "alone").values() if r["cell"]["tokenizer"] == "halved"]
    truth = (10 * torch.log10(255**2 / squares.clamp_min(1e-9))).mean().item()
    assert record["metrics"]["PSNR"]["value"] == pytest.approx(truth, abs=0.05)


def test_a_folder_of_jpegs_is_scored_at_the_size_that_is_asked_for(place):
    done = score(place, "models/small/vae", "--data", "pictures", "--size", "16")
    assert done.returncode == 0, done.stderr
    assert "16 held-out images of pictures" in done.stdout and "vae" in done.stdout
    done = score(place, "models/small/vae", "--data", "pictures", "--size", "15")
    assert done.returncode == 2 and "its sides must be multiples of 2" in done.stderr


def test_draws_from_the_posterior_are_another_row(place):
    for words in ((), ("--sample",)):
        done = score(place, "models/small/vae", *words)
        assert done.returncode == 0, done.stderr
    labels = {record["cell"]["regularizer"] for record in results(place / "out").values()}
    assert labels == {"drawn"} and "set aside" in done.stderr


def test_what_was_exported_is_scored_as_the_run_that_trained_it_scored_it(place, tmp_path):
    matrix = {
        "name": "trained",
        "dataset": "digits",
        "features": "effnet_lite0",
        "budget": {"tokenizer_steps": 5, "batch": 32},
        "tokenizers": {"conv": {"mult": [1, 1], "channels": 4}},
        "regularizers": {"none": {}},
        "generators": {"none": {}},
        "evaluators": ["reconstruction"],
    }
    made = lb.run(matrix, output=tmp_path / "made", progress=False)
    lb.tokenizer(made).export(tmp_path / "exported")
    again = lb.score(tmp_path / "exported", output=tmp_path / "scored", progress=False)
    values = [r.frame(scope="tokenizer", metrics=["PSNR", "SSIM", "rFD*"]).iloc[0] for r in (made, again)]
    for name in ("PSNR", "SSIM", "rFD[effnet_lite0]"):
        assert values[0][name] == pytest.approx(values[1][name], rel=1e-3, abs=1e-4)
        assert values[0][f"{name}_protocol"] == values[1][f"{name}_protocol"]


WRONG = {
    "no such name": (["nowhere"], "unknown tokenizer 'nowhere'"),
    "a folder without a model": (["pictures"], "has no config.json"),
    "the folder above": (["models/small"], "`subfolder` may be vae"),
    "twice": (["models/small/vae", "models/small/vae"], "is named twice"),
    "no such data": (["models/small/vae", "--data", "digit"], "did you mean 'digits'"),
    "an id offline": (["nobody/nothing", "--offline"], "offline"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_scored_is_named_before_anything_is_encoded(name, place):
    words, says = WRONG[name]
    done = score(place, *words)
    assert done.returncode == (4 if name == "an id offline" else 2), done.stdout + done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr


def test_weights_that_are_no_checkpoint_are_named(place):
    shutil.copytree(place / "models/small/vae", place / "broken")
    (place / "broken/diffusion_pytorch_model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\n"
    )
    done = score(place, "broken")
    assert done.returncode == 2 and "git lfs pull" in done.stderr, done.stderr
