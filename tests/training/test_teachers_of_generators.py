"""Generators that learn from a teacher get the features of the images of their batch's latents."""

import pytest
import torch
import yaml
from helpers.image_folders import class_folders, image_folder
from helpers.run import bench_inline, fields_of
from torch import nn

from latentbench.bench.api import Generator, LatentSpec
from latentbench.bench.matrix.load import load_matrix, resolved
from latentbench.bench.plan.make import make_plan
from latentbench.bench.registry import build, create, get
from latentbench.bench.training.context import Context, Stopped
from latentbench.bench.training.generator import train_generator

SPEC, TEACHER = LatentSpec(4, 6, (2, 2)), LatentSpec(16, 12, (4, 4))
MATRIX = """\
name: taught
dataset: {use: digits}
budget: {tokenizer_steps: 2, generator_steps: 4, batch: 16}
features: {use: timm, model: test_vit.r160_in1k, weights: random, resolution: 32}
teacher: {use: effnet_lite0, resolution: 32}
samples: 16
tokenizers: {vit: {width: 16, depth: 1, channels: 4}}
regularizers: {none: {}}
generators:
  plain: {use: lightningdit, width: 16, depth: 2, heads: 2, sampler: {steps: 2}}
  without: {use: lightningdit, width: 16, depth: 2, heads: 2, repa: 0, sampler: {steps: 2}}
  taught: {use: lightningdit, width: 16, depth: 2, heads: 2, repa: 0.5, repa_width: 8, sampler: {steps: 2}}
  own:
    {use: sit, width: 16, depth: 2, heads: 2, repa: 1.0, repa_projector: conv, sampler: {steps: 2},
     teacher: {use: effnet_lite0, resolution: 64}}
evaluators: [generation, cost]
"""


class Listening(Generator):
    """Keeps what its loss is given."""

    def __init__(self):
        super().__init__(SPEC, 0)
        self.teacher_spec, self.weight, self.heard = TEACHER, nn.Parameter(torch.ones(())), []

    def loss(self, z, labels, noise, features=None):
        self.heard.append((z.clone(), features))
        return {"loss": self.weight * z.mean()}


def heard(tmp_path, dataset, images, teacher):
    size = dataset.size("train")
    latents = dataset.images("train", torch.arange(size)).mean((2, 3)).repeat(1, 8).view(size, 4, 6)
    model = Listening()
    train_generator(
        model,
        lambda index, step: latents[index],
        size,
        None,
        steps=5,
        batch=4,
        seed=0,
        optimizer={},
        context=Context(tmp_path / "work"),
        teacher=teacher,
        images=images,
    )
    return model.heard


def test_decoded_images_are_those_of_the_latents_mirrored_copies_included(tmp_path):
    dataset = image_folder(class_folders(tmp_path / "images"), mirror=True)

    def teacher(images, index):
        assert torch.equal(images, dataset.images("train", index))
        return images.mean((2, 3)).repeat(1, 64).view(len(images), 16, 12)

    found = heard(tmp_path, dataset, dataset, teacher)
    assert len(found) == 5
    for z, features in found:
        torch.testing.assert_close(features[:, 0, :3], z[:, 0, :3])


def test_stored_features_are_those_of_the_latents(tmp_path):
    dataset = create("datasets", "shapes", size=8, count={"train": 24, "val": 8})
    means = dataset.images("train", torch.arange(24)).mean((2, 3))
    stored = means.repeat(1, 64).view(24, 16, 12)
    for z, features in heard(tmp_path, dataset, None, lambda images, index: stored[index]):
        torch.testing.assert_close(features[:, 0, :3], z[:, 0, :3])


def test_a_stopped_training_goes_on_with_the_features_that_it_would_have_had(tmp_path):
    dataset = image_folder(class_folders(tmp_path / "images"))

    def trained(work, stop_at=None):
        asked = [0]

        def stopping():
            asked[0] += 1
            return asked[0] == stop_at

        (tmp_path / work).mkdir(exist_ok=True)
        torch.manual_seed(0)
        facts = {"spec": SPEC, "classes": 0, "teacher_spec": TEACHER}
        model = build(
            "generators", "lightningdit", facts, {"width": 8, "heads": 2, "repa": 1.0, "repa_width": 8}
        )
        latents = torch.randn(48, 4, 6, generator=torch.Generator().manual_seed(0))
        state = train_generator(
            model,
            lambda index, step: latents[index],
            48,
            None,
            steps=9,
            batch=4,
            seed=0,
            optimizer={},
            context=Context(tmp_path / work, stopping=stopping),
            teacher=lambda images, index: images.mean((2, 3)).repeat(1, 64).view(len(images), 16, 12),
            images=dataset,
        )
        return state.curves

    undisturbed = trained("whole")
    with pytest.raises(Stopped):
        trained("stopped", stop_at=4)
    assert trained("stopped") == undisturbed and len(undisturbed["repa"]) == 9


def planned(folder, text):
    (folder / "m.yaml").write_text(text)
    return make_plan(load_matrix(folder / "m.yaml"))


def test_only_a_row_that_is_aligned_depends_on_a_teacher(tmp_path):
    plan = planned(tmp_path, MATRIX)
    stages = {s.label.split(" · ")[2]: s for s in plan.stages.values() if s.kind == "generator"}
    assert set(stages) == {"plain", "taught", "own"}  # `repa: 0` is trained as the plain row is
    assert "repa" not in stages["plain"].config["generator"]["options"]
    assert "teacher" not in stages["plain"].parents and "teacher_spec" not in stages["plain"].config
    used = [plan.stages[stages[name].parents["teacher"]].config["extractor"] for name in ("taught", "own")]
    assert [extractor["options"]["resolution"] for extractor in used] == [32, 64]


def test_the_lock_keeps_a_generators_own_teacher(tmp_path):
    (tmp_path / "m.yaml").write_text(MATRIX)
    matrix = load_matrix(tmp_path / "m.yaml")
    (tmp_path / "lock.yaml").write_text(yaml.safe_dump(resolved(matrix), sort_keys=False))
    again = load_matrix(tmp_path / "lock.yaml").generators
    assert again == matrix.generators and again[-1].teacher.options["resolution"] == 64


@pytest.mark.parametrize("decoding", [False, True], ids=["stored", "decoded"])
def test_a_run_learns_from_the_teacher_and_says_who_taught_it(decoding, tmp_path):
    text = MATRIX
    if decoding:
        class_folders(tmp_path / "images")
        text = text.replace("{use: digits}", f"{{use: imagefolder, root: {tmp_path / 'images'}, size: 8}}")
    (tmp_path / "m.yaml").write_text(text)
    done = bench_inline("run", "-m", "m.yaml", cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    records = {f.stem.split("--")[3]: fields_of(f) for f in tmp_path.glob("results/taught/records/*.json")}
    for name in ("plain", "taught", "own"):
        learns = name != "plain"
        assert ("repa" in records[name]["curves"]["generator"]) == learns
        assert ("effnet_lite0" in records[name]["provenance"]["taught_by"]) == learns
    assert all(-1 <= value <= 1 for value in records["own"]["curves"]["generator"]["repa"])
    same = [
        {k: v["value"] for k, v in records[n]["metrics"].items() if "FD" in k} for n in ("plain", "without")
    ]
    assert same[0] == same[1]


def test_the_same_network_is_what_a_row_with_alignment_starts_from():
    states = []
    for repa in (0.0, 0.5):
        torch.manual_seed(0)
        facts = {"spec": SPEC, "classes": 3, "teacher_spec": TEACHER}
        states.append(
            build("generators", "lightningdit", facts, {"width": 8, "heads": 2, "repa": repa}).state_dict()
        )
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert len(states[1]) > len(states[0])


def test_alignment_without_a_teacher_or_with_a_depth_that_is_not_there_is_refused():
    part = get("generators", "sit")
    with pytest.raises(ValueError, match="repa is for generators of a matrix"):
        part(SPEC, 3, repa=0.5)
    with pytest.raises(ValueError, match="repa_depth = 4 is none of the blocks 1 to 3"):
        part(SPEC, 3, repa_depth=4)
