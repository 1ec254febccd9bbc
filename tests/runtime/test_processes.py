"""Two processes: the same steps, the same numbers, and the same checkpoints as one."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.run import TINY, bench, environment, ran, results
from torch import distributed, multiprocessing, nn
from torch.distributed import TCPStore

from latentbench.bench.api import Dataset, ImageSpec, LatentSpec, Noise, Reference, Regularizer, Unfit
from latentbench.bench.data.augment import Augmentation
from latentbench.bench.models import latents
from latentbench.bench.registry import build, get
from latentbench.bench.runtime import mapped, processes
from latentbench.bench.runtime.processes import ALONE, Group, gathered, of_all, own
from latentbench.bench.training.context import Context, Stopped
from latentbench.bench.training.generator import train_generator
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.tokenizer import train_tokenizer

# A method that fails in the second process alone, and one that ends it.
PLUGIN = """\
import os
from latentbench.bench.api import Regularizer
from latentbench.bench.registry import register

@register("raises")
class Raises(Regularizer):
    def loss(self, z, h, step):
        if step.noise.rank == 1 and step.index == 3:
            raise ValueError("of one alone")
        return {}

@register("dies")
class Dies(Regularizer):
    def loss(self, z, h, step):
        if step.noise.rank == 1 and step.index == 3:
            os._exit(7)
        return {}
"""
MATRIX = TINY.replace("  none: {}\n", "").replace("  gaussian: {}\n", "").replace("density, cost", "cost")
FAILING = MATRIX.replace("regularizers:\n", "plugins: [bad.py]\nregularizers:\n  raises: {}\n  dies: {}\n")

SPEC = LatentSpec(4, 4, (2, 2))
MLP = {"use": "velocity_mlp", "width": 16, "depth": 1}
FLOW = {"use": "tarflow", "width": 16, "blocks": 2, "layers": 1, "heads": 2, "noise_std": 0.0}
VIT = {"use": "lightningdit", "width": 16, "depth": 2, "heads": 2}
FROZEN = "noise on a frozen encoder"
METHODS = {
    "kl": {"weight": 1e-2},
    "dmvae": {"score": MLP, "critic_steps": 2},
    "lzn": {"align": 1.0, "align_steps": 10, "steps": 8},
    "lzn_views": {"align_steps": 10, "steps": 8},
    "simflow": {"prior": FLOW},
    "mmd": {},
    "swae": {},
    "sigreg": {},
    "vicreg": {},
    "lcr": {"weight": 0.5},
    "aae": {"width": 16},
    "vf": {},
    "repa_e": {"prior": VIT, "width": 16},
    "flow_prior": {"prior": MLP},
    "eq": {"on": {"kl": {"weight": 1e-2}}},
    "denoising": {"on": {"mmd": {}}},
    "masked": {"ratios": [0.25, 0.5], "probabilities": [0.5, 0.5]},
    "none": {},  # with a mask in the tokenizer
    FROZEN: {"interpolate": False, "gamma": 0.8},
}
SMALL = {"width": 16, "depth": 1, "heads": 2}
GENERATORS = {
    "lightningdit": ("lightningdit", SMALL),
    "lightningdit with repa": ("lightningdit", SMALL | {"repa": 0.5, "repa_width": 16}),
    "mar": ("mar", SMALL),
    "ddt": ("ddt", SMALL | {"head_width": 16, "head_depth": 1}),
    "meanflow": ("meanflow", SMALL),
    "raster_ar": ("raster_ar", SMALL),
}
FACTS = {"classes": 4, "reference_classes": 4, "reference_spec": SPEC, "teacher_spec": SPEC}


class Blobs(Dataset):
    """300 random images, of which a chunk holds 128."""

    image, classes = ImageSpec(1, 8, 8), 4

    def __init__(self):
        self.data = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def size(self, split):
        return len(self.data)

    def images(self, split, index):
        return self.data[index]

    def labels(self, split):
        return torch.arange(300) % 4


def method(name):
    if name == FROZEN:
        return build("regularizers", "denoising", {"spec": LatentSpec(16, 112, (4, 4))}, METHODS[name])
    return build("regularizers", name, FACTS | {"spec": SPEC}, METHODS[name])


def trained(name, folder, group=ALONE, steps=20, stop_at=None, kind=method):
    """Every step's losses and the parameters at the end, or at the step where it is stopped."""
    torch.manual_seed(1)
    part = regularizer = method(name) if kind is method else kind(SPEC)
    torch.manual_seed(0)
    facts = {"image": ImageSpec(1, 8, 8), "expansion": part.expansion, "extra": part.extra}
    small = {"width": 16, "depth": 1, "heads": 2, "patch": 4, "channels": 4}
    small |= {"mask": (0.1, 0.9)} if name == "none" else {}
    tokenizer = build("tokenizers", "vit", facts, small)
    if name == FROZEN:
        tokenizer = build("tokenizers", "frozen_encoder", facts, {"width": 16, "depth": 1, "heads": 2})
    drawn = torch.randn(90, 4, 4, generator=torch.Generator().manual_seed(2))
    asked = [0]

    def stopping():
        asked[0] += 1
        return asked[0] == stop_at and group.rank == 0  # one is asked, all stop

    features = torch.randn(300, 4, 4, generator=torch.Generator().manual_seed(3))
    folder.mkdir(exist_ok=True)
    try:
        state = train_tokenizer(
            tokenizer,
            regularizer,
            Blobs(),
            Objective({"l1": Term(1.0, l1)}, augmentation=Augmentation() if part.two_views else None),
            TrainingBudget(steps, 8, refine_steps=2),
            seed=0,
            optimizer=({"warmup": 5}, {}),
            context=Context(folder, stopping=stopping, group=group),
            teacher=lambda images, index: features[index],
            reference=Reference(drawn, torch.arange(90) % 4, (2, 2)),
        )
    except Stopped:
        return None
    return state.curves, nn.utils.parameters_to_vector([*tokenizer.parameters(), *regularizer.parameters()])


def generated(name, folder, group=ALONE):
    """Every step's loss of a generator."""
    torch.manual_seed(0)
    part, options = GENERATORS[name]
    model = build("generators", part, {"spec": SPEC, "classes": 4, "teacher_spec": SPEC}, options)
    features = torch.randn(60, 4, 4, generator=torch.Generator().manual_seed(3))
    z = torch.randn(60, 4, 4, generator=torch.Generator().manual_seed(1))
    folder.mkdir(exist_ok=True)
    state = train_generator(
        model,
        lambda index, step: z[index],
        60,
        torch.arange(60) % 4,
        steps=10,
        batch=8,
        seed=0,
        optimizer={"warmup": 2},
        context=Context(folder, group=group),
        latent=lambda rows, labels, noise: rows + 0.1 * noise.normal(rows),
        teacher=(lambda images, index: features[index]) if model.teacher_spec else None,
    )
    return state.curves


class Alike(Regularizer):
    """Depends on the whole batch, and has never heard of processes."""

    couples = "loss"


def evaluated(group=ALONE, place=None):
    """What is made in chunks: latents that depend on their batch and such that don't, and images.

    In files of a folder, if it is given.
    """

    def file(name):
        return place and place / name

    torch.manual_seed(0)
    tokenizer = get("tokenizers", "vit")(
        ImageSpec(1, 8, 8), 1, width=16, depth=1, heads=2, patch=4, channels=4
    ).eval()
    h = latents.encode(tokenizer, Blobs(), "val", "cpu", group=group, file=file("h"))
    drawn = [
        latents.draw(part.eval(), h, Blobs().labels("val"), Noise(0, ("x",)), 32, "cpu", group, file(str(i)))
        for i, part in enumerate((method("simflow"), method("lzn")))
    ]
    few = torch.arange(50)  # fewer chunks than processes
    few = latents.encode(tokenizer, Blobs(), "val", "cpu", few, group=group)
    return h, *drawn, few, latents.decode_all_uint8(tokenizer, drawn[0], "cpu", group, file=file("images"))


def gathering(group):
    """The gradient of a function of the whole batch, in each process's rows and averaged over processes."""
    x = torch.arange(12.0).view(6, 2)
    noise = group.noise(Noise(0))
    mine = group.rows(x).clone().requires_grad_()
    everyones = gathered(mine, noise)
    loss = own(everyones.cumsum(0).square(), noise).mean()
    loss.backward()
    drawn = own(of_all(noise).normal(everyones, "a"), noise)
    assert torch.equal(drawn, noise.normal(mine, "a"))
    weight = nn.Parameter(torch.zeros(3))
    unused, half = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    weight.grad = torch.full((3,), float(group.rank))
    if group.rank == 0:
        half.grad = torch.ones(2)
    group.average_gradients([weight, unused, half])
    return everyones.detach(), mine.grad / group.world, weight.grad, unused.grad, half.grad


def work(rank, port, folder):
    """All that the tests below look at, in one pair of processes."""
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    group = Group(rank, 2)
    processes.BUCKET = 200  # so that gradients are sent in several
    made = {f"trained {name}": trained(name, folder / f"two {name}", group) for name in METHODS}
    made |= {f"generated {name}": generated(name, folder / f"two {name}", group) for name in GENERATORS}
    made["evaluated"], made["gathered"] = evaluated(group), gathering(group)
    mapped.LARGE = 1
    made["mapped"] = evaluated(group, folder / "scratch")
    mapped.LARGE = 2**28
    made["resumed by two"] = trained("dmvae", folder / "stopped by one", group)
    trained("dmvae", folder / "stopped by two", group, stop_at=7)
    try:
        trained("", folder / "unfit", group, kind=Alike)
    except Unfit as error:
        made["unfit"] = str(error)
    torch.save(made, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes made, as each of them has it, and the folder with their checkpoints."""
    folder = tmp_path_factory.mktemp("pair")
    assert trained("dmvae", folder / "stopped by one", stop_at=7) is None
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    multiprocessing.spawn(work, (store.port, folder), 2)
    return folder, *(torch.load(folder / f"{rank}.pt") for rank in (0, 1))


def close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, values in expected.items():  # None where a loss is of another phase
        assert [v is None for v in found[name]] == [v is None for v in values]
        given = [v for v in found[name] if v is not None]
        assert given == pytest.approx([v for v in values if v is not None], abs=tolerance, rel=tolerance), (
            name
        )


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_take_the_steps_of_one(pair, tmp_path, name):
    curves, weights = trained(name, tmp_path / "one")
    assert len(curves["step"]) == 22
    for made in pair[1:]:
        close(made[f"trained {name}"][0], curves)
        # Adam divides by small gradients: of a bias that no loss sees, such as keys', by rounding.
        assert (made[f"trained {name}"][1] - weights).abs().max() < 5e-3
    assert torch.equal(pair[1][f"trained {name}"][1], pair[2][f"trained {name}"][1])  # they stay together


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_trains_alike(pair, tmp_path, name):
    close(pair[1][f"generated {name}"], generated(name, tmp_path))


def test_chunks_are_the_same_bits_without_duplicates_or_drops(pair):
    for made in pair[1:]:
        for where in ("evaluated", "mapped"):
            for found, expected in zip(made[where], evaluated(), strict=True):
                assert torch.equal(found, expected)


def test_a_checkpoint_goes_on_with_another_number_of_processes(pair, tmp_path):
    undisturbed = trained("dmvae", tmp_path / "whole")[0]
    close(pair[1]["resumed by two"][0], undisturbed)
    assert list((pair[0] / "stopped by two").glob("checkpoint-*.safetensors"))
    close(trained("dmvae", pair[0] / "stopped by two")[0], undisturbed)


def test_gathering_has_the_gradient_of_the_whole_batch(pair):
    x = torch.arange(12.0).view(6, 2).requires_grad_()
    x.cumsum(0).square().mean().backward()
    for rank, made in enumerate(pair[1:]):
        everyones, gradient, *averaged = made["gathered"]
        assert torch.equal(everyones, x)
        torch.testing.assert_close(gradient, x.grad[3 * rank : 3 * rank + 3])
        assert averaged[0].tolist() == [0.5] * 3
        assert averaged[1] is None and averaged[2].tolist() == [0.5] * 2


def test_a_method_that_depends_on_the_batch_and_gathers_nothing_says_so(pair):
    assert "Alike depends on the whole batch" in pair[1]["unfit"]


def test_a_batch_without_equal_shares_is_refused(tmp_path):
    (tmp_path / "matrix.yaml").write_text(TINY)
    done = bench("run", "--processes", 3, cwd=tmp_path)
    assert done.returncode == 2 and "a batch of 16 has no equal shares for 3 processes" in done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The records of a small matrix, made by one process."""
    return results(ran(tmp_path_factory.mktemp("alone"), MATRIX) / "results/tiny")


def agree(found, expected):
    assert found["status"] == expected["status"] == "done"
    assert found["metrics"].keys() == expected["metrics"].keys()
    for name, entry in expected["metrics"].items():
        assert found["metrics"][name]["value"] == pytest.approx(entry["value"], rel=1e-3), name


def test_a_run_by_two_has_the_metrics_of_one_and_outlives_a_process(alone, tmp_path):
    (tmp_path / "matrix.yaml").write_text(FAILING)
    (tmp_path / "bad.py").write_text(PLUGIN)
    done = bench("run", "-j", 1, "--processes", 2, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    found = results(tmp_path / "results/tiny")
    for name, record in alone.items():
        agree(found[name], record)
    reasons = {r["cell"]["regularizer"]: r["reason"] for r in found.values() if r["status"] == "failed"}
    assert reasons == {
        "raises": "RuntimeError: rank 1 of 2: ValueError: of one alone",
        "dies": "RuntimeError: rank 1 of 2 ended with exit code 7",
    }
    made = [json.loads(file.read_text()) for file in tmp_path.glob(".bench/artifacts/*/*/stage.json")]
    shared = {stage["kind"] for stage in made if stage["cost"].get("processes") == 2}
    assert shared == {"features", "tokenizer", "latents", "generator", "samples"}


@pytest.mark.nightly
def test_torchrun_starts_the_processes_of_a_run(alone, tmp_path):
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "latentbench.bench.cli", "run"]
    env, options = environment(), {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(command, env=env, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path / "results/tiny")
    for name, record in alone.items():
        agree(found[name], record)
    assert (
        subprocess.run(command, env=env, **options).returncode == 0
    )  # all is there: nobody waits for a task
