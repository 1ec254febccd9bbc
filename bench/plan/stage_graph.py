"""The stages of a matrix: for each kind of stage its config, its parents and, from both, its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import registry
from ..api import Evaluator, Generator, Unfit
from ..matrix.matrix import Matrix, MatrixRow, Seed
from ..matrix.parts import JOINT, NONE
from ..models import build
from ..options.options import REQUIRED, check_options, options_of
from ..options.plain_data import plain
from ..stages.inputs import features_role
from ..store.stage import FRAME_VERSION, Stage, stage_id
from .autoguidance import WEAK, check_weak, weak_row
from .check_training import check_gradient, check_modules, check_pairs, check_training
from .meta_parts import DatasetPlan, MetaParts, base_class, base_row
from .part_config import key_options, part_config, plain_facts, with_files
from .plan import TRAINED, Built, Plan
from .shape_difference import shape_difference
from .snapshots import kept
from .stored_rows import check_stored

BARE = MatrixRow("none", "none", {})  # the regularizer of a tokenizer that others start from

Parents = dict[str, str]  # role -> the parent stage's id
Rows = tuple[MatrixRow, MatrixRow, MatrixRow]  # tokenizer, regularizer, generator


class StageGraph:
    """Adds stages to `plan`, parents before the stages that need them and equal stages once.

    Methods raise `Unfit` where parts don't fit each other and `Refused` where a part has a problem.
    """

    def __init__(self, matrix: Matrix, parts: MetaParts, device: str) -> None:
        self.matrix, self.parts, self.plan = matrix, parts, Plan()
        self.env = {"threads": matrix.threads, "precision": matrix.precision, "device": device}
        self._references: dict[tuple[str, ...], str] = {}  # a fingerprint may be that of a large file
        self._trained: dict[tuple[str, ...], Parents] = {}

    def dataset(self, row: MatrixRow) -> DatasetPlan:
        """A dataset with the stages of the features that metrics compare."""
        for evaluator in self.matrix.evaluators:
            self.parts.evaluator(evaluator)
        data, stages = self.parts.dataset(row), {}
        for place, extractor in enumerate(self.matrix.features):
            by_role: dict[str, list[str]] = {}
            for output in self.parts.extractor(extractor).outputs:
                if output != "tokens":
                    by_role.setdefault(features_role(place, output), []).append(output)
            for role, outputs in by_role.items():
                with_tokens = role == "features" and not data.dataset.decodes  # one stage with the teacher's
                stages[role] = self._features(data, extractor, () if with_tokens else outputs)
        return replace(data, features=stages)

    def tokenizer(
        self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed
    ) -> Parents:
        """The tokenizer and latents stages, by the roles that they have for later stages."""
        rows = (data.row, tokenizer, regularizer)
        key = (*(text for row in rows for text in (str(row.where), row.label)), str(seed.tokenizer))
        if key not in self._trained:
            self._trained[key] = self._train(data, tokenizer, regularizer, seed)
        return self._trained[key]

    def _train(self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed) -> Parents:
        m, parts = self.matrix, self.parts
        model = parts.tokenizer(data, tokenizer, regularizer)
        method = parts.regularizer(data, tokenizer, regularizer)
        check_training(parts, data, regularizer, method)
        check_gradient(model, regularizer, method)
        check_pairs(parts, data, model, regularizer, method)
        label = self._label(data, tokenizer, regularizer, f"seed {seed.tokenizer}")
        parents = self._training_parents(data, tokenizer, regularizer, seed)
        facts = parts.facts(data, regularizer)
        budget = m.budget_of(tokenizer)
        check_stored(model, data.dataset, budget)
        self.plan.notes[tokenizer.label] = model.notes()
        config = {
            "dataset": data.config,
            "tokenizer": parts.config("tokenizers", tokenizer, model, data),
            "regularizer": parts.config("regularizers", regularizer, method, data),
            "facts": plain_facts(facts),
            "optimizer": [plain(tokenizer.optimizer), plain(regularizer.optimizer)],
            "reconstruction": parts.reconstruction(data) if model.decodes else {},
            "steps": budget.tokenizer_steps,
            "refine_steps": budget.refine_steps,
            "batch": budget.batch,
            "probes": m.probes.latents if m.probes else None,
            "seed": seed.tokenizer,
        }
        if "teacher_spec" in facts and data.dataset.decodes:  # a large dataset's tokens aren't stored
            config["teacher"] = parts.extractor_config(parts.teacher(regularizer))
        if m.augment:
            config["augment"] = vars(m.augment)
        if weights := parts.initial_weights(data, tokenizer, regularizer):
            config["weights"] = weights
        priors = sum(map(parts.parameters, method.priors().values()))  # frozen
        trainable = parts.parameters(model) + parts.parameters(method) - priors
        built = Built(data.dataset, model, method, facts=facts)
        trained = self._add("tokenizer", label, config, parents, built, trainable)
        config = {"normalise": m.normalise, "seed": seed.tokenizer}
        latents = self._add("latents", label, config, {"tokenizer": trained}, built)
        return {"tokenizer": trained, "latents": latents}

    def _training_parents(
        self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed
    ) -> Parents:
        """The stages that a tokenizer's training reads."""
        priors = self.parts.regularizer(data, tokenizer, regularizer).priors()
        facts = build.facts_of(base_class(regularizer))
        parents: Parents = {}
        if "teacher_spec" in facts and not data.dataset.decodes:
            parents["teacher"] = self._features(data, self.parts.teacher(regularizer))
        if priors or facts & {"reference_spec", "reference_classes"}:
            parents["reference"] = self._reference(data, regularizer)
        for name in priors:
            parents[f"prior/{name}"] = self._prior(
                data, tokenizer, regularizer, seed, name, parents["reference"]
            )
        if tokenizer.start:
            parents["start"] = self._start(data, tokenizer, regularizer, seed)
        return parents

    def _start(self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed) -> str:
        """The stage of the tokenizer whose weights this tokenizer starts from."""
        first = next(row for row in self.matrix.tokenizers if row.label == tokenizer.start)
        difference = shape_difference(
            self.parts.tokenizer(data, tokenizer, regularizer), self.parts.tokenizer(data, first, BARE)
        )
        if difference:
            raise Unfit(f"with {regularizer.label} no start from {first.label} is possible: {difference}")
        return self.tokenizer(data, first, BARE, seed)["tokenizer"]

    def _prior(
        self,
        data: DatasetPlan,
        tokenizer: MatrixRow,
        regularizer: MatrixRow,
        seed: Seed,
        name: str,
        reference: str,
    ) -> str:
        """The stage that trains a prior; options that the prior doesn't depend on are not in its key."""
        owner, row = self.parts.regularizer(data, tokenizer, regularizer).underlying, base_row(regularizer)
        prior, method = owner.priors()[name], self.parts.config("regularizers", row, owner, data)
        prior_options = owner.prior_options
        if prior_options is not None:
            options = options_of(registry.get("regularizers", row.part))
            required = {key for key, option in options.items() if option.default is REQUIRED}
            for group in ("options", "uses"):
                if group in method:
                    method[group] = {
                        k: v for k, v in method[group].items() if k in prior_options or k in required
                    }
        budget = self.matrix.budget_of(regularizer)
        config = {
            "regularizer": method,
            "facts": plain_facts(self.parts.facts(data, regularizer)),
            "spec": vars(self.parts.tokenizer(data, tokenizer, regularizer).spec),
            "prior": name,
            "optimizer": plain(regularizer.optimizer.get("priors", {}).get(name, {})),
            "steps": budget.prior_steps,
            "batch": budget.batch,
            "seed": seed.tokenizer,
        }
        label = f"{self._label(data, tokenizer, regularizer, f'seed {seed.tokenizer}')} · {name}"
        built = Built(data.dataset, regularizer=owner, generator=prior)
        parents = {"reference": reference}
        return self._add("prior", label, config, parents, built, self.parts.parameters(prior))

    def _reference(self, data: DatasetPlan, regularizer: MatrixRow | None) -> str:
        """The stage that draws the reference of a regularizer, or of the matrix; all seeds share it."""
        reference, teacher = self.parts.reference(data, regularizer), self.parts.teacher(regularizer)
        row, source = reference.row, reference.source
        key = (data.row.label, str(row.where), str(teacher.where))
        if key in self._references:
            return self._references[key]
        if reference.encoder is not None:
            parents = self.tokenizer(data, *reference.encoder, self.matrix.seeds[0])
        elif source.uses_features or not data.dataset.decodes:
            parents = {"features": self._features(data, teacher, images=row.images)}
        else:
            parents = {}
        fingerprint = source.fingerprint()
        if self.parts.fetch and fingerprint is None:
            try:
                source.fetch()
            except OSError as error:
                raise self.parts.refuse(row, str(error)) from None
        config: dict[str, Any] = {
            "dataset": data.config,
            "reference": self.parts.plain_config("references", row, data.dataset)
            | {"fingerprint": fingerprint},
        }
        if row.images is not None:
            config["images"] = row.images
        if not parents:
            config["spec"] = vars(source.spec)
        label, built = f"{row.label} of {data.row.label}", Built(data.dataset, source=source)
        self._references[key] = self._add("reference", label, config, parents, built)
        return self._references[key]

    def _features(
        self,
        data: DatasetPlan,
        extractor: MatrixRow,
        outputs: Sequence[str] = (),
        images: int | None = None,
    ) -> str:
        """The stage with pooled features and tokens, or other outputs, of a dataset or its first images."""
        config: dict[str, Any] = {
            "dataset": data.config,
            "extractor": self.parts.extractor_config(extractor),
        }
        label = f"{extractor.label} of {data.row.label}"
        if images is not None:
            label += f" ({images} images)"
            config["images"] = images
        if outputs:
            label += f" ({', '.join(outputs)})"
            config["outputs"] = list(outputs)
        built = Built(data.dataset, extractor=self.parts.extractor(extractor))
        return self._add("features", label, config, {}, built)

    def generator(self, data: DatasetPlan, rows: Rows, seed: Seed) -> Parents:
        """The stages that samples are drawn from, by role: of a generator, if it is trained by itself."""
        parents, weak = self._generator(data, rows, seed), weak_row(self.matrix, rows[-1])
        if weak is None:
            return parents
        other = self._generator(data, (*rows[:2], weak), seed)
        check_weak(self.matrix, rows[-1], self._model(parents), self._model(other))
        return parents if other == parents else parents | {WEAK: other["generator"]}

    def _generator(self, data: DatasetPlan, rows: Rows, seed: Seed) -> Parents:
        """The stages that samples are drawn from, by role, without the model that guides them."""
        tokenizer, regularizer, generator = rows
        trained = self.tokenizer(data, tokenizer, regularizer, seed)
        if generator.part == NONE:
            return trained
        if not self.parts.tokenizer(data, tokenizer, regularizer).decodes:
            message = f"{tokenizer.label} only encodes: there are no images of what a generator makes"
            raise Unfit(f"{message} (`generators: {{none: {{}}}}` scores it)")
        own = None
        if generator.init == "joint":
            method = self.parts.regularizer(data, tokenizer, regularizer)
            own, fault = method.generator(), method.generator_fault()
            if own is None:
                raise Unfit(f"{regularizer.label} has no generator of its own")
            if fault:
                raise Unfit(f"the generator of {regularizer.label} is no sampler of its latents: {fault}")
        if own is not None and generator.part == JOINT:
            _, faults = check_options(type(own), generator.sampler, method="sample")
            if faults:
                raise Unfit(f"the generator of {regularizer.label}: {faults[0][1]}")
            return trained
        if own is not None and type(own) is not registry.get("generators", generator.part):
            raise Unfit(f"the generator of {regularizer.label} is no {generator.part}")
        model = own or self.parts.generator(data, tokenizer, regularizer, generator)
        check_modules(self.parts, generator, model)
        budget = self.matrix.budget_of(generator)
        config = {
            "generator": self.parts.config("generators", generator, model, data),
            "init": generator.init,
            "optimizer": plain(generator.optimizer),
            "steps": budget.generator_steps,
            "batch": budget.batch,
            "seed": f"{seed.tokenizer}.{seed.generator}",
        }
        snapshots = kept(self.matrix, generator)
        if snapshots and model.takes_steps():
            config["snapshots"] = snapshots
        parents = dict(trained)
        if model.teacher_spec is not None:
            teacher = self.parts.teacher(generator)
            config["teacher_spec"] = vars(model.teacher_spec)
            if data.dataset.decodes:
                config["teacher"] = self.parts.extractor_config(teacher)
            else:
                parents["teacher"] = self._features(data, teacher)
        label = self._label(data, *rows, f"seed {seed.tokenizer}.{seed.generator}")
        built, trainable = Built(data.dataset, generator=model), self.parts.parameters(model)
        return trained | {"generator": self._add("generator", label, config, parents, built, trainable)}

    def tokenizer_scores(
        self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed
    ) -> str:
        """The scores stage of a trained tokenizer."""
        trained = self.tokenizer(data, tokenizer, regularizer, seed)
        parents = {**trained, **data.features, "reference": self._reference(data, None)}
        if regularizer.reference or regularizer.teacher:
            parents["own_reference"] = self._reference(data, regularizer)
        # The cost of priors and of the tokenizer that a training starts from is scored with it.
        earlier = self.plan.stages[trained["tokenizer"]].parents
        parents |= {role: parent for role, parent in earlier.items() if role.startswith(("prior/", "start"))}
        extra = {}
        if base_class(regularizer).couples == "latent":
            extra["couples"] = self.matrix.budget_of(tokenizer).batch
        label = self._label(data, tokenizer, regularizer, f"seed {seed.tokenizer}")
        return self._scores(data, "tokenizer", label, str(seed.tokenizer), parents, **extra)

    def generator_scores(
        self,
        data: DatasetPlan,
        rows: Rows,
        seed: Seed,
        parents: Parents,
        guidance: float | str,
        snapshot: int | None = None,
    ) -> str:
        """The scores stage of samples that are drawn from `parents`; at CHOSEN, their sweep's guidance."""
        extra = {}
        if snapshot is not None and self.matrix.probes:
            extra = {"snapshot": snapshot, "samples": self.matrix.probes.samples}
        samples = self._samples(data, rows, seed, parents, guidance, extra)
        parents, drawn = {**parents, "samples": samples, **data.features}, self.plan.stages[samples]
        return self._scores(data, "generator", drawn.label, drawn.config["seed"], parents, guidance=guidance)

    def sweep(self, data: DatasetPlan, rows: Rows, seed: Seed, parents: Parents) -> Parents:
        """The stage that chooses a cell's guidance, by its role; none where guidance changes nothing."""
        sweep = rows[-1].sweep
        guidable = data.dataset.classes or rows[-1].autoguidance is not None
        if sweep is None or not guidable or not getattr(self._model(parents), "guided", False):
            return {}
        extra, drawn = {"sweep": True, "samples": sweep.samples}, {}
        for w in sweep.values:
            drawn[f"samples/{w:g}"] = self._samples(data, rows, seed, parents, w, extra)
        extractor = part_config("features", self.matrix.features[0])
        config = {"sweep": list(sweep.values), "samples": sweep.samples, "extractor": extractor}
        label = self._label(data, *rows, f"seed {seed.of_samples}")
        parents = {**drawn, "features": data.features["features"]}
        return {"guidance": self._add("guidance", label, config, parents)}

    def _samples(
        self,
        data: DatasetPlan,
        rows: Rows,
        seed: Seed,
        parents: Parents,
        guidance: float | str,
        extra: Mapping[str, Any],
    ) -> str:
        """The samples stage; `extra` is added to its config, of samples that aren't ranked."""
        generator = rows[-1]
        # A regularizer's own generator may be of any part: its sampler has the options in the matrix alone.
        sampler = plain(generator.sampler)
        if generator.part != JOINT:
            sampler = key_options(registry.get("generators", generator.part), generator.sampler, "sample")
        config: dict[str, Any] = {
            "guidance": guidance,
            "sampler": sampler,
            "samples": self.matrix.samples,
            "seed": seed.of_samples,
            **extra,
        }
        weak = None
        if generator.autoguidance is not None:
            role = WEAK if WEAK in parents else "generator"
            config["autoguidance"] = {"role": role, "snapshot": generator.autoguidance.snapshot}
            weak = self.plan.built[parents[role]].generator
        at = guidance if isinstance(guidance, str) else f"{guidance:g}"
        label = self._label(data, *rows, f"seed {config['seed']}", f"guidance {at}")
        if "snapshot" in extra:
            label += f" · step {extra['snapshot']}"
        elif "sweep" in extra:
            label += " · sweep"
        built = replace(self.plan.built[parents["tokenizer"]], generator=self._model(parents), weak=weak)
        return self._add("samples", label, config, parents, built)

    def _model(self, parents: Parents) -> Generator | None:
        """The generator that samples are drawn from: one that is trained by itself, or the regularizer's."""
        if "generator" in parents:
            return self.plan.built[parents["generator"]].generator
        regularizer = self.plan.built[parents["tokenizer"]].regularizer
        return None if regularizer is None else regularizer.generator()

    def held_out_scores(self, data: DatasetPlan) -> str:
        """The scores stage of held-out images, at most as many as there are samples; no seed changes it."""
        count, extra = self.matrix.samples, {}
        if count < data.dataset.size("val"):
            extra["samples"] = count
        label = self._label(data, f"held-out {'latents' if data.dataset.decoded else 'images'}")
        return self._scores(data, "generator", label, "0", dict(data.features), **extra)

    def scored(self, scope: str) -> bool:
        """Whether an evaluator of the matrix has metrics of this scope."""
        return bool(self._evaluators(scope))

    def _evaluators(self, scope: str) -> list[MatrixRow]:
        def scopes(row: MatrixRow) -> set[str]:
            cls = registry.get("evaluators", row.part)
            assert issubclass(cls, Evaluator)
            return set(cls.scopes())

        return [row for row in self.matrix.evaluators if scope in scopes(row)]

    def _scores(
        self, data: DatasetPlan, scope: str, label: str, seed: str, parents: Parents, **extra: Any
    ) -> str:
        """A scores stage, or "" without evaluators of this scope."""
        rows = self._evaluators(scope)
        if not rows:
            return ""
        evaluators = []
        for row in rows:
            fingerprint = self.parts.evaluator(row).fingerprint()
            evaluator = self.parts.plain_config("evaluators", row, data.dataset)
            evaluators.append(evaluator | ({"fingerprint": fingerprint} if fingerprint else {}))
        config = {
            "scope": scope,
            "evaluators": evaluators,
            "dataset": data.config,
            "extractors": [part_config("features", row) for row in self.matrix.features],
            "seed": seed,
            **extra,
        }
        return self._add("scores", f"{label} · {scope} scope", config, parents)

    def _label(self, data: DatasetPlan, *names: MatrixRow | str) -> str:
        """The labels of rows, after the dataset's if there are several datasets."""
        datasets = [data.row] if len(self.matrix.datasets) > 1 else []
        return " · ".join(name if isinstance(name, str) else name.label for name in (*datasets, *names))

    def _add(
        self,
        kind: str,
        label: str,
        config: dict[str, Any],
        parents: Parents,
        built: Built | None = None,
        trainable: int | None = None,
    ) -> str:
        """Adds a stage, unless the plan has it, and returns its id; `trainable` counts parameters."""
        config = {**config, "env": self.env, "frame": FRAME_VERSION}
        if kind in TRAINED:
            config |= {name: True for name in ("compile", "checkpointing") if getattr(self.matrix, name)}
        identity = stage_id(kind, config, parents)
        if identity not in self.plan.stages:
            known = all(self.plan.stages[parent].known for parent in parents.values())
            known = known and None not in (part.get("fingerprint", "") for part in with_files(config))
            self.plan.stages[identity] = Stage(kind, label, config, parents, identity, known)
        if built is not None:
            self.plan.built[identity] = built
        if trainable is not None:
            self.plan.parameters[identity] = trainable
        return identity
