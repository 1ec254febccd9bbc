"""The one loop that trains tokenizers, whatever the regularizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..api import Dataset, Noise, Reference, Regularizer, Step, Tokenizer, Unfit, seed_for
from ..data.augment import Augmentation, augmented
from ..models import latents
from ..runtime.prefetch import BatchReader
from ..runtime.processes import ALONE, Group
from . import checkpoint
from .checkpoint import State
from .losses import Adversary, Term, adaptive_weight
from .optimizers import (
    DEFAULTS,
    GENERATOR_DEFAULTS,
    Average,
    adamw,
    group_settings,
    last_steps,
    step_optimizer,
)
from .steps import Context, batch_index, run_steps


def train_tokenizer(
    tokenizer: Tokenizer,
    regularizer: Regularizer,
    dataset: Dataset,
    reconstruction: Mapping[str, Term],
    *,
    steps: int,
    batch: int,
    seed: int,
    optimizer: Sequence[Mapping[str, Any]],
    context: Context,
    teacher: Callable[[Tensor, Tensor], Tensor] | None = None,
    reference: Reference | None = None,
    refine_steps: int = 0,
    probes: Mapping[str, int] | None = None,
    adversary: Adversary | None = None,
    adversary_optimizer: Mapping[str, Any] | None = None,
    augmentation: Augmentation | None = None,
) -> State:
    """Trains both in place for `steps` tokenizer updates and leaves the averaged weights in them.

    Args:
        reconstruction: the reconstruction losses by name.
        refine_steps: further updates of the decoder alone.
        probes: {"every": updates, "images": n}: keeps the latents of the first n images along training.
        optimizer: the tokenizer's and the regularizer's settings; the latter apply to its own parameters,
            and to the groups that they name.
        teacher: (images as the encoder sees them, index) -> teacher features (B, N, F), for methods that ask
            for them.
        reference: in the latent's space, for methods that ask for it.
        adversary: a discriminator that learns along, and whose loss joins the reconstruction losses.
        adversary_optimizer: its settings, over the tokenizer's.
        augmentation: of all training images, drawn anew at every step.
    """
    accelerator = context.accelerator()
    device, group = accelerator.device, context.group
    if group.world > 1 and regularizer.couples and not regularizer.gathers:
        raise Unfit(f"{type(regularizer).__name__} depends on the whole batch: one process must train it")
    size, labels = dataset.size("train"), dataset.labels("train")
    modes(tokenizer.to(device), regularizer.to(device), training=True)
    for term in reconstruction.values():
        if isinstance(term.function, nn.Module):
            term.function.to(device)
    for module in regularizer.priors().values():
        module.requires_grad_(False)
    begins = type(regularizer).begin is not Regularizer.begin
    if begins and not checkpoint.exists(context.work):  # what it changes is in the checkpoint
        torch.manual_seed(seed_for(seed, "tokenizer", "begin"))
        with torch.no_grad():
            first = batch_index(size, batch, 0, seed, "data")
            h = tokenizer.encode(dataset.images("train", first).to(device))
            known = None if labels is None else labels[first].to(device)
            of_first = Noise(seed, ("tokenizer", "begin"))
            regularizer.begin(regularizer.latent(h, of_first, known))
    critics = regularizer.critics()
    learned = {name: [p for p in net.parameters() if p.requires_grad] for name, net in critics.items()}
    of_critics = {id(p) for critic in critics.values() for p in critic.parameters()}
    main, trained = _optimizer(tokenizer, regularizer, optimizer, of_critics)
    optimizers: dict[str, torch.optim.Optimizer] = {"main": accelerator.prepare(main)}
    decoder = [p for p in tokenizer.decoder.parameters() if p.requires_grad]
    if not decoder:  # nothing that could be refined
        refine_steps = 0
    if refine_steps:
        settings = group_settings(DEFAULTS, optimizer[0], group="decoder") | {"steps": None}
        optimizers["refine"] = accelerator.prepare(adamw([(settings, decoder)]))
    for name, parameters in learned.items():
        settings = group_settings(DEFAULTS, *optimizer, group=f"critics.{name}")
        optimizers[name] = accelerator.prepare(adamw([(settings, parameters)]))
    judging: list[nn.Parameter] = []
    judge = group_settings(DEFAULTS, optimizer[0], adversary_optimizer or {})
    if adversary is not None:
        adversary.share(group)
        judging = [p for p in adversary.to(device).parameters() if p.requires_grad]
        optimizers["gan/discriminator"] = accelerator.prepare(adamw([(judge, judging)]))
    # Clipping is of all parameters at once: a method that needs its own says so in its row.
    whole = {key: value for key, value in optimizer[1].items() if key == "clip"}
    top = group_settings(DEFAULTS, optimizer[0], whole)
    # A generator that is trained along is averaged as those are that are trained afterwards.
    joint = GENERATOR_DEFAULTS["ema"] if regularizer.generator() is not None else top["ema"]
    averages = {
        "tokenizer": Average(tokenizer, top["ema"]),
        "regularizer": Average(regularizer, optimizer[1].get("ema", joint)),
    }
    ends = last_steps(optimizers["main"])
    trained_along = {} if adversary is None else {"gan": adversary}
    modules = {"tokenizer": tokenizer, "regularizer": regularizer, **trained_along}
    state = State(modules, optimizers, averages)

    def rows(position: int, stream: str) -> Tensor:
        return group.rows(batch_index(size, batch, position, seed, stream))

    read = BatchReader(dataset, "train", rows, context.loaders, device)

    def seen(images: Tensor, noise: Noise) -> Tensor:
        return images if augmentation is None else augmented(images, noise, augmentation)

    @torch.no_grad()
    def described(images: Tensor, index: Tensor) -> Tensor | None:
        if teacher is None:
            return None
        with accelerator.autocast():
            return teacher(images, index).to(device).float()

    def load(update: int, position: int, stream: str, views: bool = False) -> Step:
        index = rows(position, stream)
        noise = group.noise(Noise(seed, ("tokenizer", stream, str(position))))
        known = None if labels is None else labels[index].to(device)
        images, drawn, other = read(position, stream), None, None
        if views:
            with accelerator.autocast():
                other = tokenizer.encode(seen(images, noise.fork("other view"))).float()
        if reference is not None:
            chosen = batch_index(len(reference.samples), batch, position, seed, stream, "reference")
            drawn = reference.samples[group.rows(chosen)].to(device)
        images = seen(images, noise.fork("view"))
        return Step(
            update,
            images,
            known,
            noise,
            lambda z: latents.decode_batch(tokenizer, z, known, noise.fork("decoder")),
            described(images, index) if update < steps else None,
            drawn,
            other,
        )

    def encode(step: Step) -> tuple[Tensor, Tensor]:
        h = tokenizer.encode(step.images).float()  # latents and their laws are in single precision
        return h, regularizer.latent(h, step.noise.fork("latent"), step.labels)

    def descend(
        one: torch.optim.Optimizer, parameters: list[nn.Parameter], step: int, total: int, clip: float
    ) -> None:
        step_optimizer(one, parameters, step, total, clip, accelerator, group)

    def learn_critics(on: bool) -> None:
        for parameters in (*learned.values(), judging):
            for parameter in parameters:
                parameter.requires_grad_(on)

    def update_critic(name: str, z: Tensor, step: Step) -> Tensor:
        optimizers[name].zero_grad()
        with accelerator.autocast():
            loss = regularizer.critic_loss(name, z, step)
        accelerator.backward(loss)
        clip = group_settings(DEFAULTS, *optimizer, group=f"critics.{name}")["clip"]
        descend(optimizers[name], learned[name], step.index, steps, clip)
        return loss

    def reconstructed(z: Tensor, step: Step) -> tuple[dict[str, Tensor], Tensor | None]:
        """The losses, and the images unless the tokenizer has a loss of its own."""
        own = tokenizer.loss(step.images, z, step)
        if own is not None:
            return own, None
        images = step.decode(z)
        return {name: term(images, step.images, step.index) for name, term in reconstruction.items()}, images

    def fooling(terms: dict[str, Tensor], images: Tensor | None, step: Step) -> dict[str, Tensor]:
        """What the tokenizer gains by fooling the discriminator, weighted, and the weight."""
        if adversary is None or images is None:
            return {}
        options, none = adversary.options, images.new_zeros(())
        if step.index < options.start:
            return {"gan": none, "gan_weight": none}
        # With the batch norms' averages, as in DMVAE's code: the judgement of an image is its own.
        found = adversary.eval().fooled(images, step.noise.fork("gan"))
        weight = torch.full_like(found, options.weight)
        if options.adaptive:
            total, head = torch.stack([*terms.values()]).sum(), tokenizer.heads["decoder"]
            weight = weight * adaptive_weight(total, found, head, group)
        return {"gan": weight * found, "gan_weight": weight}

    def judged(images: Tensor | None, step: Step) -> dict[str, Tensor]:
        """An update of the discriminator."""
        if adversary is None or images is None:
            return {}
        if step.index < adversary.start:
            return {"gan_discriminator": images.new_zeros(())}
        learner = optimizers["gan/discriminator"]
        learner.zero_grad()
        with accelerator.autocast():
            noise = step.noise.fork("discriminator")
            loss = adversary.train().loss(step.images, images.detach(), noise)
        accelerator.backward(loss)
        # Its warm-up and its schedule begin when it does.
        first, whole = adversary.start, steps + refine_steps
        descend(learner, judging, step.index - first, whole - first, judge["clip"])
        return {"gan_discriminator": loss}

    def refine(index: int) -> dict[str, Tensor]:
        """The decoder learns the latents that it will be given: those of the finished encoder."""
        if index == steps:
            average_all()
        modes(tokenizer, regularizer, training=False)
        tokenizer.decoder.train()
        step = load(index, index, "data")
        learn_critics(False)
        optimizers["refine"].zero_grad()
        with accelerator.autocast():
            with torch.no_grad():
                z = encode(step)[1]
            terms, images = reconstructed(z, step)
            gan = fooling(terms, images, step)
        accelerator.backward(sum([*terms.values(), *descended(gan)]))
        descend(optimizers["refine"], decoder, index - steps, refine_steps, top["clip"])
        averages["tokenizer"].update(tokenizer, index)
        learn_critics(True)
        return terms | gan | judged(images, step)

    def average_all() -> None:
        for name, average in averages.items():
            state.modules[name].load_state_dict(average.weights(state.modules[name]))

    def probe() -> None:
        assert probes is not None
        modes(tokenizer, regularizer, training=False)
        count = min(size, probes["images"])
        h = latents.encode(tokenizer, dataset, "train", device, count, group=group)
        known = None if labels is None else labels[:count]
        noise = Noise(seed, ("probe",))
        state.probes[state.step] = latents.draw(regularizer, h, known, noise, batch, device, group)
        modes(tokenizer, regularizer, training=True)

    def update(index: int) -> dict[str, Tensor]:
        if probes is not None and index <= steps and index % probes["every"] == 0:
            probe()
        if index >= steps:
            return refine(index)
        step = load(index, index, "data", regularizer.two_views)
        learn_critics(False)
        optimizers["main"].zero_grad()
        with accelerator.autocast():
            h, z = encode(step)
            terms, images = reconstructed(z, step)
            gan = fooling(terms, images, step)
            own = regularizer.loss(z, h, replace(step, noise=step.noise.fork("loss")))
            own = balance(own, terms, regularizer.balanced, tokenizer.heads["encoder"], group)
        losses = named_once(terms | gan, own, critics)
        if weighted := [*terms.values(), *descended(gan), *own.values()]:  # else nothing is to be learned
            accelerator.backward(sum(weighted))
            descend(optimizers["main"], trained, index, steps, top["clip"])
        averages["tokenizer"].update(tokenizer, index, ends)
        averages["regularizer"].update(regularizer, index, ends)
        learn_critics(True)
        losses |= judged(images, step)
        for turn in range(regularizer.critic_steps if critics else 0):
            # The first update takes the tokenizer's batch; the others have a stream of their own, so that
            # every row's tokenizer sees the same images in the same order.
            if turn:
                step = load(index, index * (regularizer.critic_steps - 1) + turn - 1, "critic")
                with torch.no_grad(), accelerator.autocast():
                    z = encode(step)[1]
            for name in critics:
                noise = step.noise.fork("critic").fork(name)
                losses[name] = update_critic(name, z.detach(), replace(step, noise=noise))
        return losses

    with closing(read):
        run_steps(state, steps + refine_steps, update, context, seed, "tokenizer")
    average_all()
    if probes is not None:
        probe()
    modes(tokenizer, regularizer, training=False)
    return state


def modes(tokenizer: Tokenizer, regularizer: Regularizer, training: bool) -> None:
    """Both in training or in evaluation mode; priors are always in the latter."""
    tokenizer.train(training)
    regularizer.train(training)
    for module in regularizer.priors().values():
        module.eval()


def descended(gan: Mapping[str, Tensor]) -> list[Tensor]:
    """Without the weight, which is for the curves."""
    return [gan["gan"]] if gan else []


def named_once(terms: dict[str, Tensor], own: dict[str, Tensor], critics: Iterable[str]) -> dict[str, Tensor]:
    """The losses of a step together; a name that stands for two of them would hide one."""
    taken = {**dict.fromkeys(terms, "a reconstruction loss"), **dict.fromkeys(critics, "a critic")}
    taken |= {"step": "the curves' axis", "gan_discriminator": "the discriminator's loss"}
    for name in own:
        if name in taken:
            raise ValueError(f"the regularizer calls a loss {name!r}, which is the name of {taken[name]}")
    return terms | own


def balance(
    own: dict[str, Tensor],
    terms: dict[str, Tensor],
    shares: Mapping[str, float],
    head: nn.Parameter,
    group: Group = ALONE,
) -> dict[str, Tensor]:
    """Scales terms by share * |d reconstruction / d head| / |d term / d head|, detached (VQGAN; VA-VAE)."""
    if not shares:
        return own
    total = sum(terms.values())
    target = group.mean(torch.autograd.grad(total, head, retain_graph=True)[0]).norm()  # type: ignore[arg-type]
    balanced = dict(own)
    for name, share in shares.items():
        norm = group.mean(torch.autograd.grad(own[name], head, retain_graph=True)[0]).norm()
        balanced[name] = own[name] * (share * (target / (norm + 1e-4)).clamp(0, 1e8).detach())
    return balanced


def _optimizer(
    tokenizer: Tokenizer,
    regularizer: Regularizer,
    layers: Sequence[Mapping[str, Any]],
    of_critics: set[int],
) -> tuple[torch.optim.AdamW, list[nn.Parameter]]:
    """Parameters fall into groups by facts: a critic's and frozen ones are not trained here."""
    of_tokenizer, of_regularizer = layers
    # A regularizer's own keys are for its own parameters; the groups that it names reach the tokenizer's.
    nested = {key: value for key, value in of_regularizer.items() if key not in DEFAULTS}
    groups, seen = [], set(of_critics)
    modules = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder, "regularizer": regularizer}
    for name, module in modules.items():
        parameters = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in parameters}
        own = of_regularizer if name == "regularizer" else nested
        groups.append((group_settings(DEFAULTS, of_tokenizer, own, group=name), parameters))
    return adamw(groups), [p for _, parameters in groups for p in parameters]
