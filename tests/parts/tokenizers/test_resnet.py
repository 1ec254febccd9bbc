"""LZN's representation learning: the ResNet, its views, and what is left of the frame without a decoder."""

import json

import pytest
import torch
from helpers.run import bench_inline

from latentbench.bench.api import ImageSpec, LatentSpec, Noise, Regularizer, Unfit
from latentbench.bench.data.augment import Augmentation, augmented
from latentbench.bench.matrix.load import load_matrix
from latentbench.bench.matrix.yaml_text import MatrixError
from latentbench.bench.models import latents
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import create, get
from latentbench.bench.training.context import Context
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.tokenizer import train_tokenizer
from latentbench.tokenizers.resnet import ResNet

IMAGENET, DIGIT = ImageSpec(3, 224, 224), ImageSpec(1, 8, 8)
MILD = Augmentation(crop=0.8, flip=0.0, strength=0.5, blur=0.0)
SHORT = TrainingBudget(3, 8)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("head", "total"), [(1, 24_032_832), (2, 28_231_232)])
def test_it_has_the_official_number_of_parameters(head, total):
    with torch.device("meta"):
        model = ResNet(IMAGENET, 1, **get("tokenizers", "resnet").sizes["resnet50"], head=head)
        h = model.encode(torch.empty(2, 3, 224, 224))
        assert model.features(torch.empty(2, 3, 224, 224)).shape == (2, 2048)
    assert (count(model), count(model.encoder.backbone)) == (total, 23_508_032)
    assert model.spec == LatentSpec(1, 256) and h.shape == (2, 1, 256)
    groups = {(m.num_groups, m.num_channels) for m in model.modules() if isinstance(m, torch.nn.GroupNorm)}
    assert {number for number, _ in groups} == {32}


def test_small_images_keep_their_resolution_at_first():
    strides = {}
    for side in (32, 128):
        model = ResNet(ImageSpec(3, side, side), 1)
        seen = []
        model.encoder.backbone.layer1.register_forward_hook(
            lambda *given, seen=seen: seen.append(given[2].shape)
        )
        model.encode(torch.zeros(1, 3, side, side))
        strides[side] = side // seen[0][-1]
    assert strides == {32: 1, 128: 4}


def test_it_only_encodes():
    model = ResNet(DIGIT, 1)
    assert not model.decodes and not list(model.decoder.parameters()) and model.heads.keys() == {"encoder"}
    assert model.loss(torch.zeros(1), torch.zeros(1), None) == {}
    with pytest.raises(Unfit, match="ResNet only encodes"):
        model.decode(torch.zeros(1, 1, 32))


class Watched(Regularizer):
    """Keeps what it is given."""

    two_views = True

    def __init__(self, spec):
        super().__init__(spec)
        self.seen = []

    def loss(self, z, h, step):
        self.seen.append(step)
        return {"apart": (h - step.views).square().mean()}


def train(
    regularizer,
    folder,
    tokenizer=None,
    augmentation=MILD,
    budget=SHORT,
    optimizer=({"lr": 1e-2}, {}),
):
    torch.manual_seed(0)
    tokenizer = tokenizer or ResNet(DIGIT, 1, width=8, channels=8)
    state = train_tokenizer(
        tokenizer,
        regularizer,
        create("datasets", "digits"),
        Objective({"l1": Term(1.0, l1)}, augmentation=augmentation),
        budget,
        seed=0,
        optimizer=optimizer,
        context=Context(folder),
    )
    return state, tokenizer


def test_a_two_view_loss_is_given_two_augmentations_of_the_same_images(tmp_path):
    watched = Watched(LatentSpec(1, 8))
    kept = []
    model = ResNet(DIGIT, 1, width=8, channels=8)
    model.encoder.register_forward_pre_hook(lambda _, given: kept.append(given[0].clone()))
    state, _ = train(watched, tmp_path, model)
    assert list(state.curves) == ["step", "apart"] and len(watched.seen) == 3
    for step, other, one in zip(watched.seen, kept[::2], kept[1::2], strict=True):
        assert torch.equal(step.images, one) and not torch.equal(one, other)
        assert step.views.requires_grad and step.views.shape == (8, 1, 8)
        alike = torch.nn.functional.cosine_similarity(one.flatten(1)[:, None], other.flatten(1)[None], dim=2)
        assert alike.diag().mean() > alike.mean() + 0.1


def test_rows_see_the_same_images_whether_or_not_they_compare_views(tmp_path):
    class One(Watched):
        two_views = False

        def loss(self, z, h, step):
            assert step.views is None
            self.seen.append(step)
            return {}

    spec = LatentSpec(16, 8, (4, 4))
    seen = []
    for kind in (Watched, One):
        watched = kind(spec)
        train(
            watched,
            tmp_path / kind.__name__,
            create("tokenizers", "vit", image=DIGIT, expansion=1, width=16),
        )
        seen.append([step.images for step in watched.seen])
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))
    plain = One(spec)
    train(
        plain,
        tmp_path / "plain",
        create("tokenizers", "vit", image=DIGIT, expansion=1, width=16),
        augmentation=None,
    )
    assert not torch.equal(plain.seen[0].images, seen[0][0])


def test_without_a_loss_nothing_is_learned(tmp_path):
    model = ResNet(DIGIT, 1, width=8, channels=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    budget = TrainingBudget(3, 8, refine_steps=2)
    state, model = train(Regularizer(LatentSpec(1, 8)), tmp_path, model, budget=budget)
    assert state.curves == {"step": [1, 2, 3]}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_views_of_an_image_move_to_each_other(tmp_path):
    """Of 64 held-out images, by how many the nearest of the other view's anchors is the image's own."""
    torch.manual_seed(0)
    model, digits = ResNet(DIGIT, 1), create("datasets", "digits")
    images = digits.images("val", torch.arange(64))

    def found():
        with torch.no_grad():
            one, two = (model.encode(augmented(images, Noise(7, (view,)), MILD))[:, 0] for view in "ab")
        return (torch.cdist(one, two).argmin(1) == torch.arange(64)).double().mean().item()

    before = found()
    regularizer = create("regularizers", "lzn_views", spec=model.spec)
    optimizer = ({"lr": 1e-3, "warmup": 5, "ema": 0.0}, {})
    state, model = train(regularizer, tmp_path, model, budget=TrainingBudget(60, 64), optimizer=optimizer)
    aligned = state.curves["align"]
    assert sum(aligned[-10:]) / 10 < sum(aligned[:5]) / 5 - 0.3
    assert found() > before + 0.1


MATRIX = """\
name: views
dataset: {use: shapes, size: 16, count: {train: 96, val: 48}}
budget: {tokenizer_steps: 3, generator_steps: 2, batch: 16}
features: {use: effnet_lite0, resolution: 32}
reference: {use: gaussian}
augment: {crop: 0.5, strength: 0.5, blur: 0}
tokenizers:
  resnet: {width: 8, channels: 8}
regularizers:
  lzn_views: {steps: 4, align_steps: 5}
  none: {}
  softvq_align: {}
generators:
  none: {}
  gaussian: {}
evaluators:
  - linear_probe: {images: 60, strength: 1.0}
  - reconstruction
  - robustness
  - density
  - latents
  - classification
  - cost
"""


def planned(folder, text):
    (folder / "matrix.yaml").write_text(text)
    return make_plan(load_matrix(folder / "matrix.yaml"))


def skipped(plan, generator):
    return {cell.regularizer: cell.skipped for cell in plan.cells if cell.generator == generator}


def test_a_tokenizer_without_a_decoder_reaches_the_leaderboard(tmp_path):
    plan = planned(tmp_path, MATRIX)
    done = bench_inline("run", "--filter", "regularizer=lzn_views|none", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder, found = tmp_path / "results/views", {}
    for file in folder.glob("records/*.json"):
        record = json.loads(file.read_text())
        found[record["cell"]["regularizer"], record["cell"]["generator"]] = record
    scored = found["lzn_views", "none"]
    assert scored["status"] == found["none", "none"]["status"] == "done"
    assert found["lzn_views", "gaussian"]["status"] == found["none", "gaussian"]["status"] == "skipped"
    expected = {"probe_accuracy", "feature_probe_accuracy", "feature_probe_top5", "kNN_NLL", "latent_std"}
    assert expected <= scored["metrics"].keys()
    assert not [name for name in scored["metrics"] if "PSNR" in name or "FD" in name]
    assert set(scored["curves"]["tokenizer"]) == {"step", "align"}
    # Of an encoder, and what a second pass through it and the zones add.
    encoder, views = (scored["cost"][f"{name}_gflop_per_image"] for name in ("tokenizer", "regularizer"))
    assert encoder < views < 1.5 * encoder
    assert "| resnet" in (folder / "leaderboard.md").read_text()
    assert not list(folder.glob("samples/*reconstructions*"))
    again = tmp_path / "again"
    again.mkdir()
    assert planned(again, (folder / "matrix.lock.yaml").read_text()).stages.keys() == plan.stages.keys()


def test_what_does_not_fit_says_why(tmp_path):
    plan = planned(tmp_path, MATRIX)
    why = skipped(plan, "gaussian")
    assert "resnet only encodes" in why["lzn_views"] and why["none"] == why["lzn_views"]
    assert skipped(plan, "none") == {
        "lzn_views": None,
        "none": None,
        "softvq_align": "softvq_align needs the teacher's features of augmented images",
    }
    without = planned(tmp_path, MATRIX.replace("augment: ", "# "))
    assert "compares two views of an image; `augment: {}` makes them" in skipped(without, "none")["lzn_views"]


def test_only_what_is_trained_depends_on_the_augmentation(tmp_path):
    kinds = []
    for crop in ("crop: 0.5", "crop: 0.4"):
        stages = planned(tmp_path, MATRIX.replace("crop: 0.5", crop)).stages.values()
        kinds.append({(stage.kind, stage.id) for stage in stages if "held-out" not in stage.label})
    assert {kind for kind, _ in kinds[0] & kinds[1]} == {"features", "reference"}
    assert {kind for kind, _ in kinds[0] - kinds[1]} == {"tokenizer", "latents", "scores"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("augment: {crop: 2}", "crop must be a number > 0 and <= 1, not 2"),
        ("augment: {crops: 0.5}", "unknown option 'crops'; did you mean 'crop'?"),
        ("augment: simclr", "augment must be a mapping such as `{crop: 0.08}`"),
    ],
)
def test_a_wrong_augmentation_is_named_at_its_place(tmp_path, line, message):
    old = next(one for one in MATRIX.splitlines() if one.startswith("augment"))
    with pytest.raises(MatrixError) as error:
        planned(
            tmp_path,
            MATRIX.replace(old, line).replace("  none: {}\n  gaussian", "  none: {steps: 1}\n  gaussian"),
        )
    problems = {problem.line: problem.message for problem in error.value.problems}
    assert list(problems) == [6, 14] and message in problems[6]
    assert "unknown option of `use: none` 'steps'" in problems[14]


def test_latents_are_of_images_as_they_are():
    model, digits = ResNet(DIGIT, 1, width=8, channels=8).eval(), create("datasets", "digits")
    h = latents.encode(model, digits, "val", "cpu", torch.arange(5))
    with torch.no_grad():
        torch.testing.assert_close(h, model.encode(digits.images("val", torch.arange(5))))
