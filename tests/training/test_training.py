"""The loops: what they share between rows, what they resume, and who moves."""

import pytest
import torch
from torch import nn

from latentbench.bench.api import Dataset, Diverged, Generator, ImageSpec, LatentSpec, Noise, Regularizer
from latentbench.bench.registry import get
from latentbench.bench.training import adversary
from latentbench.bench.training.adversary import Adversarial
from latentbench.bench.training.checkpoint import State
from latentbench.bench.training.context import Context, Stopped
from latentbench.bench.training.ema import Average
from latentbench.bench.training.generator import train_generator
from latentbench.bench.training.losses import Term, l1
from latentbench.bench.training.objective import Objective, TrainingBudget, balance
from latentbench.bench.training.optimizers import DEFAULTS, group_settings, rate
from latentbench.bench.training.steps import batch_index, run_steps
from latentbench.bench.training.tokenizer import train_tokenizer


class Blobs(Dataset):
    """Forty random images, which remember when they were asked for."""

    image, classes = ImageSpec(1, 8, 8), 4

    def __init__(self):
        self.data = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.asked = []

    def size(self, split):
        return len(self.data)

    def images(self, split, index):
        self.asked.append(index.tolist())
        return self.data[index]

    def labels(self, split):
        return torch.arange(40) % 4


class Adversary(Regularizer):
    """Draws its own numbers, has two critics' worth of a critic, and a frozen part."""

    critic_steps = 3

    def __init__(self, spec):
        super().__init__(spec)
        self.scale = nn.Parameter(torch.ones(()))
        self.critic = nn.Linear(spec.channels, 1)
        self.frozen = nn.Linear(spec.channels, 1).requires_grad_(False)
        self.given = []

    def latent(self, h, noise, labels=None):
        return self.scale * h if noise is None else self.scale * h + 0.1 * noise.normal(h)

    def loss(self, z, h, step):
        assert not self.critic.weight.requires_grad
        return {"fool": -self.critic(z).mean() + 0 * torch.rand(())}

    def critics(self):
        return {"critic": self.critic}

    def critic_loss(self, name, z, step):
        assert not z.requires_grad and self.critic.weight.requires_grad
        self.given.append((step.index, step.images.shape[0]))
        return (self.critic(z) - step.noise.normal(z[..., :1])).square().mean()


def parts(regularizer=Regularizer, seed=0):
    torch.manual_seed(seed)
    tokenizer = get("tokenizers", "vit")(
        ImageSpec(1, 8, 8), 1, width=16, depth=1, heads=2, patch=4, channels=4
    )
    return tokenizer, regularizer(tokenizer.spec)


class Begun(Adversary):
    """Has a prior beside, from which its critic begins."""

    def __init__(self, spec):
        super().__init__(spec)
        self.prior = get("generators", "velocity_mlp")(spec, 0, width=8, depth=1)

    def priors(self):
        return {"flow": self.prior}

    def begin(self, z):
        assert z.shape == (16, 4, 4) and not z.requires_grad and not self.prior.training
        nn.init.constant_(self.critic.weight, 0.5)


def train(
    tmp_path,
    tokenizer,
    regularizer,
    dataset=None,
    steps=12,
    stop=None,
    optimizer=({}, {}),
    refine_steps=0,
    probes=None,
    **gan,
):
    tmp_path.mkdir(exist_ok=True)  # a slow machine keeps checkpoints
    context = Context(tmp_path, stopping=stop or (lambda: False))
    return train_tokenizer(
        tokenizer,
        regularizer,
        dataset or Blobs(),
        Objective({"l1": Term(1.0, l1)}, **gan),
        TrainingBudget(steps, 16, refine_steps, probes),
        seed=0,
        optimizer=optimizer,
        context=context,
    )


def weights(*modules):
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def test_every_epoch_shows_every_image_once():
    order = torch.cat([batch_index(10, 4, step, 0, "data") for step in range(5)])
    assert sorted(order[:10].tolist()) == sorted(order[10:].tolist()) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist()


def test_every_row_sees_the_same_images_in_the_same_order(tmp_path):
    plain, adversarial = Blobs(), Blobs()
    train(tmp_path / "a", *parts(), plain)
    train(tmp_path / "b", *parts(Adversary), adversarial)
    assert plain.asked == adversarial.asked[::3]  # the critic's two extra batches have a stream of their own


def test_training_stopped_and_gone_on_with_is_the_same_bit_for_bit(tmp_path):
    straight = parts(Adversary)
    train(tmp_path / "straight", *straight)
    (tmp_path / "stopped").mkdir()
    polled = iter(range(100))
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", *parts(Adversary), stop=lambda: next(polled) == 4)
    resumed = parts(Adversary, seed=1)  # other weights: all must come from the checkpoint
    resumed[1].frozen.load_state_dict(straight[1].frozen.state_dict())
    state = train(tmp_path / "stopped", *resumed)
    assert torch.equal(weights(*straight), weights(*resumed))
    assert state.curves["step"] == list(range(1, 13))


class Judge(nn.Module):
    """A small discriminator with everything that a checkpoint must keep: weights and averages of a norm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3)
        )
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.modes = []

    def forward(self, images, noise):
        learning = [p.requires_grad for p in self.body.parameters()]
        assert len(set(learning)) == 1 and learning[0] == self.training
        self.modes.append(self.training)
        return self.body(images).flatten(1)


ALL_ON = {"lecam": 0.1, "augment": 0.5, "consistency": 1.0}


def judged(seed=0, **options):
    torch.manual_seed(seed)
    return adversary.Adversary(Judge(), Adversarial(**ALL_ON | options))


def test_a_discriminator_resumes_bit_for_bit_through_refining(tmp_path):
    runs = {}
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
        runs[name] = [*parts(Adversary), judged(start=3)]
    more = {"refine_steps": 6, "adversary_optimizer": {"lr": 1e-2, "weight_decay": 0.1}}
    *straight, judge = runs["straight"]
    train(tmp_path / "straight", *straight, adversary=judge, **more)
    *stopped, judge_before = runs["stopped"]
    for update in (6, 9):  # again after the first resumption: polls come once an update
        polled = iter(range(100))
        with pytest.raises(Stopped):
            train(
                tmp_path / "stopped",
                *stopped,
                adversary=judge_before,
                stop=lambda polled=polled, update=update: next(polled) == update,
                **more,
            )
    resumed, judge_after = parts(Adversary, seed=1), judged(seed=1, start=3)
    resumed[1].frozen.load_state_dict(straight[1].frozen.state_dict())
    state = train(tmp_path / "stopped", *resumed, adversary=judge_after, **more)
    assert torch.equal(weights(*straight), weights(*resumed))
    kept = judge.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in judge_after.state_dict().items())
    assert {len(curve) for name, curve in state.curves.items() if name.startswith("gan")} == {18}


def test_a_discriminator_begins_when_it_is_asked_to_and_is_frozen_for_the_tokenizer(tmp_path):
    tokenizer, regularizer = parts()
    judge = judged(augment=0.0, consistency=0.0, start=4, discriminator_start=2)
    before = weights(judge.network.body)
    state = train(tmp_path, tokenizer, regularizer, steps=6, adversary=judge)
    curves = {name: [value != 0 for value in state.curves[name]] for name in state.curves}
    assert curves["gan"] == curves["gan_weight"] == [False] * 4 + [True] * 2
    assert curves["gan_discriminator"] == [False] * 2 + [True] * 4
    assert judge.network.modes == [True, True, False, True, False, True]
    assert not torch.equal(weights(judge.network.body), before)


def test_until_it_begins_a_discriminator_changes_nothing_and_every_row_sees_the_same_images(tmp_path):
    plain, waiting, fooled = (parts(Adversary) for _ in range(3))
    seen = [Blobs() for _ in range(3)]
    train(tmp_path / "plain", *plain, seen[0])
    train(tmp_path / "waiting", *waiting, seen[1], adversary=judged(start=12, discriminator_start=0))
    train(tmp_path / "fooled", *fooled, seen[2], adversary=judged())
    assert torch.equal(weights(*plain), weights(*waiting))
    assert not torch.equal(weights(*plain), weights(*fooled))
    assert seen[0].asked == seen[1].asked == seen[2].asked


def test_an_adaptive_weight_is_in_the_curves_and_a_fixed_one_is_as_given(tmp_path):
    for name, adaptive in (("fixed", False), ("adaptive", True)):
        (tmp_path / name).mkdir()
        judge = judged(weight=0.3, adaptive=adaptive)
        curve = train(tmp_path / name, *parts(), adversary=judge).curves["gan_weight"]
        assert (curve == pytest.approx([0.3] * 12)) is not adaptive


def test_a_discriminator_learns_to_tell_what_it_is_shown():
    torch.manual_seed(0)
    judge = adversary.Adversary(Judge(), Adversarial())
    optimizer = torch.optim.AdamW([p for p in judge.parameters() if p.requires_grad], lr=0.02)
    images, noise = torch.rand(32, 1, 8, 8) * 2 - 1, Noise(0)
    first = judge.loss(images, images * 0.3, noise).item()
    for _ in range(100):
        optimizer.zero_grad()
        loss = judge.loss(images, images * 0.3, noise)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def test_a_generator_that_is_trained_along_is_averaged_and_one_without_parameters_may_be(tmp_path):
    class Along(Regularizer):
        def __init__(self, spec, empty=False):
            super().__init__(spec)
            self.flow = get("generators", "gaussian" if empty else "velocity_mlp")(spec, 0)

        def generator(self):
            return self.flow

        def loss(self, z, h, step):
            terms = {} if not list(self.flow.parameters()) else self.flow.loss(z, None, step.noise)
            return {name: term.mean() for name, term in terms.items()}

    runs = {}
    for ema in (0.0, 0.999):
        (tmp_path / str(ema)).mkdir()
        runs[ema] = parts(Along)
        train(tmp_path / str(ema), *runs[ema], optimizer=({}, {"ema": ema}))
    default = parts(Along)
    train(tmp_path, *default)
    assert torch.equal(weights(default[1]), weights(runs[0.999][1]))
    assert not torch.equal(weights(default[1]), weights(runs[0.0][1]))
    assert torch.equal(weights(default[0]), weights(runs[0.0][0]))  # the tokenizer isn't, like all rows'
    (tmp_path / "empty").mkdir()
    train(tmp_path / "empty", *parts(lambda spec: Along(spec, empty=True)))


def test_begin_comes_once_and_a_prior_stays_as_it_is(tmp_path):
    straight, resumed = parts(Begun), parts(Begun)
    prior = weights(straight[1].prior)
    train(tmp_path / "straight", *straight)
    assert torch.equal(weights(straight[1].prior), prior)
    (tmp_path / "stopped").mkdir()
    polled = iter(range(100))
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", *resumed, stop=lambda: next(polled) == 4)
    fresh = parts(Begun)
    fresh[1].begin = lambda z: pytest.fail("a resumed run began again")
    train(tmp_path / "stopped", *fresh)
    assert torch.equal(weights(*straight), weights(*fresh))


def test_refining_moves_the_decoder_alone_and_resumes_bit_for_bit(tmp_path):
    plain, straight, resumed = (parts(Adversary) for _ in range(3))
    optimizer = ({"ema": 0.9}, {})
    train(tmp_path / "plain", *plain, optimizer=optimizer)
    state = train(tmp_path / "straight", *straight, refine_steps=6, optimizer=optimizer)
    assert state.step == 18 and None not in state.curves["l1"]
    assert [value is None for value in state.curves["fool"]] == [False] * 12 + [True] * 6
    assert torch.equal(weights(plain[0].encoder, plain[1]), weights(straight[0].encoder, straight[1]))
    assert not torch.equal(weights(plain[0].decoder), weights(straight[0].decoder))
    (tmp_path / "stopped").mkdir()
    polled = iter(range(100))
    with pytest.raises(Stopped):
        train(
            tmp_path / "stopped",
            *resumed,
            refine_steps=6,
            optimizer=optimizer,
            stop=lambda: next(polled) == 14,
        )
    train(tmp_path / "stopped", *resumed, refine_steps=6, optimizer=optimizer)
    assert torch.equal(weights(*straight), weights(*resumed))


def test_updates_disturb_the_encoder_and_neither_probes_nor_refining_do(tmp_path):
    tokenizer, regularizer = parts(Adversary)
    drawn = []

    def disturbed(images, noise):
        assert tokenizer.training
        drawn.append(noise.uniform(images[:, 0, 0, 0]))
        return tokenizer.encode(images) + 0.1 * drawn[-1][:, None, None]

    tokenizer.encode_in_training = disturbed
    train(tmp_path, tokenizer, regularizer, refine_steps=4, probes={"every": 5, "images": 6})
    assert len(drawn) == 12 * 3  # each update, and its critic's two further batches
    assert len({tuple(draw.tolist()) for draw in drawn}) == 36


def test_probes_keep_latents_along_training_and_change_nothing(tmp_path):
    plain, probed = parts(Adversary), parts(Adversary)
    train(tmp_path / "plain", *plain)
    probes = {"every": 5, "images": 7}
    state = train(tmp_path / "probed", *probed, probes=probes)
    assert torch.equal(weights(*plain), weights(*probed))
    assert sorted(state.probes) == [0, 5, 10, 12]
    assert all(z.shape == (7, 4, 4) for z in state.probes.values())
    assert not torch.equal(state.probes[0], state.probes[12])
    (tmp_path / "stopped").mkdir()
    polled = iter(range(100))
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", *parts(Adversary), probes=probes, stop=lambda: next(polled) == 7)
    resumed = train(tmp_path / "stopped", *parts(Adversary), probes=probes)
    assert all(torch.equal(resumed.probes[step], z) for step, z in state.probes.items())


def test_critics_learn_by_their_own_loss_and_frozen_networks_do_not(tmp_path):
    tokenizer, regularizer = parts(Adversary)
    critic, frozen = weights(regularizer.critic), weights(regularizer.frozen)
    scale = regularizer.scale.clone()
    train(tmp_path, tokenizer, regularizer, steps=2)
    assert not torch.equal(weights(regularizer.critic), critic)
    assert torch.equal(weights(regularizer.frozen), frozen)
    assert not torch.equal(regularizer.scale, scale)
    assert regularizer.given == [(0, 16)] * 3 + [(1, 16)] * 3


def test_a_group_s_learning_rate_of_zero_keeps_it_still(tmp_path):
    tokenizer, regularizer = parts(Adversary)
    encoder, decoder = weights(tokenizer.encoder), weights(tokenizer.decoder)
    train(tmp_path, tokenizer, regularizer, steps=2, optimizer=({}, {"encoder": {"lr": 0.0}, "lr": 0.5}))
    assert torch.equal(weights(tokenizer.encoder), encoder)
    assert not torch.equal(weights(tokenizer.decoder), decoder)
    assert (weights(tokenizer.decoder) - decoder).abs().max() < 0.01  # 0.5 is for the regularizer's own


def test_a_loss_that_is_not_finite_stops_with_its_name_and_step(tmp_path):
    state = State({}, {}, {})
    update = lambda step: {"kl": torch.tensor(float("inf") if step == 2 else 1.0)}  # noqa: E731
    with pytest.raises(Diverged, match="the loss 'kl' is inf at step 3"):
        run_steps(state, 10, update, Context(tmp_path), 0)


def test_curves_have_a_gap_where_a_loss_is_of_another_phase(tmp_path):
    state, phases = State({}, {}, {}), (("kl",), ("kl", "l1"), ("gan",))
    run_steps(state, 3, lambda step: dict.fromkeys(phases[step], torch.tensor(1.0)), Context(tmp_path), 0)
    found = {"kl": [1, 1, None], "l1": [None, 1, None], "gan": [None, None, 1]}
    assert state.curves == {"step": [1, 2, 3], **found}


def test_balanced_terms_have_their_share_of_the_reconstruction_s_gradient_at_the_head():
    head = nn.Parameter(torch.tensor([1.0, 2.0]))
    terms = {"l1": (3 * head).sum()}
    for scale in (0.1, 10.0):  # however large the term itself is
        own = {"vf": (scale * head).sum(), "other": head.sum()}
        balanced = balance(own, terms, {"vf": 0.2}, head)
        pulled = torch.autograd.grad(balanced["vf"], head)[0]
        assert torch.allclose(pulled, torch.full((2,), 0.2 * 3), rtol=0.01)
        assert balanced["other"] is own["other"]


def test_the_scale_of_a_balanced_term_is_detached_and_bounded():
    head = nn.Parameter(torch.tensor([1.0, 2.0]))
    own = {"vf": head.square().sum()}
    scaled = balance(own, {"l1": (1e9 * head).square().sum()}, {"vf": 1.0}, head)["vf"]
    # The ratio of the gradients is 1e18, and itself a function of the head.
    assert scaled.item() == pytest.approx(1e8 * 5, rel=1e-5)
    assert torch.allclose(torch.autograd.grad(scaled, head)[0], 1e8 * 2 * head, rtol=1e-5)
    still = {"vf": 0 * head.sum()}
    assert balance(still, {"l1": head.sum()}, {"vf": 1.0}, head)["vf"].item() == 0


def test_settings_of_a_group_win_over_its_row_s_and_those_over_the_defaults():
    layers = ({"lr": 1.0, "encoder": {"lr": 2.0}}, {"critics": {"fake": {"lr": 3.0}}})
    assert group_settings(DEFAULTS, *layers)["lr"] == 1.0
    assert group_settings(DEFAULTS, *layers, group="encoder")["lr"] == 2.0
    assert group_settings(DEFAULTS, *layers, group="critics.fake")["lr"] == 3.0
    assert group_settings(DEFAULTS, {}, {}, group="decoder") == DEFAULTS


def test_learning_rates_warm_up_and_follow_their_schedule():
    settings = DEFAULTS | {"lr": 1.0, "warmup": 4, "schedule": "constant"}
    assert [rate(settings, step, 100) for step in (0, 3, 50)] == [0.25, 1.0, 1.0]
    assert rate(settings | {"schedule": "cosine"}, 50, 100) == pytest.approx(0.5)
    assert rate(settings | {"schedule": "cosine"}, 100, 100) == pytest.approx(0.0)


def test_an_average_of_a_constant_is_that_constant_and_lags_behind_a_jump():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    average = Average(module, 0.9)
    for step in range(50):
        average.update(module, step)
    assert average.weights(module)["weight"].item() == pytest.approx(1.0)
    nn.init.constant_(module.weight, 2.0)
    average.update(module, 1000)
    assert average.weights(module)["weight"].item() == pytest.approx(1.1)


class Mean(Generator):
    """Fits the mean of the latents."""

    def fit(self, batches):
        self.seen = torch.cat([z for z, _ in batches])

    def sample(self, labels, guidance, noise):
        return self.seen.mean(0).expand(len(labels), -1, -1)


def test_a_generator_that_fits_sees_every_latent_once(tmp_path):
    z = torch.arange(10.0)[:, None, None]
    model = Mean(LatentSpec(1, 1), 0)
    read = lambda index, step: z[index]  # noqa: E731
    settings = {"steps": 5, "batch": 4, "seed": "0.0", "optimizer": {}, "context": Context(tmp_path)}
    train_generator(model, read, 10, None, **settings)
    assert torch.equal(model.seen, z)


def test_a_decoder_that_stands_still_ends_as_its_average_and_is_refined_from_there(tmp_path):
    ended, settings = [], {"ema": 0.9, "schedule": "constant", "decoder": {"steps": 4}}
    for steps in (4, 12):
        tokenizer, regularizer = parts()
        train(tmp_path / f"{steps}", tokenizer, regularizer, steps=steps, optimizer=(settings, {}))
        ended.append(weights(tokenizer.decoder))
    assert torch.equal(*ended)
    train(tmp_path / "on", tokenizer, regularizer, steps=0, refine_steps=3, optimizer=(settings, {}))
    assert not torch.equal(weights(tokenizer.decoder), ended[1])
