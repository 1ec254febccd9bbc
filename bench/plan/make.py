"""From a matrix to cells and the stages that they share, each with its content-addressed key.

A key is the sha256 of what the stage's numbers depend on: its resolved config, the versions of its parts,
the hashes of data and weights, threads, precision and device, and its parents' keys. Jobs, time-outs and
paths are not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook

from .. import registry
from ..api import (
    Dataset,
    Evaluator,
    FeatureExtractor,
    Generator,
    LatentSpec,
    ReferenceSource,
    Regularizer,
    Tokenizer,
    Unfit,
)
from ..matrix.load import build_problem
from ..matrix.matrix import Matrix, MatrixRow, Seed
from ..matrix.parts import JOINT, NONE
from ..matrix.yaml_text import MatrixError, Problem
from ..metrics.lpips import Lpips
from ..models import build
from ..nn import released_weights
from ..nn.weights import RANDOM, OfflineError, sha256
from ..options.options import REQUIRED, check_options, options_of
from ..stages.inputs import features_role
from ..store.stage import FRAME_VERSION, Config, Stage, is_file, stage_id
from ..training import losses
from .part_config import in_keys, part_config, plain, plain_facts
from .plan import PROBE, Built, Cell, Plan

BARE = MatrixRow("none", "none", {})  # what a tokenizer that others start from is trained with
MODULES = 10_000  # at the most, in one part
TRAINED = ("prior", "tokenizer", "generator")


def make_plan(matrix: Matrix, *, device: str = "cpu", fetch: bool = False) -> Plan:
    """Cells and stages of a matrix; rows whose parts don't fit each other become skipped cells.

    With `fetch`, weights that aren't there are downloaded: they are part of the keys.

    Raises:
        MatrixError: with every option that a constructor refuses, at its row.
    """
    return _Planner(matrix, device, fetch).plan()


class _Planner:
    def __init__(self, matrix: Matrix, device: str, fetch: bool) -> None:
        self.matrix, self.fetch = matrix, fetch
        self.env = {"threads": matrix.threads, "precision": matrix.precision, "device": device}
        self.result = Plan()
        self.offline = False  # whether a download was refused
        self.problems: dict[tuple[Any, str], Problem] = {}
        self.built: dict[tuple[str, ...], Any] = {}  # modules on the meta device, or why there is none
        self.references: dict[tuple[str, ...], str] = {}  # stages: a fingerprint may be of a large file
        self.trained: dict[tuple[str, ...], dict[str, str]] = {}  # what `_tokenizer` has said
        self.counts: dict[Regularizer | Tokenizer | Generator, int] = {}

    def plan(self) -> Plan:
        m = self.matrix
        for dataset in m.datasets:
            try:
                self._use(dataset)
            except _Refused:
                continue
            for tokenizer in m.tokenizers:
                for regularizer in m.regularizers:
                    for generator in m.generators:
                        for seed in m.seeds:
                            self._cell(tokenizer, regularizer, generator, seed)
            judged = any(row.part != NONE for row in m.generators)
            if judged and self.result.cells and any("generator" in self._scopes(r) for r in m.evaluators):
                self._real()
        self._raise()
        self.result.uses = Counter(s.id for cell in self.result.cells for s in self.result.needed([cell]))
        return self.result

    def _use(self, row: MatrixRow) -> None:
        """Turns to a dataset: what its cells share."""
        m, self.dataset_row = self.matrix, row
        for evaluator in m.evaluators:
            self._made("evaluators", evaluator, build.evaluator)
        self.dataset: Dataset = self._made("datasets", row, build.dataset)
        try:
            fingerprint = self.dataset.fingerprint()
            if fingerprint is None:
                _ = self.dataset.fetch() if self.fetch else self.dataset.size("train")
        except (OSError, ValueError) as error:  # files that aren't there, or that cannot be read
            raise self._refuse(row, str(error)) from None
        self.data = part_config("datasets", row) | {"fingerprint": fingerprint}
        self.features = self._metric_features()

    def _cell(self, tokenizer: MatrixRow, regularizer: MatrixRow, generator: MatrixRow, seed: Seed) -> None:
        labels = {
            "dataset": self.dataset_row.label,
            "tokenizer": tokenizer.label,
            "regularizer": regularizer.label,
            "generator": generator.label,
            "seed": seed.label,
        }
        rows = (self.dataset_row, tokenizer, regularizer, generator)
        why = next((skip.why for skip in self.matrix.skip if skip.matches(*rows)), None)
        try:
            trained = self._tokenizer(tokenizer, regularizer, seed)
            made = self._generator(tokenizer, regularizer, generator, seed, trained)
            own = self._tokenizer_scores(tokenizer, regularizer, seed, trained)
        except Unfit as error:
            why = why or str(error)
        except _Refused:
            return
        if why is not None:
            self.result.cells.append(Cell(**labels, scores={}, skipped=why))
            return
        scores = {"": own}
        for guidance in generator.guidance:
            scores[f"{guidance:g}"] = self._generator_scores(*made, generator, guidance, seed)
        trained_by = self.result.stages.get(made[0].get("generator", ""))
        for step in trained_by.config.get("snapshots", ()) if trained_by else ():
            largest = max(generator.guidance)
            scores[f"{PROBE}{step}"] = self._generator_scores(*made, generator, largest, seed, step)
        self.result.cells.append(Cell(**labels, scores={k: v for k, v in scores.items() if v}))

    def _tokenizer(self, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed) -> dict[str, str]:
        """The tokenizer and latents stages of a row, as roles for what comes after."""
        rows = (self.dataset_row, tokenizer, regularizer)
        name = (*(text for row in rows for text in (str(row.where), row.label)), str(seed.tokenizer))
        if name not in self.trained:
            self.trained[name] = self._training(tokenizer, regularizer, seed)
        return self.trained[name]

    def _training(self, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed) -> dict[str, str]:
        m, model = self.matrix, self._model(tokenizer, regularizer)
        spec = model.spec
        shaped = self._shaped(tokenizer, regularizer)
        asked = build.facts_of(type(shaped))
        priors = shaped.priors()
        for group, named in (("critics", shaped.critics()), ("priors", priors)):
            for name in regularizer.optimizer.get(group, {}):
                if name not in named:
                    message = registry.unknown(f"name in optimizer.{group}", name, list(named))
                    raise self._refuse(regularizer, message)
        self._trainable(tokenizer, regularizer)
        parents: dict[str, str] = {}
        teacher = regularizer.teacher or m.teacher
        if "teacher_spec" in asked and not self.dataset.decodes:
            parents["teacher"] = self._features(teacher)
        if priors or asked & {"reference_spec", "reference_classes"}:
            parents["reference"] = self._reference(regularizer)
        where = self._where(tokenizer, regularizer, f"seed {seed.tokenizer}")
        given = self._facts(regularizer, asked)
        facts = plain(plain_facts(given))
        for name, prior in priors.items():
            parents[f"prior/{name}"] = self._prior(
                name, prior, spec, regularizer, facts, seed, parents, where
            )
        if tokenizer.start:
            parents["start"] = self._started(tokenizer, regularizer, seed)
        budget = m.budget_of(tokenizer)
        config = {
            "dataset": self.data,
            "tokenizer": part_config("tokenizers", tokenizer),
            "regularizer": part_config("regularizers", regularizer),
            "facts": facts,
            "optimizer": [plain(tokenizer.optimizer), plain(regularizer.optimizer)],
            "reconstruction": self._losses() if model.decodes else {},
            "steps": budget.tokenizer_steps,
            "refine_steps": budget.refine_steps,
            "batch": budget.batch,
            "probes": m.probes.latents if m.probes else None,
            "seed": seed.tokenizer,
        }
        if "teacher_spec" in asked and self.dataset.decodes:  # tokens of a large set aren't kept
            config["teacher"] = self._extractor(teacher)[1]
        if m.augment:
            config["augment"] = vars(m.augment)
        if tokenizer.weights:
            config["weights"] = self._weights(tokenizer, regularizer)
        trained = self._add("tokenizer", where, config, parents)
        frozen = sum(self._parameters(prior) for prior in priors.values())
        self.result.parameters[trained] = self._parameters(model) + self._parameters(shaped) - frozen
        self.result.built[trained] = Built(self.dataset, model, shaped, facts=given)
        config = {"normalise": m.normalise, "seed": seed.tokenizer}
        encoded = self._add("latents", where, config, {"tokenizer": trained})
        self.result.built[encoded] = self.result.built[trained]
        return {"tokenizer": trained, "latents": encoded}

    def _trainable(self, tokenizer: MatrixRow, regularizer: MatrixRow) -> None:
        """Refuses rows whose loss lacks something that a training could only make up."""
        augment, shaped = self.matrix.augment, self._shaped(tokenizer, regularizer)
        if shaped.two_views and not augment:
            raise Unfit(f"{regularizer.label} compares two views of an image; `augment: {{}}` makes them")
        if augment and "teacher_spec" in build.facts_of(type(shaped)) and not self.dataset.decodes:
            raise Unfit(f"{regularizer.label} needs the teacher's features of augmented images")

    def _started(self, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed) -> str:
        """The stage of the tokenizer that this one starts from."""
        first = next(row for row in self.matrix.tokenizers if row.label == tokenizer.start)
        own, theirs = (
            {name: tensor.shape for name, tensor in self._model(*rows).state_dict().items()}
            for rows in ((tokenizer, regularizer), (first, BARE))
        )
        for name in sorted(own.keys() | theirs.keys()):
            if own.get(name) != theirs.get(name):
                shapes = (" x ".join(map(str, each.get(name, ["nothing"]))) for each in (own, theirs))
                told = "{} is {}, and {} there".format(name, *shapes)
                raise Unfit(f"with {regularizer.label} no start from {first.label} is possible: {told}")
        return self._tokenizer(first, BARE, seed)["tokenizer"]

    def _prior(
        self,
        name: str,
        prior: Generator,
        spec: LatentSpec,
        regularizer: MatrixRow,
        facts: dict[str, Any],
        seed: Seed,
        parents: dict[str, str],
        where: str,
    ) -> str:
        """The stage that trains one prior; what it doesn't depend on is not in its key."""
        method = part_config("regularizers", regularizer)
        asked = build.regularizer_class(method).prior_options
        if asked is not None:
            options = options_of(registry.get("regularizers", regularizer.part))
            matter = asked | {name for name, option in options.items() if option.default is REQUIRED}
            for group in ("options", "uses"):
                if group in method:
                    method[group] = {k: v for k, v in method[group].items() if k in matter}
        config = {
            "regularizer": method,
            "facts": facts,
            "spec": vars(spec),
            "prior": name,
            "optimizer": plain(regularizer.optimizer.get("priors", {}).get(name, {})),
            "steps": self.matrix.budget_of(regularizer).prior_steps,
            "batch": self.matrix.budget_of(regularizer).batch,
            "seed": seed.tokenizer,
        }
        made = self._add("prior", f"{where} · {name}", config, {"reference": parents["reference"]})
        self.result.parameters[made] = self._parameters(prior)
        self.result.built[made] = Built(self.dataset, generator=prior)
        return made

    def _reference(self, regularizer: MatrixRow | None) -> str:
        """The stage that draws the reference of a method, or of the matrix: one for all seeds."""
        m = self.matrix
        row, source, trained = self._source(regularizer)
        teacher = (regularizer and regularizer.teacher) or m.teacher
        name = (self.dataset_row.label, str(row.where), str(teacher.where))
        if name in self.references:
            return self.references[name]
        only: dict[str, Any] = {} if row.images is None else {"images": row.images}
        if trained is not None:
            parents = self._tokenizer(*trained, m.seeds[0])
        elif source.uses_features or not self.dataset.decodes:
            parents = {"features": self._features(teacher, **only)}
        else:
            parents = {}
        fingerprint = source.fingerprint()
        if self.fetch and fingerprint is None:
            try:
                source.fetch()
            except OSError as error:
                raise self._refuse(row, str(error)) from None
        config = {
            "dataset": self.data,
            "reference": part_config("references", row) | {"fingerprint": fingerprint},
            **only,
        }
        if not parents:
            config["spec"] = vars(source.spec)
        label = f"{row.label} of {self.dataset_row.label}"
        self.references[name] = self._add("reference", label, config, parents)
        self.result.built[self.references[name]] = Built(self.dataset, source=source)
        return self.references[name]

    def _facts(self, regularizer: MatrixRow, asked: Collection[str]) -> dict[str, Any]:
        """What a regularizer's constructor asks for by name."""
        m = self.matrix
        teacher: FeatureExtractor = self._made("features", regularizer.teacher or m.teacher, build.extractor)
        facts: dict[str, Any] = {"classes": self.dataset.classes, "teacher_spec": teacher.spec}
        if {"reference_spec", "reference_classes"} & set(asked):
            _, source, _ = self._source(regularizer)
            facts |= {
                "reference_spec": source.spec,
                "reference_classes": self.dataset.classes if source.labelled else 0,
            }
        return {name: facts[name] for name in asked}

    def _source(
        self, regularizer: MatrixRow | None
    ) -> tuple[MatrixRow, ReferenceSource, tuple[MatrixRow, MatrixRow] | None]:
        """The reference of a method, or of the matrix, and the rows whose latents it is made of, if it is."""
        m = self.matrix
        row = (regularizer and regularizer.reference) or m.reference
        teacher: FeatureExtractor = self._made(
            "features", (regularizer and regularizer.teacher) or m.teacher, build.extractor
        )
        try:
            trained = self._trained_rows(row)
            spec = teacher.spec if trained is None else self._model(*trained).spec
            if trained is not None:
                self._shaped(*trained)
            source = self._made(
                "references", row, lambda c: build.reference(c, self.dataset, spec), str(spec)
            )
        except Unfit as error:
            raise self._refuse(row, f"the reference cannot be made: {error}") from error
        return row, source, trained

    def _trained_rows(self, reference: MatrixRow) -> tuple[MatrixRow, MatrixRow] | None:
        """The tokenizer and the regularizer whose latents a reference is made of, if it is."""
        chosen: Mapping[str, Any] | None = {"use": reference.part, **reference.options}
        while chosen is not None and chosen["use"] != "latents":
            chosen = chosen.get("of")  # a reference that is made of another
        if chosen is None:
            return None
        rows = []
        label = chosen.get("row")
        if label is not None:
            known = {row.label: row for row in self.matrix.tokenizers}
            if label not in known:
                message = registry.unknown("tokenizer of this matrix", label, list(known))
                raise self._refuse(reference, message)
            rows.append(known[label])
        for name in ("tokenizer", "regularizer")[len(rows) :]:
            options = {key: value for key, value in chosen[name].items() if key != "use"}
            use = chosen[name]["use"]
            rows.append(MatrixRow(f"reference's {use}", use, options, where=reference.where))
        cls = build.regularizer_class({"name": rows[1].part})
        has_priors = cls.priors is not Regularizer.priors
        if has_priors or build.facts_of(cls) & {"reference_spec", "reference_classes"}:
            raise self._refuse(
                reference, f"a reference cannot be made by {rows[1].part}, which needs one itself"
            )
        return rows[0], rows[1]

    def _shaped(self, tokenizer: MatrixRow, regularizer: MatrixRow) -> Regularizer:
        """The regularizer on the meta device."""
        spec = self._model(tokenizer, regularizer).spec
        asked = build.facts_of(build.regularizer_class({"name": regularizer.part}))
        facts = self._facts(regularizer, asked)
        return self._made(
            "regularizers", regularizer, lambda c: build.regularizer(c, spec, facts), tokenizer.label
        )

    def _generator(
        self,
        tokenizer: MatrixRow,
        regularizer: MatrixRow,
        generator: MatrixRow,
        seed: Seed,
        trained: dict[str, str],
    ) -> tuple[dict[str, str], str]:
        """The roles that samples are drawn from, and where."""
        where = self._where(tokenizer, regularizer, generator, f"seed {seed.tokenizer}.{seed.generator}")
        if generator.part == NONE:
            return trained, where
        if not self._model(tokenizer, regularizer).decodes:
            message = f"{tokenizer.label} only encodes: there are no images of what a generator makes"
            raise Unfit(f"{message} (`generators: {{none: {{}}}}` scores it)")
        own = self._shaped(tokenizer, regularizer).generator() if generator.init == "joint" else None
        if generator.init == "joint" and own is None:
            raise Unfit(f"{regularizer.label} has no generator of its own")
        if own is not None and generator.part == "joint":
            _, faults = check_options(type(own), generator.sampler, method="sample")
            if faults:
                raise Unfit(f"the generator of {regularizer.label}: {faults[0][1]}")
            return trained, where
        spec = self._model(tokenizer, regularizer).spec
        if own is not None and type(own) is not registry.get("generators", generator.part):
            raise Unfit(f"the generator of {regularizer.label} is no {generator.part}")
        model: Generator = own or self._made(
            "generators", generator, lambda c: build.generator(c, spec, self.dataset.classes), tokenizer.label
        )
        own_modules = [name for name, _ in model.named_children()]
        for name in generator.optimizer.get("modules", {}):
            if name not in own_modules:
                message = registry.unknown("name in optimizer.modules", name, own_modules)
                raise self._refuse(generator, message)
        config = {
            "generator": part_config("generators", generator),
            "init": generator.init,
            "optimizer": plain(generator.optimizer),
            "steps": self.matrix.budget_of(generator).generator_steps,
            "batch": self.matrix.budget_of(generator).batch,
            "seed": f"{seed.tokenizer}.{seed.generator}",
        }
        if type(model).fit is Generator.fit and self._snapshots(config["steps"]):
            config["snapshots"] = self._snapshots(config["steps"])
        made = self._add("generator", where, config, trained)
        self.result.parameters[made] = self._parameters(model)
        self.result.built[made] = Built(self.dataset, generator=model)
        return trained | {"generator": made}, where

    def _tokenizer_scores(
        self, tokenizer: MatrixRow, regularizer: MatrixRow, seed: Seed, trained: dict[str, str]
    ) -> str:
        where = self._where(tokenizer, regularizer, f"seed {seed.tokenizer}")
        parents = trained | self.features | {"reference": self._reference(None)}
        if regularizer.reference or regularizer.teacher:
            parents["own_reference"] = self._reference(regularizer)
        # For what they cost.
        before = self.result.stages[trained["tokenizer"]].parents
        parents |= {role: one for role, one in before.items() if role.startswith(("prior/", "start"))}
        coupled = build.regularizer_class({"name": regularizer.part}).couples == "latent"
        extra = {"couples": self.matrix.budget_of(tokenizer).batch} if coupled else {}
        return self._scores("tokenizer", where, str(seed.tokenizer), parents, **extra)

    def _snapshots(self, steps: int) -> list[int]:
        """The updates after which a generator's samples are scored: its last one among them, if any are."""
        asked = self.matrix.probes.generator if self.matrix.probes else ()
        return [*sorted(step for step in set(asked) if step < steps), steps] if asked else []

    def _generator_scores(
        self,
        parents: dict[str, str],
        where: str,
        generator: MatrixRow,
        guidance: float,
        seed: Seed,
        snapshot: int | None = None,
    ) -> str:
        config: dict[str, Any] = {
            "guidance": guidance,
            "sampler": self._sampler(generator),
            "samples": self.matrix.samples,
            "seed": f"{seed.tokenizer}.{seed.generator}.{seed.sampling}",
        }
        where += f".{seed.sampling} · guidance {guidance:g}"
        if snapshot is not None and self.matrix.probes:
            config |= {"snapshot": snapshot, "samples": self.matrix.probes.samples}
            where += f" · step {snapshot}"
        drawn = self._add("samples", where, config, parents)
        behind = self.result.built[parents["tokenizer"]]
        trained = self.result.built.get(parents.get("generator", ""))
        own = behind.regularizer.generator() if behind.regularizer is not None else None
        model = own if trained is None else trained.generator
        self.result.built[drawn] = replace(behind, generator=model)
        parents = parents | {"samples": drawn} | self.features
        return self._scores("generator", where, config["seed"], parents, guidance=guidance)

    def _sampler(self, generator: MatrixRow) -> dict[str, Any]:
        """A regularizer's own generator is sampled by what is written alone."""
        if generator.part == JOINT:
            return plain(generator.sampler)
        return in_keys(registry.get("generators", generator.part), generator.sampler, "sample")

    def _real(self) -> None:
        """The row of the held-out images, which no seed changes: no more of them than there are samples."""
        where, count = self._where("held-out images"), self.matrix.samples
        fewer = {"samples": count} if count < self.dataset.size("val") else {}
        scores = self._scores("generator", where, "0", self.features, **fewer)
        name = self.dataset_row.label
        self.result.cells.append(Cell(name, "real", "real", "real", "0", {"": scores}))

    def _scores(self, scope: str, where: str, seed: str, parents: dict[str, str], **extra: Any) -> str:
        chosen = [row for row in self.matrix.evaluators if scope in self._scopes(row)]
        if not chosen:
            return ""
        config = {
            "scope": scope,
            "evaluators": [self._evaluator(row) for row in chosen],
            "dataset": self.data,
            "extractors": [part_config("features", row) for row in self.matrix.features],
            "seed": seed,
            **extra,
        }
        return self._add("scores", f"{where} · {scope} scope", config, parents)

    def _evaluator(self, row: MatrixRow) -> dict[str, Any]:
        """Its config, with what of its files is here, if it has any."""
        found = self._made("evaluators", row, build.evaluator).fingerprint()
        return part_config("evaluators", row) | ({"fingerprint": found} if found else {})

    def _where(self, *names: MatrixRow | str) -> str:
        several = [self.dataset_row] if len(self.matrix.datasets) > 1 else []
        return " · ".join(name if isinstance(name, str) else name.label for name in (*several, *names))

    def _scopes(self, row: MatrixRow) -> set[str]:
        cls = registry.get("evaluators", row.part)
        assert issubclass(cls, Evaluator)
        return cls.scopes()

    def _extractor(self, row: MatrixRow) -> tuple[FeatureExtractor, dict[str, Any]]:
        """It and its config, with the hash of its weights."""
        extractor: FeatureExtractor = self._made("features", row, build.extractor)
        if self.fetch and extractor.fingerprint() is None:
            try:
                extractor.fetch()
            except (OSError, RuntimeError) as error:  # no network, or a file with another hash
                self.offline |= isinstance(error, OfflineError)
                raise self._refuse(row, f"no weights: {error}") from None
        return extractor, part_config("features", row) | {"fingerprint": extractor.fingerprint()}

    def _features(self, row: MatrixRow, outputs: Sequence[str] = (), images: int | None = None) -> str:
        """The stage with the pooled features and tokens of a dataset, or of some images, or other outputs."""
        extractor, chosen = self._extractor(row)
        config: dict[str, Any] = {"dataset": self.data, "extractor": chosen}
        label = f"{row.label} of {self.dataset_row.label}"
        if images is not None:
            label += f" ({images} images)"
            config["images"] = images
        if outputs:
            label += f" ({', '.join(outputs)})"
            config["outputs"] = list(outputs)
        made = self._add("features", label, config, {})
        self.result.built[made] = Built(self.dataset, extractor=extractor)
        return made

    def _metric_features(self) -> dict[str, str]:
        """The stages that metrics take the features of the data from, by role."""
        found = {}
        for place, row in enumerate(self.matrix.features):
            extractor: FeatureExtractor = self._made("features", row, build.extractor)
            by_role: dict[str, list[str]] = {}
            for output in extractor.outputs:
                if output != "tokens":
                    by_role.setdefault(features_role(place, output), []).append(output)
            for role, outputs in by_role.items():
                both = role == "features" and not self.dataset.decodes  # with a teacher's tokens
                found[role] = self._features(row, () if both else outputs)
        return found

    def _model(self, tokenizer: MatrixRow, regularizer: MatrixRow) -> Tokenizer:
        """The tokenizer on the meta device, with the expansion that the regularizer asks for."""
        expansion = build.regularizer_class({"name": regularizer.part}).expansion
        return self._made(
            "tokenizers", tokenizer, lambda c: build.tokenizer(c, self.dataset, expansion), str(expansion)
        )

    def _weights(self, tokenizer: MatrixRow, regularizer: MatrixRow) -> dict[str, str | None]:
        """The checkpoint that a tokenizer starts from; what doesn't fit it is a problem at its row."""
        file = Path(tokenizer.weights or "").expanduser()
        if not file.is_file():
            if self.fetch:
                raise self._refuse(tokenizer, f"there is no file {file}")
            return {"file": str(file), "fingerprint": None}
        model, sha = self._model(tokenizer, regularizer), sha256(file)
        name = ("weights", str(tokenizer.where), tokenizer.label, self.dataset_row.label, str(id(model)))
        if name not in self.built:
            try:
                released_weights.state(model, file)
                self.built[name] = {"file": str(file), "fingerprint": sha}
            except Unfit as error:
                self.built[name] = error
            except ValueError as error:
                self.built[name] = self._refuse(tokenizer, str(error))
        if isinstance(self.built[name], Exception):
            raise self.built[name]
        return self.built[name]

    def _losses(self) -> dict[str, Any]:
        """The reconstruction losses, with the files and hashes of their networks' weights."""
        row = MatrixRow("reconstruction", "reconstruction", {}, where=self.matrix.losses)
        name = ("losses", self.dataset_row.label)
        if name not in self.built:
            try:
                self.built[name] = self._weighed(plain(self.matrix.reconstruction))
            except (OSError, ValueError) as error:  # no such file, another one, or too small images
                self.offline |= isinstance(error, OfflineError)
                self.built[name] = self._refuse(row, str(error))
        if isinstance(self.built[name], Exception):
            raise self.built[name]
        return self.built[name]

    def _weighed(self, found: dict[str, Any]) -> dict[str, Any]:
        if "lpips" in found:
            lpips = found["lpips"]
            backbone = Lpips(lpips["network"], lpips["weights"]).backbone
            if self.fetch and not backbone.random:
                backbone.file()
            file = lpips["weights"]
            lpips["weights"] = {"file": file, "fingerprint": backbone.fingerprint(lpips["network"])}
        if "gan" in found:
            gan = found["gan"]
            with torch.device("meta"):
                losses.build_adversary({"gan": gan}, self.dataset.image)
            if gan["dino"] not in (None, RANDOM):
                file = Path(gan["dino"]).expanduser()
                if self.fetch and not file.is_file():
                    raise FileNotFoundError(f"there is no file {file}")
                there = sha256(file) if file.is_file() else None
                gan["dino"] = {"file": str(file), "fingerprint": there}
        return found

    def _made(self, kind: str, row: MatrixRow, construct: Callable[[Config], Any], *given: str) -> Any:
        """The part on the meta device, built once; a problem at its row if the constructor refuses."""
        name = (kind, str(row.where), row.label, self.dataset_row.label, *given)
        if name not in self.built:
            try:
                with torch.device("meta"), _few_modules():
                    self.built[name] = construct({"name": row.part, "options": row.options})
            except Unfit as error:
                self.built[name] = error
            except (ValueError, registry.PartError) as error:
                self.built[name] = self._refuse(row, str(error))
            except Exception as error:  # a plugin's constructor may fail in any way
                file = registry.sources(kind)[row.part].file
                self.built[name] = self._refuse(row, f"cannot be built: {registry.cause(error, file)}")
        if isinstance(self.built[name], Exception):
            raise self.built[name]
        return self.built[name]

    def _parameters(self, module: Regularizer | Tokenizer | Generator) -> int:
        if module not in self.counts:
            self.counts[module] = sum(p.numel() for p in module.parameters() if p.requires_grad)
        return self.counts[module]

    def _refuse(self, row: MatrixRow, message: str) -> _Refused:
        problem = build_problem(row, message)
        self.problems[row.where, problem.message] = problem
        return _Refused()

    def _raise(self) -> None:
        if self.problems:
            kind = NetworkNeeded if self.offline else MatrixError
            raise kind(sorted(self.problems.values(), key=lambda p: (p.file, p.line, p.column)))

    def _add(self, kind: str, label: str, config: dict[str, Any], parents: dict[str, str]) -> str:
        config = {**config, "env": self.env, "frame": FRAME_VERSION}
        if kind in TRAINED:
            config |= {name: True for name in ("compile", "checkpointing") if getattr(self.matrix, name)}
        one = stage_id(kind, config, parents)
        if one not in self.result.stages:
            there = all(self.result.stages[parent].known for parent in parents.values())
            files = ("dataset", "extractor", "teacher", "reference", "weights")
            named = [config[name] for name in files if name in config]
            networks = (loss for loss in config.get("reconstruction", {}).values() if isinstance(loss, dict))
            named += [option for loss in networks for option in loss.values() if is_file(option)]
            there = there and all(item.get("fingerprint", "") is not None for item in named)
            self.result.stages[one] = Stage(kind, label, config, parents, one, there)
        return one


class NetworkNeeded(MatrixError):
    """A matrix that needs files which, under `--offline`, must not be downloaded."""

    exit_code = 4


class _Refused(Exception):
    """A part could not be built; the problem is noted."""


@contextmanager
def _few_modules() -> Iterator[None]:
    """Refuses a part of more modules than any network has: `depth: 1000000000` would be built for hours."""
    left = MODULES

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {MODULES:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
