"""`precision: bf16`: every part trains in it, and what needs single precision has it."""

import inspect

import pytest
import torch
from accelerate.state import AcceleratorState
from helpers.diffusers_models import tiny_folder
from helpers.latent_folders import DECODER, moments_folder
from helpers.trained_folders import exported_folder

from latentbench.bench.api import Dataset, ImageSpec, LatentSpec, Reference, Unfit
from latentbench.bench.models.flops import parameters
from latentbench.bench.nn.zones import zones
from latentbench.bench.registry import build, create, get, names
from latentbench.bench.training.context import Context
from latentbench.bench.training.generator import train_generator
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.tokenizer import train_tokenizer
from latentbench.generators.tarflow import TARFlow
from latentbench.regularizers.mmd import imq, mmd
from latentbench.regularizers.repa import vf_loss

TEACHER = LatentSpec(4, 12, (2, 2))
FACTS = {"classes": 3, "teacher_spec": TEACHER, "reference_spec": TEACHER, "reference_classes": 3}
POINTS = create("datasets", "ring", count=64, val=16)


class Noisy(Dataset):
    """Random images of some size."""

    classes = 3

    def __init__(self, image):
        self.image = image
        shape = image.channels, image.height, image.width
        self.all = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0)).tanh()

    def size(self, split):
        return len(self.all)

    def images(self, split, index):
        return self.all[index]

    def labels(self, split):
        return torch.arange(len(self.all)) % 3


@pytest.fixture(autouse=True)
def one_precision_a_process():
    """Accelerate's rule; workers have one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def context(folder, precision):
    folder.mkdir()
    AcceleratorState._reset_state(reset_partial_state=True)
    return Context(folder, precision=precision)


def built(kind, name, **facts):
    known = inspect.signature(get(kind, name)).parameters
    torch.manual_seed(0)
    return create(kind, name, **{key: value for key, value in facts.items() if key in known})


def trained(folder, precision, tokenizer, regularizer, dataset):
    """The losses of two updates."""
    features = torch.randn(64, TEACHER.tokens, TEACHER.channels, generator=torch.Generator().manual_seed(1))
    source = Reference(features, dataset.labels("train"), TEACHER.grid)
    state = train_tokenizer(
        tokenizer,
        regularizer,
        dataset,
        Objective({"l1": Term(1.0, l1)} if tokenizer.decodes else {}),
        TrainingBudget(2, 32),
        seed=0,
        optimizer=({}, {}),
        context=context(folder, precision),
        teacher=lambda images, index: features[index],
        reference=regularizer.reference(source),
    )
    return {name: values for name, values in state.curves.items() if name != "step"}


def compare(found, expected):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values == pytest.approx(expected[name], rel=0.05, abs=0.05), name


@pytest.mark.parametrize("name", names("regularizers"))
def test_every_regularizer_trains_with_losses_near_those_of_single_precision(name, tmp_path):
    losses = {}
    for precision in ("bf16", "fp32"):
        dataset, cls = Noisy(ImageSpec(1, 8, 8)), get("regularizers", name)
        outputs = {"expansion": cls.expansion, "extra": cls.extra}
        tokenizer = built("tokenizers", "vit", image=dataset.image, **outputs)
        try:
            regularizer = built("regularizers", name, spec=tokenizer.spec, **FACTS)
        except Unfit as reason:
            pytest.skip(str(reason))
        losses[precision] = trained(tmp_path / precision, precision, tokenizer, regularizer, dataset)
    compare(losses["bf16"], losses["fp32"])


@pytest.mark.parametrize("name", names("tokenizers"))
def test_so_does_every_tokenizer(name, tmp_path):
    losses = {}
    for precision in ("bf16", "fp32"):
        dataset = POINTS if name == "points" else Noisy(ImageSpec(3, 16, 16))
        facts = {"image": dataset.image, "expansion": 1, "dataset": dataset}
        if name == "diffusers":
            facts["path"] = tiny_folder()
        if name == "cached":
            facts |= {"latents": moments_folder(16), "decoder": DECODER}
        if name == "trained":
            facts["path"] = exported_folder()
        tokenizer = built("tokenizers", name, **facts)
        regularizer = create("regularizers", "none", spec=tokenizer.spec)
        losses[precision] = trained(tmp_path / precision, precision, tokenizer, regularizer, dataset)
    compare(losses["bf16"], losses["fp32"])


GENERATORS = [(name, {}) for name in names("generators")]
GENERATORS += [
    ("lightningdit", {"repa": 0.5, "repa_width": 16}),
    ("sit", {"repa": 1.0, "repa_projector": "conv"}),
    ("lightningdit", {"prediction": "x"}),
    ("mar", {"head": "diffusion"}),
    ("raster_ar", {"head": "diffusion"}),
    ("tarflow", {"conditioning": "adaln"}),
    ("tarflow", {"conditioning": "prefix"}),
]


@pytest.mark.parametrize(("name", "options"), GENERATORS)
def test_so_does_every_generator(name, options, tmp_path):
    features = torch.randn(64, TEACHER.tokens, TEACHER.channels, generator=torch.Generator().manual_seed(1))
    z = torch.randn(64, 16, 8, generator=torch.Generator().manual_seed(0))
    curves = {}
    for precision in ("bf16", "fp32"):
        torch.manual_seed(0)
        facts = {"spec": LatentSpec(16, 8, (4, 4)), "classes": 3, "teacher_spec": TEACHER}
        model = build("generators", name, facts, options)
        if not model.takes_steps():
            assert not parameters(model)
            return
        state = train_generator(
            model,
            lambda index, step: z[index],
            64,
            torch.arange(64) % 3,
            steps=2,
            batch=32,
            seed="0",
            optimizer={},
            context=context(tmp_path / precision, precision),
            teacher=(lambda images, index: features[index]) if model.teacher_spec else None,
        )
        curves[precision] = {key: values for key, values in state.curves.items() if key != "step"}
    compare(curves["bf16"], curves["fp32"])


def half(function):
    with torch.autocast("cpu", torch.bfloat16):
        return function()


def test_zones_distances_and_similarities_are_in_single_precision_under_autocast():
    generator = torch.Generator().manual_seed(0)
    a, e, f = torch.randn(3, 32, 6, generator=generator)
    for function in (
        lambda: zones(a, e, 1e-3, 20),
        lambda: mmd(a[:, None], e[:, None], imq(6)),
        lambda: torch.stack(vf_loss(a.view(4, 8, 6), f.view(4, 8, 6), 0.0, 0.0)),
    ):
        assert torch.equal(half(function), function())


@pytest.mark.parametrize("conditioning", ["embedding", "adaln", "prefix"])
def test_a_likelihood_sums_in_single_precision_under_autocast(conditioning):
    torch.manual_seed(0)
    model = TARFlow(LatentSpec(64, 16, (8, 8)), 3, conditioning=conditioning)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    z, labels = torch.randn(8, 64, 16), torch.arange(8) % 3
    found = half(lambda: model.log_prob(z, labels))
    assert found.dtype == torch.float32
    # In bfloat16 the sums alone, of some -1,500 nats, would be off by up to 4.
    torch.testing.assert_close(found, model.log_prob(z, labels), rtol=2e-3, atol=0.0)
    noise, logdet = half(lambda: model(z, labels))
    assert noise.dtype == logdet.dtype == torch.float32
    assert not torch.equal(logdet, logdet.bfloat16().float())


def test_hidden_tokens_are_regularized_and_decoded_in_single_precision(tmp_path):
    seen = []

    class Seeing(type(create("regularizers", "none", spec=TEACHER))):
        def latent(self, h, noise, labels=None):
            seen.append(h.dtype)
            return super().latent(h, noise, labels)

    dataset = Noisy(ImageSpec(1, 8, 8))
    tokenizer = built("tokenizers", "vit", image=dataset.image, expansion=1)
    trained(tmp_path / "run", "bf16", tokenizer, Seeing(tokenizer.spec), dataset)
    assert set(seen) == {torch.float32}
