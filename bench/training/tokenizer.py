"""The one loop that trains tokenizers, whatever the regularizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..api import Dataset, Noise, Reference, Regularizer, Shown, Step, Tokenizer, Unfit, seed_for
from ..api.returned import checked_hidden
from ..data.fixed_order import fixed_order
from ..models import latents
from ..runtime.processes import Group
from . import checkpoint
from .adversary_training import AdversaryTraining
from .checkpoint import State
from .context import Context
from .critics_training import CriticsTraining
from .ema import Average
from .objective import Objective, TrainingBudget, balance, merge_losses
from .optimizers import DEFAULTS, GENERATOR_DEFAULTS, Learner, adamw, group_settings, last_steps
from .reconstruction import Reconstruction, check_shown, reconstruct
from .step_loader import StepLoader
from .steps import run_steps


def train_tokenizer(
    tokenizer: Tokenizer,
    regularizer: Regularizer,
    dataset: Dataset,
    objective: Objective,
    budget: TrainingBudget,
    *,
    seed: int,
    optimizer: Sequence[Mapping[str, Any]],
    context: Context,
    teacher: Callable[[Tensor, Tensor], Tensor] | None = None,
    reference: Reference | None = None,
) -> State:
    """Trains a tokenizer and its regularizer in place and leaves their averaged weights in them.

    Args:
        optimizer: the settings of the tokenizer and of the regularizer. The latter apply to the regularizer's
            own parameters, and to the groups of parameters that they name.
        teacher: maps (images as the encoder sees them, index) to teacher features (B, N, F), for methods that
            ask for them.
        reference: samples in the latent's space, for methods that ask for them.

    Raises:
        Unfit: the regularizer needs the whole batch in one process, or the tokenizer cannot decode what it
            shows.
    """
    accelerator, group = context.accelerator(), context.group
    if group.world > 1 and regularizer.couples and not regularizer.gathers:
        raise Unfit(f"{type(regularizer).__name__} depends on the whole batch: one process must train it")
    check_shown(tokenizer, regularizer)
    losses = [term.function for term in objective.reconstruction.values()]
    for module in (tokenizer, regularizer, *losses):
        if isinstance(module, nn.Module):
            module.to(accelerator.device)
    set_training(tokenizer, regularizer, True)
    for prior in regularizer.priors().values():
        prior.requires_grad_(False)
    augmentation = objective.augmentation
    loader = StepLoader(
        tokenizer, dataset, budget, seed, accelerator, context, augmentation, teacher, reference
    )
    begins = type(regularizer.underlying).begin is not Regularizer.begin
    if begins and not checkpoint.exists(context.work):  # a checkpoint holds what `begin` changes
        torch.manual_seed(seed_for(seed, "tokenizer", "begin"))
        with torch.no_grad():
            images, labels = loader.first_batch()
            noise = Noise(seed, ("tokenizer", "begin"))
            regularizer.begin(regularizer.latent(tokenizer.encode(images), noise, labels))
    if not any(p.requires_grad for p in tokenizer.decoder.parameters()):  # nothing to refine
        budget = replace(budget, refine_steps=0)
    training = TokenizerTraining(
        tokenizer, regularizer, objective, budget, optimizer, loader, accelerator, group
    )
    with closing(loader):
        run_steps(training.state, budget.total, training.update, context, seed, "tokenizer")
    training.finish()
    return training.state


class TokenizerTraining:
    """The optimizers and averaged weights of a tokenizer's training, and what happens in an update."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        regularizer: Regularizer,
        objective: Objective,
        budget: TrainingBudget,
        optimizer: Sequence[Mapping[str, Any]],
        load: StepLoader,
        accelerator: Accelerator,
        group: Group,
    ) -> None:
        self.tokenizer, self.regularizer, self.objective = tokenizer, regularizer, objective
        self.budget, self.load, self.accelerator, self.group = budget, load, accelerator, group
        tokenizer_settings, regularizer_settings = optimizer
        # All parameters are clipped together: a method that needs another norm says so in its row.
        clipping = {key: value for key, value in regularizer_settings.items() if key == "clip"}
        settings = group_settings(DEFAULTS, tokenizer_settings, clipping)
        clip = settings["clip"]
        critics = regularizer.critics()
        groups = _parameter_groups(tokenizer, regularizer, critics, optimizer)
        trained = [p for _, parameters in groups for p in parameters]
        self.learner = Learner(adamw(groups), trained, clip, budget.steps, accelerator, group)
        self.refiner = None
        if budget.refine_steps:
            decoder = [p for p in tokenizer.decoder.parameters() if p.requires_grad]
            refining = group_settings(DEFAULTS, tokenizer_settings, group="decoder") | {"steps": None}
            adam = adamw([(refining, decoder)])
            self.refiner = Learner(adam, decoder, clip, budget.refine_steps, accelerator, group)
        self.critics = CriticsTraining(regularizer, critics, optimizer, budget.steps, accelerator, group)
        self.adversary = None
        if objective.adversary is not None:
            judging = group_settings(DEFAULTS, tokenizer_settings, objective.adversary_optimizer)
            self.adversary = AdversaryTraining(
                objective.adversary, tokenizer, judging, budget.total, accelerator, group
            )
        # A jointly trained generator is averaged like generators that are trained after the tokenizer.
        joint = regularizer.generator() is not None
        decay = regularizer_settings.get("ema", GENERATOR_DEFAULTS["ema"] if joint else settings["ema"])
        averages = {
            "tokenizer": Average(tokenizer, settings["ema"]),
            "regularizer": Average(regularizer, decay),
        }
        self.state = State(self._modules(), self._optimizers(), averages)
        self._last_steps = last_steps(self.learner.optimizer)

    def update(self, index: int) -> dict[str, Tensor]:
        """Update `index` of the tokenizer, or of its decoder alone after the last one; the losses by name."""
        probes, steps = self.budget.probes, self.budget.steps
        if probes is not None and index <= steps and index % probes["every"] == 0:
            self.probe()
        return self.train(index) if index < steps else self.refine(index)

    def train(self, index: int) -> dict[str, Tensor]:
        """An update of tokenizer and regularizer, then of the discriminator, then of the critics."""
        tokenizer, regularizer, averages = self.tokenizer, self.regularizer, self.state.averages
        step = self.load(index, index, "data", views=regularizer.two_views)
        with self._critics_frozen():
            self.learner.zero_grad()
            with self.accelerator.autocast():
                h, z = self.encode(step)
                rebuilt = self.reconstruct(self.shown(z, step), step)
                added = regularizer.loss(z, h, replace(step, noise=step.noise.fork("loss")))
                if regularizer.balanced:
                    head = tokenizer.heads["encoder"]
                    added = balance(added, rebuilt.terms, regularizer.balanced, head, self.group)
            losses = merge_losses(rebuilt.losses, added, self.critics.learners)
            if descended := [*rebuilt.descended, *added.values()]:
                self.learner.descend(sum(descended), index)
            averages["tokenizer"].update(tokenizer, index, self._last_steps)
            averages["regularizer"].update(regularizer, index, self._last_steps)
        losses |= self.update_adversary(rebuilt)

        def further(turn: int) -> tuple[Tensor, Step]:
            step = self.load(index, index * (regularizer.critic_steps - 1) + turn - 1, "critic")
            with torch.no_grad(), self.accelerator.autocast():
                return self.encode(step)[1], step

        return losses | self.critics.update(z, step, further)

    def refine(self, index: int) -> dict[str, Tensor]:
        """An update of the decoder alone, on the latents of the finished encoder's averaged weights."""
        assert self.refiner is not None
        if index == self.budget.steps:
            self._load_averages()
        set_training(self.tokenizer, self.regularizer, False)
        self.tokenizer.decoder.train()
        step = self.load(index, index, "data")
        with self._critics_frozen():
            self.refiner.zero_grad()
            with self.accelerator.autocast():
                with torch.no_grad():
                    z = self.encode(step)[1]
                pairs = [Shown(z, step.images)]
                if self.regularizer.shown_in_refinement:
                    pairs = self.shown(z, step)
                rebuilt = self.reconstruct(pairs, step)
            self.refiner.descend(sum(rebuilt.descended), index - self.budget.steps)
            self.state.averages["tokenizer"].update(self.tokenizer, index)
        return rebuilt.losses | self.update_adversary(rebuilt)

    def encode(self, step: Step) -> tuple[Tensor, Tensor]:
        """h and z of a batch, in single precision like all losses on latents."""
        tokenizer, images = self.tokenizer, step.images
        if tokenizer.training:
            h = tokenizer.encode_in_training(images, step.noise.fork("encoder"))
        else:  # the decoder's refinement
            h = tokenizer.encode(images)
        h = checked_hidden(tokenizer, h, len(images)).float()
        return h, self.regularizer.latent(h, step.noise.fork("latent"), step.labels)

    def shown(self, z: Tensor, step: Step) -> list[Shown]:
        """The pairs of latents and images that the decoder learns from in this update."""
        return [*self.regularizer.shown(z, replace(step, noise=step.noise.fork("shown")))]

    def reconstruct(self, pairs: Sequence[Shown], step: Step) -> Reconstruction:
        fooling = None if self.adversary is None else self.adversary.fooling
        return reconstruct(self.tokenizer, pairs, step, self.objective.reconstruction, fooling)

    def update_adversary(self, rebuilt: Reconstruction) -> dict[str, Tensor]:
        if self.adversary is None or rebuilt.images is None:
            return {}
        return self.adversary.update(rebuilt.images, rebuilt.step)

    def probe(self) -> None:
        """Keeps the latents of some training images as they are at this point of training."""
        load, batch, device = self.load, self.budget.batch, self.accelerator.device
        assert self.budget.probes is not None
        set_training(self.tokenizer, self.regularizer, False)
        chosen = fixed_order(load.size)[: self.budget.probes["images"]]
        h = latents.encode(self.tokenizer, load.dataset, "train", device, chosen, group=self.group)
        labels = None if load.labels is None else load.labels[chosen]
        noise = Noise(load.seed, ("probe",))
        z = latents.draw(self.regularizer, h, labels, noise, batch, device, self.group)
        self.state.probes[self.state.step] = z
        set_training(self.tokenizer, self.regularizer, True)

    def finish(self) -> None:
        """Loads the averaged weights, for use."""
        self._load_averages()
        if self.budget.probes is not None:
            self.probe()
        set_training(self.tokenizer, self.regularizer, False)

    def _load_averages(self) -> None:
        for name, average in self.state.averages.items():
            module = self.state.modules[name]
            module.load_state_dict(average.weights(module))

    @contextmanager
    def _critics_frozen(self) -> Iterator[None]:
        """Lets gradients pass through critics and discriminator but not into their parameters."""
        learners = [*self.critics.learners.values()]
        if self.adversary is not None:
            learners.append(self.adversary.learner)
        for learner in learners:
            learner.requires_grad_(False)
        try:
            yield
        finally:
            for learner in learners:
                learner.requires_grad_(True)

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"tokenizer": self.tokenizer, "regularizer": self.regularizer}
        if self.adversary is not None:
            modules["gan"] = self.adversary.adversary
        return modules

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by their names in checkpoints."""
        learners = {"main": self.learner}
        if self.refiner is not None:
            learners["refine"] = self.refiner
        learners |= self.critics.learners
        if self.adversary is not None:
            learners["gan/discriminator"] = self.adversary.learner
        return {name: learner.optimizer for name, learner in learners.items()}


def set_training(tokenizer: Tokenizer, regularizer: Regularizer, training: bool) -> None:
    """Puts both in training or in evaluation mode; priors are always in evaluation mode."""
    tokenizer.train(training)
    regularizer.train(training)
    for prior in regularizer.priors().values():
        prior.eval()


def _parameter_groups(
    tokenizer: Tokenizer,
    regularizer: Regularizer,
    critics: Mapping[str, nn.Module],
    optimizer: Sequence[Mapping[str, Any]],
) -> list[tuple[dict[str, Any], list[nn.Parameter]]]:
    """Encoder, decoder and regularizer with their settings, without critics and frozen parameters."""
    tokenizer_settings, regularizer_settings = optimizer
    # The regularizer's plain keys are for its own parameters; groups that it names may be the tokenizer's.
    nested = {key: value for key, value in regularizer_settings.items() if key not in DEFAULTS}
    seen = {id(p) for critic in critics.values() for p in critic.parameters()}
    modules = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder, "regularizer": regularizer}
    groups = []
    for name, module in modules.items():
        parameters = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in parameters}
        over = regularizer_settings if name == "regularizer" else nested
        groups.append((group_settings(DEFAULTS, tokenizer_settings, over, group=name), parameters))
    return groups
