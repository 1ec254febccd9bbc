"""Weight files as people have them: read whatever their names, or named as what they are."""

import gzip
import json
import os
import struct
import zipfile

import numpy as np
import pytest
import torch
from helpers.run import TINY, bench_inline
from safetensors.torch import save_file

from latentbench.bench.api import ImageSpec
from latentbench.bench.nn import released_weights
from latentbench.bench.nn.weight_files import BadWeights, is_safetensors, read_checkpoint
from latentbench.bench.registry import create

STATE = {"a": torch.arange(9.0), "b": torch.ones(2, 3)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


class Code:
    def __reduce__(self):
        return os.system, ("touch run",)


def npz(file):
    with file.open("wb") as opened:
        np.savez(opened, a=np.ones(3))


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/config.json", "{}")


def cut(save, name, end):
    def write(file):
        save(file.with_name(name))
        file.write_bytes(file.with_name(name).read_bytes()[:end])

    return write


def whole_torch(file):
    torch.save(STATE, file)


def whole_pickle(file):
    torch.save(STATE, file, _use_new_zipfile_serialization=False)


def whole_safetensors(file):
    save_file(STATE, file)


def content(data):
    return lambda file: file.write_bytes(data)


BAD = {
    "empty.pt": (content(b""), "is empty: download it again"),
    "empty.safetensors": (content(b""), "is empty"),
    "lfs.safetensors": (content(LFS), "is a Git LFS pointer, not the weights: run `git lfs pull`"),
    "lfs.ckpt": (content(LFS), "is a Git LFS pointer"),
    "page.safetensors": (content(b"\n<!DOCTYPE html><html>"), "is a web page"),
    "page.pt": (content(b"<html><head>"), "is a web page"),
    "denied.bin": (content(b'<?xml version="1.0"?><Error>AccessDenied</Error>'), "is a web page"),
    "hub.bin": (content(b'{"error":"Repository not found"}'), "is text"),
    "text.bin": (content(b"hello"), "is text"),
    "noise.bin": (content(bytes(range(128, 256))), "of no format that is known"),
    "packed.pt.gz": (content(gzip.compress(b"weights")), "is compressed by gzip: unpack it"),
    "keras.h5": (content(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file"),
    "llama.gguf": (content(b"GGUF\3\0\0\0"), "is a GGUF file"),
    "array.npy": (lambda file: np.save(file, np.ones(3)), "is a NumPy array"),
    "arrays.pt": (npz, "is a zip archive of NumPy arrays"),
    "folder.zip": (zipped, "is a zip archive of other files (model/config.json)"),
    "folder.pt": (lambda file: file.mkdir(), "is a folder"),
    "cut.pt": (cut(whole_torch, "whole.pt", -99), "is cut off"),
    "cut_early.pt": (cut(whole_torch, "whole.pt", 50), "is cut off"),
    "cut_pickle.pt": (cut(whole_pickle, "whole.pkl", -9), "is cut off"),
    "cut.safetensors": (cut(whole_safetensors, "w.safetensors", -9), "is cut off"),
    "cut_in_header.safetensors": (
        cut(whole_safetensors, "w.safetensors", 40),
        "is cut off within its header",
    ),
    "header.safetensors": (content(struct.pack("<Q", 2**62) + b"{}" + b" " * 99), "is broken"),
    "list.pt": (lambda file: torch.save([STATE], file), "holds a list, not named tensors"),
    "tensor.pt": (lambda file: torch.save(torch.ones(2), file), "holds one tensor without a name"),
    "options.pt": (
        lambda file: torch.save({"lr": 1.0, "epoch": 3}, file),
        "no tensors; its keys are lr, epoch",
    ),
    "code.pt": (lambda file: torch.save({"a": Code()}, file), "needs code to be read (posix.system)"),
}
GOOD = {
    "state.pt": whole_torch,
    "state.safetensors": whole_safetensors,
    "old.pth": whole_pickle,
    "torch under another suffix.safetensors": whole_torch,
    "safetensors under another suffix.pt": whole_safetensors,
    "safetensors without a suffix": whole_safetensors,
    "wrapped.ckpt": lambda file: torch.save({"epoch": 3, "state_dict": STATE}, file),
    "averaged.ckpt": lambda file: torch.save({"model": {"a": torch.zeros(1)}, "ema": STATE}, file),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_checkpoint_is_named_as_what_it_is(name, tmp_path):
    write, told = BAD[name]
    write(tmp_path / name)
    with pytest.raises(BadWeights) as error:
        read_checkpoint(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and told in str(error.value)
    assert "weights_only" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", GOOD)
def test_a_checkpoint_is_read_by_its_content_whatever_its_name(name, tmp_path):
    GOOD[name](tmp_path / name)
    found = read_checkpoint(tmp_path / name)
    assert found.keys() == STATE.keys() and all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "first_stage_model.", "vae.", "module._orig_mod.", "model.module."]
)
def test_prefixes_of_wrapped_modules_are_taken_off(prefix, tmp_path):
    model = create("tokenizers", "conv", image=ImageSpec(3, 32, 32), expansion=2)
    truth = {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}
    others = {"model.diffusion_model.weight": torch.ones(1)} if prefix == "first_stage_model." else {}
    torch.save({prefix + name: value for name, value in truth.items()} | others, tmp_path / "w.pt")
    found = released_weights.state(model, tmp_path / "w.pt")
    assert found.keys() == truth.keys() and all(torch.equal(found[name], truth[name]) for name in truth)


MATRIX = TINY.replace("  vit: {", "  vit: {weights: w.bin, ").replace("  kl: {weight: 1.0e-3}\n", "")


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("name", ["empty.pt", "page.pt", "cut.pt", "code.pt", "list.pt", "lfs.ckpt"])
def test_a_matrix_with_such_a_file_is_refused_at_the_file_s_row(command, name, tmp_path):
    BAD[name][0](tmp_path / "w.bin")
    (tmp_path / "m.yaml").write_text(MATRIX)
    done = bench_inline(command, "-m", "m.yaml", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 2 and "m.yaml:10:3: w.bin " in done.stderr and "Traceback" not in done.stderr
    assert "weights_only" not in done.stderr and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "old, new, place",
    [
        (
            "{use: effnet_lite0, resolution: 32}",
            "{use: timm, model: vit_tiny_patch16_224, weights: w.bin}",
            "5:",
        ),
        ("{use: effnet_lite0, resolution: 32}", "{use: inception, weights: w.bin, verify: false}", "5:"),
        (
            "reconstruction: {l1: 1.0}",
            "reconstruction: {l1: 1.0, lpips: {weight: 1.0, weights: w.bin}}",
            "7:",
        ),
        (
            "reconstruction: {l1: 1.0}",
            "reconstruction: {l1: 1.0, gan: {discriminator: dino, dino: w.bin}}",
            "7:",
        ),
    ],
    ids=["timm", "inception", "lpips", "dino"],
)
def test_weights_of_extractors_and_of_losses_are_checked_as_well(old, new, place, tmp_path):
    (tmp_path / "w.bin").write_bytes(b"<html>")
    (tmp_path / "m.yaml").write_text(TINY.replace(old, new))
    done = bench_inline("plan", "-m", "m.yaml", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 2 and "w.bin is a web page" in done.stderr and "Traceback" not in done.stderr
    assert f"m.yaml:{place}" in done.stderr


@pytest.mark.nightly
def test_six_hundred_damaged_files_are_read_exactly_or_named(tmp_path):
    hypothesis = pytest.importorskip("hypothesis")
    writers = [whole_torch, whole_pickle, whole_safetensors]
    whole = []
    for number, write in enumerate(writers):
        write(tmp_path / str(number))
        whole.append((tmp_path / str(number)).read_bytes())
    draw = hypothesis.strategies

    @hypothesis.settings(max_examples=600, deadline=None, database=None)
    @hypothesis.given(
        draw.sampled_from(whole),
        draw.sampled_from([".pt", ".safetensors", ".bin", ""]),
        draw.one_of(
            draw.tuples(draw.just("cut"), draw.floats(0, 1), draw.just(0)),
            draw.tuples(draw.just("flip"), draw.floats(0, 0.999), draw.integers(1, 255)),
            draw.tuples(draw.just("insert"), draw.floats(0, 1), draw.integers(0, 255)),
        ),
    )
    def check(data, suffix, damage):
        kind, share, byte = damage
        place = int(share * len(data))
        ends = {"cut": b"", "flip": bytes([data[min(place, len(data) - 1)] ^ byte]) + data[place + 1 :]}
        ends["insert"] = bytes([byte]) + data[place:]
        file = tmp_path / f"damaged{suffix}"
        file.write_bytes(data[:place] + ends[kind])
        try:
            found = read_checkpoint(file)
        except BadWeights as error:
            assert "weights_only" not in str(error)
            return
        # Values have no checksum in these formats; names and shapes must be those that the file states.
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())

    check()


def test_what_is_said_of_a_file_needs_only_its_first_bytes(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}).encode()
    with (tmp_path / "large").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2**30)
    assert is_safetensors(tmp_path / "large")
