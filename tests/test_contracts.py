"""What every part promises, tested over `names(kind)`: a new part is tested the moment its file exists."""

import inspect
import re
from functools import cache

import pytest
import safetensors.torch
import torch

from latentbench.bench.api import (
    Flow,
    Generator,
    ImageSpec,
    LatentSpec,
    Likelihood,
    Metric,
    Noise,
    Reference,
    Step,
    Tokenizer,
    Unfit,
)
from latentbench.bench.latents import decoded
from latentbench.bench.registry import create, get, names

IMAGES = [ImageSpec(1, 8, 8), ImageSpec(3, 32, 32), ImageSpec(1, 1, 2)]  # the last: of sets of points
SPECS = [LatentSpec(16, 8, (4, 4)), LatentSpec(6, 4)]
TEACHER, REFERENCE = LatentSpec(16, 12, (4, 4)), LatentSpec(16, 10, (4, 4))
BATCH, CLASSES = 6, 10
FACTS = {
    "classes": CLASSES,
    "teacher_spec": TEACHER,
    "reference_spec": REFERENCE,
    "reference_classes": CLASSES,
}

POINTS = create("datasets", "ring", count=64, val=16)  # for tokenizers that are bound to a dataset
every_image = pytest.mark.parametrize("image", IMAGES, ids=lambda i: f"{i.channels}x{i.height}x{i.width}")
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.tokens}x{s.channels}")
every_classes = pytest.mark.parametrize("classes", [CLASSES, 0])
every_expansion = pytest.mark.parametrize("expansion", [1, 2])


def every(kind):
    return pytest.mark.parametrize("name", names(kind))


def build(kind, name, seed=0, **facts):
    """A part from the facts that its constructor names; skips the test where the part does not fit them."""
    known = inspect.signature(get(kind, name)).parameters
    torch.manual_seed(seed)
    try:
        return create(kind, name, **{key: value for key, value in facts.items() if key in known})
    except (Unfit, ValueError) as reason:
        pytest.skip(str(reason))


def build_regularizer(name, spec, seed=0):
    return build("regularizers", name, seed, spec=spec, **FACTS)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rand_images(spec, n=BATCH):
    return randn(n, spec.channels, spec.height, spec.width).tanh()


def labels_for(classes, n=BATCH):
    """Every sort of label that may come: some classes, and dropped ones; None without classes."""
    return torch.tensor([0, 3, -1, 9, 1, -1])[:n] if classes else None


def some(classes):
    """Labels to sample with."""
    return torch.tensor([0, 3, -1, 9]) if classes else torch.full((4,), -1)


def trainable(module):
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def descend(loss, parameters, steps=3):
    """A few steps of Adam on loss(step); returns the names of parameters that never had a gradient.

    More than one step, as layers that start at zero hide what is before them from the first.
    """
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    seen = set()
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        assert value.isfinite() and value.dim() == 0
        value.backward()
        seen |= {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    return set(parameters) - seen


def moved(module, before):
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def snapshot(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def reload(module, other):
    """`other` with the state of `module`, by way of a safetensors file's bytes."""
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)))
    return other.eval()


def same_shapes(real, meta):
    assert all(value.is_meta for value in meta.state_dict().values())
    shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (real, meta)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "kind, facts",
    [
        ("tokenizers", [{"image": image, "expansion": 1, "dataset": POINTS} for image in IMAGES]),
        ("generators", [{"spec": spec, "classes": CLASSES} for spec in SPECS]),
        ("regularizers", [{"spec": spec, **FACTS} for spec in SPECS]),
    ],
)
def test_every_part_fits_at_least_one_of_the_specs_tested_here(kind, facts):
    for name in names(kind):
        fits = []
        for one in facts:
            try:
                build(kind, name, **one)
                fits.append(one)
            except pytest.skip.Exception:
                pass
        assert fits, f"{name} fits none of the tested specs with its defaults: no other test would see it"


# --- tokenizers ---------------------------------------------------------------------------------------------


@every("tokenizers")
@every_image
@every_expansion
class TestTokenizers:
    def build(self, name, image, expansion, seed=0):
        return build("tokenizers", name, seed, image=image, expansion=expansion, dataset=POINTS)

    def test_shapes_and_round_trip(self, name, image, expansion):
        model, images = self.build(name, image, expansion), rand_images(image)
        spec = model.spec
        assert spec.grid is None or spec.grid[0] * spec.grid[1] == spec.tokens
        h = model.encode(images)
        assert h.shape == (BATCH, spec.tokens, spec.channels * expansion)
        if not model.decodes:
            with pytest.raises(Unfit):
                model.decode(h[..., : spec.channels])
            return
        decoded = model.decode(h[..., : spec.channels])
        assert decoded.shape == images.shape and decoded.isfinite().all()

    def test_an_image_does_not_depend_on_its_batch(self, name, image, expansion):
        model, images = self.build(name, image, expansion).eval(), rand_images(image)
        with torch.no_grad():
            h = model.encode(images)
            z = h[..., : model.spec.channels]
            torch.testing.assert_close(model.encode(images[2:3]), h[2:3], atol=1e-4, rtol=1e-4)
            if model.decodes:
                together = decoded(model, z, None, Noise(0))
            alone = decoded(model, z[2:3], None, Noise(0, (), 2, BATCH))  # the same draw, where there is one
            torch.testing.assert_close(alone, together[2:3], atol=1e-4, rtol=1e-4)

    def test_every_trainable_parameter_moves(self, name, image, expansion):
        model, images = self.build(name, image, expansion), rand_images(image)
        before = snapshot(model)
        step = Step(0, images, None, Noise(0), model.decode)

        def loss(_):
            h = model.encode(images)
            # Uses all channels of h, as a posterior would.
            z = h.unflatten(2, (expansion, -1)).sum(2)
            own = model.loss(images, z, step)
            value = (model.decode(z) - images).abs().mean() if own is None else sum(own.values(), 0 * z.sum())
            # Where nothing is reconstructed, a regularizer's loss alone moves the encoder.
            return value if trainable(model.decoder) else value + z.square().mean()

        assert descend(loss, trainable(model)) == set()
        assert moved(model, before) == set(trainable(model))

    def test_encoder_and_decoder_hold_every_trainable_parameter(self, name, image, expansion):
        model = self.build(name, image, expansion)
        encoder, decoder = ({id(p) for p in part.parameters()} for part in (model.encoder, model.decoder))
        assert {id(p) for p in trainable(model).values()} <= encoder | decoder
        assert not encoder & decoder
        assert set(model.heads) == ({"encoder", "decoder"} if model.decodes else {"encoder"})
        assert id(model.heads["encoder"]) in encoder
        assert id(model.heads["decoder"]) in decoder if model.decodes else not decoder
        assert model.heads["encoder"].shape[0] == model.spec.channels * expansion

    def test_saved_and_loaded_it_gives_the_same(self, name, image, expansion):
        model, images = self.build(name, image, expansion).eval(), rand_images(image)
        other = reload(model, self.build(name, image, expansion, seed=1))
        with torch.no_grad():
            h = model.encode(images)
            assert torch.equal(other.encode(images), h)
            z = h[..., : model.spec.channels]
            assert not model.decodes or torch.equal(other.decode(z), model.decode(z))

    def test_what_a_probe_looks_at_is_a_vector_an_image(self, name, image, expansion):
        model = self.build(name, image, expansion).eval()
        if type(model).features is not Tokenizer.features:
            found = model.features(rand_images(image))
            assert found.dim() == 2 and len(found) == BATCH and found.isfinite().all()

    def test_the_same_seed_gives_the_same_weights(self, name, image, expansion):
        one, two = (self.build(name, image, expansion).state_dict() for _ in range(2))
        assert all(torch.equal(one[key], two[key]) for key in one)

    def test_it_builds_and_runs_on_meta(self, name, image, expansion):
        with torch.device("meta"):
            model = self.build(name, image, expansion)
            h = model.encode(torch.empty(2, image.channels, image.height, image.width))
            assert not model.decodes or model.decode(h[..., : model.spec.channels]).shape[0] == 2
        same_shapes(self.build(name, image, expansion), model)


@every("tokenizers")
@every_image
def test_rows_with_another_expansion_start_from_the_same_weights(name, image):
    one, two = (
        build("tokenizers", name, image=image, expansion=expansion, dataset=POINTS).state_dict()
        for expansion in (1, 2)
    )
    alike = [key for key in one if one[key].shape == two[key].shape]
    # Only the encoder's output layer, made last, may differ.
    assert len(alike) > len(one) / 2 and all(torch.equal(one[key], two[key]) for key in alike)
    assert all(key in alike for key in one if key.startswith("decoder."))


# --- regularizers -------------------------------------------------------------------------------------------


class Scene:
    """A regularizer as the loop holds it, with a batch of hidden values and its step."""

    def __init__(self, name, spec):
        self.regularizer = build_regularizer(name, spec)
        for prior in self.regularizer.priors().values():
            # As if trained: networks whose output starts at zero would say nothing of a latent.
            for index, p in enumerate(prior.requires_grad_(False).eval().parameters()):
                p.add_(0.1 * randn(*p.shape, seed=index))
        self.spec = spec
        self.noise = Noise(7).fork("test")
        self.h = randn(BATCH, spec.tokens, spec.channels * self.regularizer.expansion).requires_grad_()
        self.labels = torch.tensor([0, 3, 1, 9, 1, 5])

    def latent(self, h, noise="latent"):
        return self.regularizer.latent(h, self.noise.fork(noise), self.labels)

    def step(self, index=0):
        known = inspect.signature(type(self.regularizer)).parameters
        features = reference = None
        if "teacher_spec" in known:
            features = randn(BATCH, TEACHER.tokens, TEACHER.channels, seed=1)
        if "reference_spec" in known:
            samples = randn(64, REFERENCE.tokens, REFERENCE.channels, seed=2)
            whole = Reference(samples, torch.arange(64) % CLASSES, REFERENCE.grid)
            reference = self.regularizer.reference(whole).samples[:BATCH]
        noise = self.noise.fork("loss").fork(index)
        decode, images = torch.nn.Flatten(), randn(BATCH, 1, 8, 8).tanh()
        views = randn(*self.h.shape, seed=4) if self.regularizer.two_views else None
        return Step(index, images, self.labels, noise, decode, features, reference, views)

    def losses(self, index=0):
        return self.regularizer.loss(self.latent(self.h), self.h, self.step(index))

    def critics(self):
        return {id(p) for critic in self.regularizer.critics().values() for p in critic.parameters()}


def row(step, i):
    """The step of process i of BATCH, which holds row i of the batch."""

    def take(x):
        return None if x is None else x[i : i + 1]

    noise = Noise(step.noise.seed, step.noise.stream, i, BATCH)
    return Step(
        step.index,
        take(step.images),
        take(step.labels),
        noise,
        step.decode,
        take(step.features),
        take(step.reference),
        take(step.views),
    )


@every("regularizers")
@every_spec
class TestRegularizers:
    def test_latents_have_the_specs_shape(self, name, spec):
        scene = Scene(name, spec)
        assert scene.latent(scene.h).shape == (BATCH, spec.tokens, spec.channels)
        assert scene.latent(scene.h).isfinite().all()

    def test_without_noise_the_latent_is_deterministic(self, name, spec):
        scene = Scene(name, spec)
        one, two = (scene.regularizer.latent(scene.h, None, scene.labels) for _ in range(2))
        assert one.shape == (BATCH, spec.tokens, spec.channels) and torch.equal(one, two)

    def test_noise_alone_decides_the_draw(self, name, spec):
        scene = Scene(name, spec)
        once = scene.latent(scene.h)
        torch.rand(3)  # the global generator moves on
        assert torch.equal(scene.latent(scene.h), once)
        stochastic = not torch.equal(once, scene.regularizer.latent(scene.h, None, scene.labels))
        assert torch.equal(scene.latent(scene.h, "other"), once) != stochastic

    def test_losses_are_finite_scalars_that_reach_the_encoder_and_repeat(self, name, spec):
        scene = Scene(name, spec)
        losses = scene.losses()
        assert all(value.dim() == 0 and value.isfinite() for value in losses.values())
        torch.rand(3)
        assert {key: value.item() for key, value in losses.items()} == {
            key: value.item() for key, value in scene.losses().items()
        }
        assert set(scene.regularizer.balanced) <= set(losses)
        if losses:
            (gradient,) = torch.autograd.grad(sum(losses.values()), scene.h)
            assert gradient.isfinite().all() and gradient.any()

    def test_its_parameters_move_and_critics_and_frozen_ones_do_not(self, name, spec):
        scene = Scene(name, spec)
        regularizer, critics = scene.regularizer, scene.critics()
        mine = {key: p for key, p in trainable(regularizer).items() if id(p) not in critics}
        before = snapshot(regularizer)
        if mine:
            target = randn(BATCH, spec.tokens, spec.channels, seed=3)

            def loss(index):
                return sum(scene.losses(index).values()) + (scene.latent(scene.h) - target).square().mean()

            assert descend(loss, mine) == set()
        assert moved(regularizer, before) == set(mine)

    def test_critics_learn_by_their_own_loss_alone(self, name, spec):
        scene = Scene(name, spec)
        critics = scene.regularizer.critics()
        own = {id(p) for p in scene.regularizer.parameters()}
        for which, critic in critics.items():
            assert {id(p) for p in critic.parameters()} <= own, "critics are saved with the regularizer"
            z, before = scene.latent(scene.h).detach(), snapshot(scene.regularizer)

            def loss(index, which=which, z=z):
                return scene.regularizer.critic_loss(which, z, scene.step(index))

            assert descend(loss, trainable(critic)) == set()
            its = {id(p) for p in critic.parameters()}
            names_of_its = {key for key, p in trainable(scene.regularizer).items() if id(p) in its}
            assert moved(scene.regularizer, before) == names_of_its

    def test_only_a_coupled_latent_depends_on_the_other_rows(self, name, spec):
        scene = Scene(name, spec)
        with torch.no_grad():
            others_changed = torch.cat([scene.h[:1], scene.h[1:].flip(0) + 1])
            one, two = scene.latent(scene.h)[0], scene.latent(others_changed)[0]
        alike = torch.allclose(one, two, atol=1e-5)
        assert alike != (scene.regularizer.couples == "latent")

    def test_an_uncoupled_loss_is_the_mean_over_rows(self, name, spec):
        scene = Scene(name, spec)
        if scene.regularizer.couples:
            pytest.skip(f"couples its {scene.regularizer.couples}")
        scene.regularizer.eval()  # in training a method may watch the batches of all processes
        step = scene.step()
        with torch.no_grad():
            z = scene.latent(scene.h)
            together = scene.regularizer.loss(z, scene.h, step)
            alone = [
                scene.regularizer.loss(z[i : i + 1], scene.h[i : i + 1], row(step, i)) for i in range(BATCH)
            ]
        for key, value in together.items():
            mean = torch.stack([one[key] for one in alone]).mean()
            torch.testing.assert_close(mean, value, atol=1e-5, rtol=1e-4)

    def test_saved_and_loaded_it_gives_the_same(self, name, spec):
        one, two = Scene(name, spec), Scene(name, spec)
        with torch.no_grad():
            for p in two.regularizer.parameters():
                p.add_(1)
        reload(one.regularizer.eval(), two.regularizer)
        assert torch.equal(one.latent(one.h), two.latent(two.h))
        assert {k: v.item() for k, v in one.losses().items()} == {
            k: v.item() for k, v in two.losses().items()
        }

    def test_it_builds_on_meta(self, name, spec):
        with torch.device("meta"):
            meta = build_regularizer(name, spec)
        same_shapes(build_regularizer(name, spec), meta)

    def test_what_it_declares_is_known_to_the_loops(self, name, spec):
        cls = get("regularizers", name)
        assert cls.couples in ("", "loss", "latent")
        assert cls.expansion >= 1 and cls.critic_steps >= 1 and cls.version >= 1


# --- generators ---------------------------------------------------------------------------------------------


def learned(name, spec, classes, seed=0):
    """A generator after a few steps, or fitted, so that layers that start at zero say something."""
    model = build("generators", name, seed, spec=spec, classes=classes)
    if type(model).fit is not Generator.fit:
        model.fit((randn(64, spec.tokens, spec.channels, seed=i), None) for i in range(4))
    else:
        descend(loss_of(model, spec, classes), trainable(model))
    return model.eval()


def loss_of(model, spec, classes):
    z, labels = randn(BATCH, spec.tokens, spec.channels), labels_for(classes)
    return lambda step: sum(model.loss(z, labels, Noise(0).fork(step)).values())


@every("generators")
@every_spec
@every_classes
class TestGenerators:
    def test_every_trainable_parameter_moves(self, name, spec, classes):
        model = build("generators", name, spec=spec, classes=classes)
        if type(model).fit is not Generator.fit:
            assert not trainable(model), "a generator that is fitted leaves nothing to descend"
            return
        before = snapshot(model)
        assert descend(loss_of(model, spec, classes), trainable(model)) == set()
        assert moved(model, before) == set(trainable(model))

    def test_losses_repeat_with_the_same_noise_and_take_absent_labels(self, name, spec, classes):
        model = learned(name, spec, classes)
        if type(model).fit is not Generator.fit:
            return
        z, labels = randn(BATCH, spec.tokens, spec.channels), labels_for(classes)
        values = []
        for noise in (0, 0, 1):
            torch.rand(3)
            values.append(sum(model.loss(z, labels, Noise(noise)).values()).item())
        assert values[0] == values[1]
        assert all(value.isfinite() for value in model.loss(z, None, Noise(0)).values())

    def test_samples_are_finite_repeat_and_follow_the_noise(self, name, spec, classes):
        model, labels = learned(name, spec, classes), some(classes)
        with torch.no_grad():
            for guidance in (1.0, 1.5):
                one = model.sample(labels, guidance, Noise(0))
                assert one.shape == (len(labels), spec.tokens, spec.channels) and one.isfinite().all()
                torch.rand(3)
                assert torch.equal(model.sample(labels, guidance, Noise(0)), one)
                assert not torch.allclose(model.sample(labels, guidance, Noise(1)), one)

    def test_a_sample_does_not_depend_on_its_batch(self, name, spec, classes):
        model, labels = learned(name, spec, classes), some(classes)
        with torch.no_grad():
            together = model.sample(labels, 1.5, Noise(0))
            alone = [model.sample(labels[i : i + 1], 1.5, Noise(0, (), i, 4)) for i in range(len(labels))]
        torch.testing.assert_close(torch.cat(alone), together, atol=1e-3, rtol=1e-3)

    def test_saved_and_loaded_it_gives_the_same(self, name, spec, classes):
        model, labels = learned(name, spec, classes), some(classes)
        other = reload(model, build("generators", name, 1, spec=spec, classes=classes))
        with torch.no_grad():
            assert torch.equal(other.sample(labels, 1.5, Noise(0)), model.sample(labels, 1.5, Noise(0)))

    def test_it_builds_on_meta(self, name, spec, classes):
        with torch.device("meta"):
            meta = build("generators", name, spec=spec, classes=classes)
        same_shapes(build("generators", name, spec=spec, classes=classes), meta)

    def test_a_likelihood_is_one_number_a_latent(self, name, spec, classes):
        if not issubclass(get("generators", name), Likelihood):
            pytest.skip("no likelihood")
        model = learned(name, spec, classes)
        z, labels = randn(BATCH, spec.tokens, spec.channels), labels_for(classes)
        with torch.no_grad():
            values = model.log_prob(z, labels)
            assert values.shape == (BATCH,) and values.isfinite().all()
            one = model.log_prob(z[2:3], None if labels is None else labels[2:3])
            torch.testing.assert_close(one, values[2:3], atol=1e-3, rtol=1e-4)
            assert torch.equal(model.log_prob(z, None), model.log_prob(z, torch.full((BATCH,), -1)))

    def test_a_flow_has_a_velocity_and_hidden_tokens(self, name, spec, classes):
        if not issubclass(get("generators", name), Flow):
            pytest.skip("no flow")
        model = learned(name, spec, classes)
        x, t, labels = randn(BATCH, spec.tokens, spec.channels), torch.rand(BATCH), labels_for(classes)
        with torch.no_grad():
            velocity = model.velocity(x, t, labels)
            same, hidden = model.velocity(x, t, labels, tap=1)
        assert velocity.shape == x.shape and velocity.isfinite().all()
        torch.testing.assert_close(same, velocity)
        assert hidden.dim() == 3 and hidden.shape[0] == BATCH and hidden.isfinite().all()

    def test_options_of_sampling_have_defaults(self, name, spec, classes):
        options = list(inspect.signature(get("generators", name).sample).parameters.values())[4:]
        assert all(o.kind is o.KEYWORD_ONLY and o.default is not o.empty for o in options)


# --- evaluators, datasets, features -------------------------------------------------------------------------


@every("evaluators")
def test_an_evaluator_says_what_its_numbers_mean(name):
    evaluator = create("evaluators", name)
    assert evaluator.metrics and evaluator.scopes() <= {"tokenizer", "generator"}
    for base, metric in evaluator.metrics.items():
        assert isinstance(metric, Metric) and metric.higher_is_better in (True, False, None)
        assert not re.search(r"[\[\]@,|]", base), "base names stand before any [ or @"
        assert metric.about.strip(), f"{base} lacks a sentence for tables"


def test_no_two_evaluators_report_under_one_name():
    owners = [(base, name) for name in names("evaluators") for base in get("evaluators", name).metrics]
    assert len({base for base, _ in owners}) == len(owners), sorted(owners)


@every("datasets")
class TestDatasets:
    def build(self, name):
        dataset = create("datasets", name)
        if dataset.fingerprint() is None:
            pytest.skip("its data is not here")
        return dataset

    def test_images_and_labels_are_as_declared(self, name):
        dataset = self.build(name)
        for split in ("train", "val"):
            n = dataset.size(split)
            index = torch.linspace(0, n - 1, 50).long()
            images, labels = dataset.images(split, index), dataset.labels(split)
            assert images.shape == (50, dataset.image.channels, dataset.image.height, dataset.image.width)
            assert images.dtype == torch.float32 and -1 <= images.min() < images.max() <= 1
            assert torch.equal(dataset.images(split, index[[7, 3]]), images[[7, 3]])
            if dataset.classes:
                assert labels.shape == (n,) and labels.dtype == torch.int64
                assert labels.min() >= 0 and labels.max() < dataset.classes
            else:
                assert labels is None

    def test_the_splits_are_disjoint(self, name):
        dataset = self.build(name)
        seen = []
        for split in ("train", "val"):
            index = torch.arange(min(dataset.size(split), 5000))
            seen.append({image.numpy().tobytes() for image in dataset.images(split, index)})
        # A few pictures are twice in some real sets.
        assert len(seen[0] & seen[1]) <= 0.01 * len(seen[1])

    def test_its_fingerprint_is_stable(self, name):
        one, two = (self.build(name).fingerprint() for _ in range(2))
        assert one == two and re.fullmatch(r"[0-9a-f]{64}", one)


RANDOM = {  # networks whose weights are seldom here, with random ones
    "clip": {"model": "ViT-B-32", "weights": "random"},
    "inception": {"weights": "random"},
    "timm": {"model": "test_vit", "weights": "random", "resolution": 64},
}


@cache
def extractor_named(name):
    extractor = create("features", name, **RANDOM.get(name, {}))
    if extractor.fingerprint() is None:
        pytest.skip("its weights are not here")
    return extractor


@every("features")
class TestFeatures:
    @every_image
    def test_features_are_as_declared_and_repeat(self, name, image):
        extractor = extractor_named(name)
        images = rand_images(getattr(extractor, "image", image), 4)  # some describe one shape alone
        pooled, tokens = extractor(images)
        spec = extractor.spec
        assert pooled.shape == (4, extractor.channels)
        assert tokens.shape == (4, spec.tokens, spec.channels)
        assert spec.grid is None or spec.grid[0] * spec.grid[1] == spec.tokens
        assert pooled.isfinite().all() and not pooled.requires_grad
        again = extractor(images)
        assert torch.equal(again[0], pooled) and torch.equal(again[1], tokens)
        alone = extractor(images[:1])
        torch.testing.assert_close(alone[0], pooled[:1], atol=1e-3, rtol=1e-3)

    def test_images_are_rounded_to_8_bits_first(self, name):
        extractor = extractor_named(name)
        if extractor.protocol()["rounding"] == "none":
            pytest.skip("says that it does not round")
        levels = torch.arange(64).reshape(1, 1, 8, 8) * 3 / 127.5 - 1
        assert torch.equal(extractor(levels)[0], extractor(levels + 0.3 / 127.5)[0])

    def test_its_protocol_names_the_weights_by_hash(self, name):
        extractor = extractor_named(name)
        assert re.fullmatch(r"[0-9a-f]{64}", extractor.fingerprint())
        assert re.search(r"\b[0-9a-f]{64}\b", str(extractor.protocol()))
        assert extractor.name

    def test_outputs_come_in_one_pass_as_they_do_alone(self, name):
        extractor = extractor_named(name)
        images = rand_images(getattr(extractor, "image", IMAGES[1]), 3)
        together = extractor.describe(images, extractor.outputs)
        assert set(together) == set(extractor.outputs) >= {"pooled", "tokens"}
        for output, value in together.items():
            assert len(value) == 3 and value.isfinite().all() and not value.requires_grad
            assert torch.equal(extractor.describe(images, [output])[output], value)
        assert torch.equal(together["pooled"], extractor(images)[0])
