"""Every part on a GPU that is pretended: tensors are where they must be, and nothing new waits for it."""

import inspect
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from helpers.diffusers_models import tiny_folder
from helpers.latent_folders import DECODER, moments_folder
from helpers.pretended_gpu import FETCHES, READS, SENDS, SHAPES, Endless, PretendedGpu
from helpers.trained_folders import exported_folder
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from latentbench.bench.api import Noise, Reference, Unfit
from latentbench.bench.contracts import features, generators, regularizers, tokenizers
from latentbench.bench.contracts.common import NoiseDataset, Part
from latentbench.bench.models.latents import IDENTITY, decode_batch
from latentbench.bench.registry import create, get, names
from latentbench.bench.training.context import Context
from latentbench.bench.training.generator import LatentLoader
from latentbench.bench.training.objective import TrainingBudget
from latentbench.bench.training.readings import LossReader
from latentbench.bench.training.step_loader import StepLoader

FILES = {
    "diffusers": lambda: {"path": tiny_folder()},
    "cached": lambda: {"latents": moments_folder(8), "decoder": DECODER},
    "trained": lambda: {"path": exported_folder()},
}
# Those by which the ordinary suite tries the pretended GPU; all others are tried nightly.
OFTEN = {"kl", "lzn_views", "masked", "simflow", "gaussian", "velocity_mlp", "vit", "points"}
FEW = {"steps": 2, "iterations": 2}  # of sampling
SMALL = {"width": 32, "depth": 1, "heads": 2, "blocks": 2, "layers": 1}  # of networks, where they have it
SAMPLING = "sampling: times are computed on the CPU and sent for each evaluation of the network"
FITTED = "once for a fit"

# (file:function, kind of wait): the reason why it stays. What a reader of the source sees is in KNOWN of
# test_waits_in_source.py; here is what really waits.
KNOWN = {
    ("bench/nn/flow_transformer.py:field", SENDS): SAMPLING,
    ("bench/nn/token_heads.py:sample", SENDS): SAMPLING,
    ("generators/mar.py:condition", SENDS): "the numbers of a few tokens",
    ("generators/gaussian.py:fit", SENDS): FITTED,
    ("generators/gaussian.py:cholesky", SENDS): FITTED,
    ("regularizers/simflow.py:_watch", READS): "a collapsed prior ends the training before its next update",
    ("bench/features/effnet_lite.py:_describe", SENDS): "the network moves once, for its first images",
    ("tokenizers/points.py:positions", READS): "points are looked up on the CPU",
    ("tokenizers/points.py:positions", FETCHES): "points are looked up on the CPU",
    ("tokenizers/points.py:positions", SENDS): "points are looked up on the CPU",
    ("tokenizers/points.py:encode", FETCHES): "points are looked up on the CPU",
    ("tokenizers/points.py:encode", SENDS): "points are looked up on the CPU",
}


def every(kind):
    marks = {True: [], False: [pytest.mark.nightly]}
    rows = [pytest.param(name, marks=marks[name in OFTEN]) for name in names(kind)]
    return pytest.mark.parametrize("name", rows)


def taken(function, options):
    """Those of some options that a function or a constructor takes."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known}


def require_known(gpu):
    new = {where: count for where, count in gpu.waits.items() if where not in KNOWN and where[0] != "a test"}
    assert not new, f"the program waits for the GPU: {new}"


@every("regularizers")
def test_a_regularizer_computes_where_its_latents_are(name):
    with PretendedGpu() as gpu:
        try:
            scene = regularizers.Scene(Part("regularizers", name), regularizers.SETTINGS[0], device="cuda")
        except Unfit as reason:
            pytest.skip(str(reason))
        method, z = scene.regularizer, scene.latent(scene.h)
        method.latent(scene.h, None, scene.labels)
        losses = method.loss(z, scene.h, scene.step())
        losses |= {name: method.critic_loss(name, z.detach(), scene.step()) for name in method.critics()}
        shown = method.shown(z, scene.shown_step(0))
        assert z.is_cuda and all(value.is_cuda for value in losses.values())
        assert all(pair.z.is_cuda and pair.images.is_cuda for pair in shown)
    require_known(gpu)


@every("generators")
def test_a_generator_computes_where_its_latents_are(name):
    with PretendedGpu() as gpu:
        part = Part("generators", name, taken(get("generators", name), SMALL))
        scene = generators.Scene(part, generators.SETTINGS[0], device="cuda")
        model = scene.model.train()
        if scene.fitted:
            scene.trained(1)
        else:
            assert all(value.is_cuda for value in scene.terms(model, scene.labels, Noise(0)).values())
        few = taken(model.sample, FEW)
        with torch.no_grad():
            for guidance in generators.GUIDANCES:
                assert model.eval().sample(scene.sample_labels, guidance, Noise(0), **few).is_cuda
    require_known(gpu)


@every("tokenizers")
def test_a_tokenizer_computes_where_its_images_are(name):
    with PretendedGpu() as gpu:
        scene = None
        for setting in tokenizers.SETTINGS:
            try:
                scene = tokenizers.Scene(Part("tokenizers", name, FILES.get(name, dict)()), setting, "cuda")
                break
            except ValueError as reason:  # Unfit too
                unfit = reason
        if scene is None:
            pytest.skip(str(unfit))
        model = scene.model.train()
        assert scene.loss(model, scene.images).is_cuda
        with torch.no_grad():
            z = scene.first(model.eval().encode(scene.images))
            assert z.is_cuda
            try:
                assert not model.decodes or decode_batch(model, z, None, Noise(0)).is_cuda
            except Endless as reason:  # an adaptive solver, whose steps are chosen by values
                assert "bench/nn/ode.py:rk45" in str(reason)
                gpu.waits = {place: n for place, n in gpu.waits.items() if "bench/nn/ode.py" not in place[0]}
    require_known(gpu)


def test_an_extractor_computes_where_its_images_are():
    """Others resize images by PIL, which is in main memory and in their protocol."""
    part = Part("features", "timm", {"model": "test_vit", "weights": "random", "resolution": 64})
    with PretendedGpu():
        scene = features.Scene(part, features.SETTINGS[0], "cuda")
        scene.extractor.resizing = "torch"  # as a teacher's in training
        outputs = scene.extractor.describe(scene.images, scene.extractor.outputs)
        assert all(value.is_cuda for value in outputs.values())


def context(folder):
    return Context(folder, "cuda")


@pytest.fixture
def accelerator():
    """A stand-in for accelerate's, which finds no GPU here; it only says where tensors go."""
    fake = SimpleNamespace(device=torch.device("cuda"), autocast=mock.MagicMock())
    with mock.patch.object(Context, "accelerator", lambda self: fake):
        yield fake


def test_a_generator_s_batches_go_to_the_gpu_without_waiting_for_it(tmp_path, accelerator):
    z, labels = torch.randn(32, 4, 3), torch.arange(32) % 4
    teacher = torch.randn(32, 2, 5)
    with PretendedGpu() as gpu:
        rule = IDENTITY.on("cuda")
        gpu.waits.clear()
        loader = LatentLoader(
            lambda index, step: z[index],
            32,
            labels,
            8,
            0,
            context(tmp_path),
            lambda rows, labels, noise: rule(rows + noise.normal(rows)),
            lambda images, index: teacher[index],
            None,
        )
        for step in range(3):
            rows, chosen, _, (tokens,) = loader(step)
            assert rows.is_cuda and chosen.is_cuda and tokens.is_cuda
        loader.close()
    assert not gpu.waits


def test_a_tokenizer_s_batches_go_to_the_gpu_without_waiting_for_it(tmp_path, accelerator):
    data = NoiseDataset()
    tokenizer = create("tokenizers", "vit", image=data.image, expansion=1, width=16, depth=1, heads=2)
    teacher = torch.randn(64, 2, 5)
    reference = Reference(torch.randn(40, 2, 5), None, None)
    loader = StepLoader(
        tokenizer,
        data,
        TrainingBudget(3, 8),
        0,
        accelerator,
        context(tmp_path),
        teacher=lambda images, index: teacher[index],
        reference=reference,
    )
    with PretendedGpu() as gpu:
        for update in range(3):
            step = loader(update, update, "data")
            for tensor in (step.images, step.labels, step.features, step.reference):
                assert tensor.is_cuda
        loader.close()
    assert not gpu.waits


def test_losses_are_sent_to_the_program_without_waiting_for_the_gpu(tmp_path):
    with PretendedGpu() as gpu, mock.patch.object(torch.cuda, "Event"):
        reader = LossReader(context(tmp_path))
        losses = {
            "l1": torch.ones((), device="cuda"),
            "kl": torch.ones(1, device="cuda", dtype=torch.bfloat16),
        }
        reader.add(1, losses, False)
        assert not [*reader.readings()], "the losses of the last step aren't asked for"
    assert not gpu.waits


# What the pretended GPU finds


class Wrong(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.ones(3)  # no buffer: it stays behind

    def forward(self, x):
        return x * self.scale


def test_a_tensor_that_stays_on_the_cpu_is_an_error():
    with PretendedGpu(), pytest.raises(FakeTensorDeviceMismatchError, match="cuda:0 and cpu"):
        Wrong().to("cuda")(torch.ones(2, 3, device="cuda"))


@pytest.mark.parametrize(
    "wait, kind",
    [
        (lambda x: x.sum().item(), READS),
        (lambda x: bool(x.sum() > 0), READS),
        (lambda x: x[x > 0], SHAPES),
        (lambda x: (x > 0).nonzero(), SHAPES),
        (lambda x: x.cpu(), FETCHES),
        (lambda x: torch.ones(3).to(x), SENDS),
        (lambda x: torch.tensor([1.0], device=x.device), SENDS),
        (lambda x: x.new_tensor([1.0]), SENDS),
        (lambda x: x[torch.tensor([0, 1])], SENDS),
        (lambda x: x.copy_(torch.ones(3)), SENDS),
    ],
)
def test_what_waits_for_the_gpu_is_counted(wait, kind):
    with PretendedGpu() as gpu:
        x = torch.ones(3, device="cuda")
        assert not gpu.waits
        wait(x)
    assert set(gpu.waits) == {("a test", kind)}


def test_a_copy_that_takes_its_turn_isn_t_counted():
    with PretendedGpu() as gpu:
        x = torch.ones(3, device="cuda")
        y = torch.ones(3).to("cuda", non_blocking=True) + x.new_full((3,), 2.0) + Noise(0).normal(x)
        y.to("cpu", non_blocking=True)
    assert not gpu.waits and y.is_cuda
