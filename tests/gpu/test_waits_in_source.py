"""Calls that make the program wait for a GPU, where every step computes: each is known and has a reason."""

import ast
from pathlib import Path

import pytest
from helpers.waits_in_source import waits

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("regularizers", "generators", "tokenizers")
FILES = [
    *(file for room in ("bench/training", "bench/nn", *PARTS) for file in sorted((ROOT / room).glob("*.py"))),
    *(
        ROOT / "bench" / name
        for name in (
            "api/noise.py",
            "api/transfer.py",
            "data/augment.py",
            "flow.py",
            "models/latents.py",
            "runtime/prefetch.py",
            "runtime/processes.py",
            "runtime/recompute.py",
        )
    ),
]
NAMES = "a number in a name or in an option"
ON_THE_CPU = "the values are on the CPU whatever the device"
RARELY = "at a checkpoint or a snapshot, or once for a training"
CHUNKS = "once for a chunk of 128 images outside training, whose results are kept in main memory"
CHECKED = "a released network's rows are compared with what they should be, once for a dataset"
SOLVER = "an adaptive solver stops by its error, as the paper's does; it decodes, and trains nothing"
TOYS = "the tokenizer of points looks them up on the CPU: toys of a thousand points, meant for a CPU"

# (file:function, what): the reason why it stays.
KNOWN = {
    ("bench/api/noise.py:Noise.shared", ".item()"): ON_THE_CPU,
    (
        "bench/data/augment.py:jittered",
        ".nonzero()",
    ): "only with `augment: {jitter}`: a change for some images",
    ("bench/models/latents.py:chunk_decoder.decode_chunk", ".cpu()"): CHUNKS,
    ("bench/models/latents.py:draw.draw_chunk", ".cpu()"): CHUNKS,
    ("bench/models/latents.py:encode.hidden", ".cpu()"): CHUNKS,
    ("bench/models/latents.py:round_trip", "float()"): CHUNKS,
    ("bench/models/latents.py:round_trip.difference", ".cpu()"): CHUNKS,
    ("bench/nn/autoencoder_kl.py:_renamed", "int()"): NAMES,
    ("bench/nn/autoencoder_kl.py:diffusers_state", "int()"): NAMES,
    ("bench/nn/diffaugment.py:resized", "int()"): ON_THE_CPU,
    ("bench/nn/dit.py:swiglu", "int()"): NAMES,
    ("bench/nn/ode.py:_mixed", "float()"): "a coefficient of the solver's table",
    ("bench/nn/ode.py:rk45", "[mask]"): SOLVER,
    ("bench/nn/ode.py:rk45", "float()"): SOLVER,
    ("bench/nn/ode.py:rk45", "if .all()"): SOLVER,
    ("bench/nn/released_weights.py:_layers", "int()"): NAMES,
    ("bench/nn/token_heads.py:DiffusionHead.sample", "tensor(device)"): "sampling: one number for a step",
    ("bench/nn/token_heads.py:FlowHead.sample", ".tolist()"): ON_THE_CPU,
    ("bench/nn/zones.py:_pull", "if .any()"): "asked on a CPU alone",
    ("bench/runtime/prefetch.py:_EightBitImages.__getitem__", ".numpy()"): ON_THE_CPU,
    ("bench/runtime/prefetch.py:_batches", ".numpy()"): ON_THE_CPU,
    ("bench/runtime/processes.py:Group.average_gradients", ".tolist()"): ON_THE_CPU,
    (
        "bench/runtime/processes.py:Group.average_gradients",
        "float()",
    ): "whether there is a gradient, no tensor",
    ("bench/training/checkpoint.py:checkpoint_files.step", "int()"): NAMES,
    ("bench/training/checkpoint.py:exists", "bool()"): "a list of files",
    ("bench/training/checkpoint.py:load", "int()"): NAMES,
    ("bench/training/checkpoint.py:save", ".cpu()"): RARELY,
    ("bench/training/generator.py:train_generator.train", ".cpu()"): RARELY,
    ("bench/training/readings.py:LossReader.__init__", "int()"): "whether the device is a GPU",
    (
        "bench/training/readings.py:LossReader.add",
        ".cpu()",
    ): "on a CPU, or if several processes average losses",
    ("bench/training/readings.py:LossReader.add", "float()"): "whether the run was asked to stop, no tensor",
    ("bench/training/readings.py:_Pending.read", ".synchronize()"): "for the losses of the step before",
    ("bench/training/readings.py:_Pending.read", ".tolist()"): "on the CPU, where the losses have arrived",
    ("regularizers/eq.py:EQ.shown", "int()"): ON_THE_CPU,
    ("regularizers/eq.py:ScaleEQ.shown", "int()"): ON_THE_CPU,
    ("regularizers/lzn.py:_labelled_rows", ".nonzero()"): "latents without a class have no zone in a batch",
    ("regularizers/lzn.py:shortfall", "int()"): NAMES,
    ("regularizers/masked.py:masked_places", "int()"): ON_THE_CPU,
    ("regularizers/nested.py:Nested.shown", "int()"): ON_THE_CPU,
    ("tokenizers/cached.py:Cached._check_images", ".nonzero()"): CHECKED,
    ("tokenizers/cached.py:Cached._check_images", "int()"): CHECKED,
    ("tokenizers/points.py:Points.encode", ".cpu()"): TOYS,
    ("tokenizers/points.py:Points.positions", ".cpu()"): TOYS,
    ("tokenizers/points.py:Points.positions", "[mask]"): TOYS,
    ("tokenizers/points.py:Points.positions", "if .any()"): TOYS,
}


def test_what_may_wait_for_a_gpu_at_every_step_is_known_and_has_a_reason():
    found = set()
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found |= {(f"{file.relative_to(ROOT)}:{name}", what) for name, what in waits(tree)}
    new = sorted(found - KNOWN.keys())
    assert not new, "the program waits for the GPU here: leave the value on the device, or say why in KNOWN"
    assert not sorted(KNOWN.keys() - found), "these have gone: take them out of KNOWN"
    assert all(KNOWN.values())


@pytest.mark.parametrize(
    "line, what",
    [
        ("loss.item()", ".item()"),
        ("z.detach().cpu()", ".cpu()"),
        ("losses.tolist()", ".tolist()"),
        ("z.numpy()", ".numpy()"),
        ("float(loss)", "float()"),
        ("int(labels.max())", "int()"),
        ("bool(z > 0)", "bool()"),
        ("print(loss)", "print()"),
        ("torch.cuda.synchronize()", ".synchronize()"),
        ("(labels >= 0).nonzero()", ".nonzero()"),
        ("torch.where(labels >= 0)", ".where(mask)"),
        ("z[labels >= 0]", "[mask]"),
        ("z[~labels]", "[mask]"),
        ("z[:, labels == 1]", "[mask]"),
        ("torch.tensor([1.0], device=z.device)", "tensor(device)"),
        ("z.new_tensor([1.0])", ".new_tensor()"),
        ("1 if w.any() else 2", "if .any()"),
    ],
)
def test_a_call_that_waits_is_found(line, what):
    assert [*waits(ast.parse(f"class A:\n    def f(self):\n        x = {line}"))] == [("A.f", what)]


def test_a_mask_with_a_name_and_the_truth_of_a_tensor_are_found():
    assert [*waits(ast.parse("def f(z):\n    kept = z > 0\n    return z[kept]"))] == [("f", "[mask]")]
    for head in ("if w.any(): pass", "while not done.all(): pass", "assert x.isfinite().all()"):
        assert len([*waits(ast.parse(f"def f():\n    {head}"))]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "float(len(z))",
        "int(1.0)",
        "z[index]",
        "z[0] = 1",
        "z[kept > 0] = 1",
        "torch.where(a, b, c)",
        "torch.tensor([1.0], device='cpu')",
        "torch.tensor([1.0])",
        "any(x.requires_grad for x in xs)",
        "w.any()",
    ],
)
def test_what_waits_for_nothing_is_left_alone(line):
    assert not [*waits(ast.parse(f"def f():\n    {line}"))]


def test_functions_within_functions_are_seen_once_and_by_their_names():
    text = "class A:\n    def f(self):\n        def g():\n            return x.item()\n        return g"
    assert [*waits(ast.parse(text))] == [("A.f.g", ".item()")]
