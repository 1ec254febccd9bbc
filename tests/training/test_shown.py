"""Who sees the pairs that a regularizer shows to the decoder, and who sees the latent itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from latentbench.bench.api import FlowTokenizer, LatentSpec, Noise, Regularizer, Shown, Step, Unfit
from latentbench.bench.contracts.common import LinearTokenizer, NoiseDataset, PatchTokenizer
from latentbench.bench.nn.corruption import Corruption
from latentbench.bench.registry import create
from latentbench.bench.training.adversary import Adversarial, Adversary, discriminator
from latentbench.bench.training.context import Context
from latentbench.bench.training.losses import Term, l1, l2
from latentbench.bench.training.objective import Objective, TrainingBudget
from latentbench.bench.training.reconstruction import reconstruct
from latentbench.bench.training.tokenizer import train_tokenizer

SPEC = LatentSpec(16, 8, (4, 4))
LOSSES = {"l1": Term(1.0, l1), "l2": Term(0.5, l2)}


class Plain(Regularizer):
    """Shows what no regularizer shows, by a method of its own."""

    def shown(self, z, step):
        assert step.noise.stream[-1] == "shown"
        return [Shown(z, step.images)]


class Zeros(Regularizer):
    """Shows zeros, and keeps the latents that its other methods get."""

    def __init__(self, spec, refined=False):
        super().__init__(spec)
        self.critic = nn.Linear(8, 1)
        self.seen, self.shown_in_refinement = [], refined

    def shown(self, z, step):
        return [Shown(0 * z, step.images)]

    def begin(self, z):
        self.seen.append(z)

    def loss(self, z, h, step):
        self.seen.append(z)
        return {"pull": 0.1 * z.square().mean()}

    def critics(self):
        return {"critic": self.critic}

    def critic_loss(self, name, z, step):
        self.seen.append(z)
        return self.critic(z).square().mean()


class Smaller(Regularizer):
    """Shows latents and images, and both at half their size with weight 0.5."""

    regrids = True

    def shown(self, z, step):
        small = nn.functional.avg_pool2d(z.mT.unflatten(2, (4, 4)), 2).flatten(2).mT
        images = nn.functional.avg_pool2d(step.images, 2)
        return [Shown(z, step.images), Shown(small, images, (2, 2), 0.5)]


def train(regularizer, kind=LinearTokenizer, steps=3, refine=0, gan=False, probes=None, folder=None):
    """The state and the weights of a tokenizer after a few steps."""
    data = NoiseDataset()
    torch.manual_seed(0)
    tokenizer, adversary = kind(data.image, regularizer.encoder_outputs, SPEC), None
    if gan:
        options = Adversarial(width=4, layers=1)
        adversary = Adversary(discriminator(options, data.image), options)
    state = train_tokenizer(
        tokenizer,
        regularizer,
        data,
        Objective(LOSSES, adversary),
        TrainingBudget(steps, 16, refine_steps=refine, probes=probes),
        seed=0,
        optimizer=({"warmup": 0}, {}),
        context=Context(Path(folder)),
    )
    return state, {name: p.detach().clone() for name, p in tokenizer.named_parameters()}


@pytest.mark.parametrize("gan", [False, True])
def test_a_plain_pair_trains_as_no_pair_bit_for_bit(gan, tmp_path):
    options = {"gan": gan, "steps": 4, "refine": 3}
    runs = [train(Regularizer(SPEC), folder=tmp_path / "a", **options)]
    runs.append(train(Plain(SPEC), folder=tmp_path / "b", **options))
    (first, weights), (second, others) = runs
    assert first.curves == second.curves
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("name", ["eq", "scale_eq"])
def test_smaller_images_train_against_an_adaptive_discriminator_and_repeat_bit_for_bit(name, tmp_path):
    options = {"eq": {"least": 0.75, "probability": 0.7}, "scale_eq": {}}[name]

    def run(folder, steps=8):
        regularizer = create("regularizers", name, spec=SPEC, on={"kl": {"weight": 1e-3}}, **options)
        return train(regularizer, PatchTokenizer, steps, refine=2, gan=True, folder=tmp_path / folder)

    (state, weights), (_, same) = run("a"), run("b")
    values = [value for curve in state.curves.values() for value in curve if value is not None]
    assert torch.tensor(values).isfinite().all()  # the decoder's refinement has no kl, and no second pair
    assert min(state.curves["gan_weight"]) > 0 and set(state.curves) >= {"l1", "kl", "gan_discriminator"}
    assert ("l1/2" in state.curves) == (name == "scale_eq")
    assert all(torch.equal(weights[key], same[key]) for key in weights)


def test_only_the_decoder_sees_what_is_shown(tmp_path):
    regularizer = Zeros(SPEC)
    state, weights = train(regularizer, folder=tmp_path, probes={"every": 2, "images": 8})
    assert len(regularizer.seen) == 1 + 2 * 3  # begin, then loss and critic in each update
    assert all(z.any() for z in (*regularizer.seen, *state.probes.values()))
    # From zeros the decoder learns its biases alone.
    torch.manual_seed(0)
    start = LinearTokenizer(NoiseDataset().image, 8, SPEC).state_dict()
    assert torch.equal(weights["decoder.1.weight"], start["decoder.1.weight"])
    assert not torch.equal(weights["decoder.1.bias"], start["decoder.1.bias"])


@pytest.mark.parametrize("refined", [False, True])
def test_refinement_shows_the_latent_itself_unless_a_method_says_otherwise(refined, tmp_path):
    regularizer = Zeros(SPEC, refined)
    before, after = (train(regularizer, folder=tmp_path / str(refine), refine=refine)[1] for refine in (0, 2))
    same = torch.equal(before["decoder.1.weight"], after["decoder.1.weight"])
    assert same == refined


def test_a_further_pair_adds_its_weighted_losses_under_names_of_its_own(tmp_path):
    state, _ = train(Smaller(SPEC), PatchTokenizer, folder=tmp_path)
    curves = state.curves
    assert {"l1", "l2", "l1/2", "l2/2"} <= set(curves)

    tokenizer = PatchTokenizer(NoiseDataset().image, 8, SPEC)
    images = NoiseDataset().images("train", torch.arange(5))
    step = Step(0, images, None, Noise(0), lambda z, grid=None: tokenizer.decode(z, grid))
    pairs = Smaller(SPEC).shown(tokenizer.encode(images), step)
    rebuilt = reconstruct(tokenizer, pairs, step, LOSSES, None)
    small = tokenizer.decode(pairs[1].z, (2, 2))
    assert rebuilt.added["l1/2"] == 0.5 * l1(small, pairs[1].images)
    assert rebuilt.added["l2/2"] == 0.5 * 0.5 * l2(small, pairs[1].images)
    assert rebuilt.images.shape == images.shape
    assert sum(rebuilt.descended) == sum([*rebuilt.terms.values(), *rebuilt.added.values()])


def test_the_discriminator_judges_the_first_pair_alone():
    tokenizer = PatchTokenizer(NoiseDataset().image, 8, SPEC)
    images, judged = NoiseDataset().images("train", torch.arange(5)), []
    step = Step(0, images, None, Noise(0), lambda z, grid=None: tokenizer.decode(z, grid))
    pairs = Smaller(SPEC).shown(tokenizer.encode(images), step)[::-1]

    def fooling(terms, images, step):
        judged.append((set(terms), images.shape, step.images.shape))
        return {"gan": images.mean(), "gan_weight": images.mean()}

    rebuilt = reconstruct(tokenizer, pairs, step, LOSSES, fooling)
    assert judged == [({"l1", "l2"}, (5, 1, 4, 4), (5, 1, 4, 4))]
    assert rebuilt.step.images is pairs[0].images and step.images is images
    assert len(rebuilt.descended) == 5 and "gan_weight" in rebuilt.losses


def test_a_pair_on_another_grid_is_refused_where_the_decoder_has_one_grid(tmp_path):
    with pytest.raises(Unfit, match="Smaller gives the decoder latents on other grids"):
        train(Smaller(SPEC), LinearTokenizer, folder=tmp_path)


def test_tokenizers_that_only_encode_or_have_a_loss_of_their_own_are_refused():
    tokenizer = PatchTokenizer(NoiseDataset().image, 8, SPEC)
    images = torch.zeros(2, 1, 8, 8)
    step = Step(0, images, None, Noise(0), tokenizer.decode)
    pairs = Smaller(SPEC).shown(tokenizer.encode(images), step)
    tokenizer.loss = lambda images, z, step: {"own": z.mean() + images.mean()}
    assert reconstruct(tokenizer, pairs[:1], step, LOSSES, None).images is None
    with pytest.raises(Unfit, match="has a loss of its own, which takes one pair"):
        reconstruct(tokenizer, pairs, step, LOSSES, None)


def test_flows_that_draw_images_get_no_grid():
    class Drawn(FlowTokenizer):
        def decode(self, z, labels=None, noise=None):
            return z

    from latentbench.bench.models.latents import decode_batch

    z = torch.zeros(1, 2, 3)
    assert decode_batch(Drawn(NoiseDataset().image, 1), z, None, None) is z


def test_a_corruption_has_the_facts_and_methods_of_the_regularizer_on_which_it_stands():
    facts = {"classes": 10, "teacher_spec": SPEC, "reference_spec": SPEC, "reference_classes": 10}
    methods = {"kl": {"weight": 0.5}, "lzn": {}, "aae": {}, "vf": {}, "dmvae": {}, "simflow": {}, "mmd": {}}
    for name, options in methods.items():
        torch.manual_seed(0)
        corrupted = create("regularizers", "denoising", spec=SPEC, on={name: options}, gamma=1.0, **facts)
        alone = corrupted.underlying
        assert type(alone).__name__ != "Denoising" and corrupted.encoder_outputs == alone.encoder_outputs
        for fact in ("expansion", "extra", "critic_steps", "couples", "gathers", "two_views", "balanced"):
            assert getattr(corrupted, fact) == getattr(alone, fact), (name, fact)
        assert corrupted.priors() == alone.priors() and corrupted.critics() == alone.critics()
        assert type(corrupted.generator()) is type(alone.generator())
        h = torch.randn(6, 16, alone.encoder_outputs)
        labels = torch.arange(6)
        z = corrupted.latent(h, Noise(0), labels)
        assert torch.equal(z, alone.latent(h, Noise(0), labels))
        step = Step(0, torch.zeros(6, 1, 8, 8), labels, Noise(1), nn.Flatten(), z, z)
        expected = alone.loss(z, h, step)
        assert {k: v.item() for k, v in corrupted.loss(z, h, step).items()} == pytest.approx(
            {k: v.item() for k, v in expected.items()}
        )


def test_every_method_of_a_regularizer_but_shown_is_passed_on():
    own = {name for name, value in vars(Regularizer).items() if callable(value) and name[0] != "_"}
    assert own - set(vars(Corruption)) == {"shown"}


def test_a_corruption_on_a_corruption_is_refused():
    with pytest.raises(ValueError, match="on: masked itself changes what the decoder is given"):
        create("regularizers", "eq", spec=SPEC, on="masked")


def test_a_smaller_pair_keeps_patch_and_dtype_under_autocast():
    tokenizer = PatchTokenizer(NoiseDataset().image, 8, SPEC)
    with torch.autocast("cpu", torch.bfloat16):
        z = tokenizer.encode(torch.zeros(2, 1, 8, 8)).float()
        step = Step(0, torch.zeros(2, 1, 8, 8), None, Noise(0), tokenizer.decode)
        for pair in Smaller(SPEC).shown(z, replace(step, noise=Noise(1))):
            assert tokenizer.decode(pair.z, grid=pair.grid or (4, 4)).shape == pair.images.shape
