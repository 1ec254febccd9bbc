"""The parts of a matrix, each built once on the meta device, and the problems of those that can't be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from .. import registry
from ..api import (
    Dataset,
    Evaluator,
    FeatureExtractor,
    Generator,
    ReferenceSource,
    Regularizer,
    Tokenizer,
    Unfit,
)
from ..contracts.datasets import LEAST
from ..matrix.load import problem_at_row
from ..matrix.matrix import Matrix, MatrixRow, Position
from ..matrix.yaml_text import Problem
from ..metrics.lpips import Lpips
from ..models import build
from ..nn import released_weights
from ..nn.weight_files import is_safetensors
from ..nn.weight_shards import weights_sha256
from ..nn.weights import RANDOM, OfflineError, sha256
from ..options.plain_data import plain
from ..stages.inputs import SPLITS
from ..store.stage import Config
from ..store.user_paths import user_path
from ..training import losses
from .file_reads import recorded_reads
from .part_config import part_config, with_used

PACKAGE = "latentbench."  # what names of modules begin with, but for plugins
MAX_MODULES = 10_000  # in one part


class Refused(Exception):
    """A part cannot be used; its problem is in `MetaParts.problems`."""


@dataclass(frozen=True)
class DatasetPlan:
    """A dataset of the matrix and what its cells share."""

    row: MatrixRow
    dataset: Dataset
    config: dict[str, Any]  # with the fingerprint of its files
    description: list[str]
    features: Mapping[str, str] = field(default_factory=dict)  # role -> id of a stage that metrics read


@dataclass(frozen=True)
class ReferencePlan:
    """The reference of a regularizer or of the matrix."""

    row: MatrixRow
    source: ReferenceSource
    encoder: tuple[MatrixRow, MatrixRow] | None  # tokenizer and regularizer whose latents are the reference


def base_class(row: MatrixRow) -> type[Regularizer]:
    """The class of the regularizer that makes a row's latents."""
    return build.regularizer_class(_base_config(row))


def base_row(row: MatrixRow) -> MatrixRow:
    """The row with the regularizer that makes its latents; see `Corruption`."""
    config = _base_config(row)
    return replace(row, part=config["name"], options=config["options"])


def _base_config(row: MatrixRow) -> Config:
    return build.base_config({"name": row.part, "options": row.options})


class MetaParts:
    """Builds every row's part once on the meta device and collects problems at their rows.

    Methods raise `Refused` where a problem was noted, and `Unfit` where parts don't fit each other. With
    `fetch`, missing weights and data are fetched.
    """

    def __init__(self, matrix: Matrix, fetch: bool) -> None:
        self.matrix, self.fetch = matrix, fetch
        self.problems: dict[tuple[Position, str], Problem] = {}
        self.offline = False  # whether a download was refused because of `--offline`
        self._results: dict[tuple[str, ...], Any] = {}  # values by key, or the errors in their place
        self._counts: dict[nn.Module, int] = {}
        self._reads: dict[nn.Module, str] = {}  # the hash of the files that a plugin's constructor opened

    def dataset(self, row: MatrixRow) -> DatasetPlan:
        """A dataset without the stages of its features."""
        dataset: Dataset = self._build("datasets", row, build.dataset)
        try:
            fingerprint = dataset.fingerprint()
            if fingerprint is None and self.fetch:
                dataset.fetch()
                fingerprint = dataset.fingerprint()
            elif fingerprint is None:
                dataset.size("train")
            if self.fetch and (few := [split for split in SPLITS if dataset.size(split) < LEAST]):
                counts = ", ".join(f"{dataset.size(split)} {split}" for split in few)
                raise ValueError(f"too few images: {counts}; each split needs {LEAST}, to have a spread")
            description = dataset.description()
        except (OSError, ValueError) as error:  # missing or unreadable files
            self.offline |= isinstance(error, OfflineError)
            raise self.refuse(row, str(error)) from None
        except Exception as error:  # a plugin may fail in any way
            file = registry.sources("datasets")[row.part].file
            raise self.refuse(row, registry.cause(error, file)) from None
        config = self.plain_config("datasets", row, dataset) | {"fingerprint": fingerprint}
        return DatasetPlan(row, dataset, config, description)

    def evaluator(self, row: MatrixRow) -> Evaluator:
        return self._build("evaluators", row, build.evaluator)

    def extractor(self, row: MatrixRow) -> FeatureExtractor:
        return self._build("features", row, build.extractor)

    def extractor_config(self, row: MatrixRow) -> dict[str, Any]:
        """An extractor's config with the hash of its weights."""
        extractor = self.extractor(row)
        if self.fetch and extractor.fingerprint() is None:
            try:
                extractor.fetch()
            except (OSError, RuntimeError) as error:  # no network, or a file with another hash
                self.offline |= isinstance(error, OfflineError)
                raise self.refuse(row, f"no weights: {error}") from None
        return part_config("features", row) | {"fingerprint": extractor.fingerprint()}

    def teacher(self, row: MatrixRow | None) -> MatrixRow:
        """The teacher of a regularizer or a generator: its own, or the matrix's."""
        return (row and row.teacher) or self.matrix.teacher

    def tokenizer(self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow) -> Tokenizer:
        """The tokenizer with as many outputs of its encoder as the regularizer asks for."""
        method = base_class(regularizer)
        return self._build(
            "tokenizers",
            tokenizer,
            lambda config: build.tokenizer(config, data.dataset, method),
            data.row.label,
            f"{method.expansion} {method.extra}",
        )

    def regularizer(self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow) -> Regularizer:
        spec = self.tokenizer(data, tokenizer, regularizer).spec
        facts = self.facts(data, regularizer)
        return self._build(
            "regularizers",
            regularizer,
            lambda config: build.regularizer(config, spec, facts),
            data.row.label,
            tokenizer.label,
        )

    def generator(
        self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow, generator: MatrixRow
    ) -> Generator:
        spec = self.tokenizer(data, tokenizer, regularizer).spec
        teacher = self.extractor(self.teacher(generator)).spec
        return self._build(
            "generators",
            generator,
            lambda config: build.generator(config, spec, data.dataset.classes, teacher),
            data.row.label,
            tokenizer.label,
        )

    def config(
        self, kind: str, row: MatrixRow, part: Tokenizer | Regularizer | Generator, data: DatasetPlan
    ) -> dict[str, Any]:
        """The config of a row's part, with hashes of the files that it reads."""
        fingerprint = part.fingerprint()
        if fingerprint is None and isinstance(part, Tokenizer):
            self._fetch(row, part)
            fingerprint = part.fingerprint()
        hashes = {} if fingerprint == "" else {"fingerprint": fingerprint}
        if part in self._reads:
            hashes["reads"] = self._reads[part]
        return self.plain_config(kind, row, data.dataset) | hashes

    def plain_config(self, kind: str, row: MatrixRow, dataset: Dataset) -> dict[str, Any]:
        """The config of a row's part; of the files that it reads, only those of tokenizers in its options."""
        return part_config(kind, row, lambda name, options: self._files_of(row, dataset, name, options))

    def _files_of(
        self, row: MatrixRow, dataset: Dataset, name: str, options: Mapping[str, Any]
    ) -> str | None:
        """The hash of what a tokenizer in an option of another part reads, its weights among it."""

        def build_inner(config: Config) -> Tokenizer:
            return build.tokenizer({"name": name, "options": options}, dataset)

        inner = MatrixRow(name, name, options, where=row.where)
        variant = (repr(sorted(options.items())), row.label, str(id(dataset)))
        model = self._build("tokenizers", inner, build_inner, *variant)
        own, file = model.fingerprint(), self._own_weights(row, model)
        if own is None:
            return None
        # Whoever needs the weights says it if they are missing.
        weights = weights_sha256(file) if file is not None and file.is_file() else ""
        return hashlib.sha256(f"{own} {weights}".encode()).hexdigest()

    def facts(self, data: DatasetPlan, regularizer: MatrixRow) -> dict[str, Any]:
        """The facts that a regularizer's constructor asks for by name."""
        names = build.facts_of(base_class(regularizer))
        teacher = self.extractor(self.teacher(regularizer))
        facts: dict[str, Any] = {"classes": data.dataset.classes, "teacher_spec": teacher.spec}
        if names & {"reference_spec", "reference_classes"}:
            source = self.reference(data, regularizer).source
            facts["reference_spec"] = source.spec
            facts["reference_classes"] = data.dataset.classes if source.labelled else 0
        return {name: facts[name] for name in names}

    def reference(self, data: DatasetPlan, regularizer: MatrixRow | None) -> ReferencePlan:
        """The regularizer's own reference, or the matrix's."""
        row = (regularizer and regularizer.reference) or self.matrix.reference
        teacher = self.extractor(self.teacher(regularizer))
        try:
            encoder = self._encoder(row)
            spec = teacher.spec
            if encoder is not None:
                spec = self.tokenizer(data, *encoder).spec
                self.regularizer(data, *encoder)
            source = self._build(
                "references",
                row,
                lambda config: build.reference(config, data.dataset, spec),
                data.row.label,
                str(spec),
            )
        except Unfit as error:
            raise self.refuse(row, f"the reference cannot be made: {error}") from error
        return ReferencePlan(row, source, encoder)

    def _encoder(self, reference: MatrixRow) -> tuple[MatrixRow, MatrixRow] | None:
        """The tokenizer and the regularizer of a reference made of latents, else None."""
        chosen: Mapping[str, Any] | None = {"use": reference.part, **reference.options}
        while chosen is not None and chosen["use"] != "latents":
            chosen = chosen.get("of")  # a reference that is made of another
        if chosen is None:
            return None

        def inner(choice: Mapping[str, Any]) -> MatrixRow:
            options = {key: value for key, value in choice.items() if key != "use"}
            return MatrixRow(f"reference's {choice['use']}", choice["use"], options, where=reference.where)

        label = chosen.get("row")
        if label is None:
            tokenizer = inner(chosen["tokenizer"])
        else:
            rows = {row.label: row for row in self.matrix.tokenizers}
            if label not in rows:
                message = registry.unknown("tokenizer of this matrix", label, list(rows))
                raise self.refuse(reference, message)
            tokenizer = rows[label]
        regularizer = inner(chosen["regularizer"])
        cls = base_class(regularizer)
        has_priors = cls.priors is not Regularizer.priors
        if has_priors or build.facts_of(cls) & {"reference_spec", "reference_classes"}:
            raise self.refuse(
                reference, f"a reference cannot be made by {regularizer.part}, which needs one itself"
            )
        return tokenizer, regularizer

    def initial_weights(
        self, data: DatasetPlan, tokenizer: MatrixRow, regularizer: MatrixRow
    ) -> dict[str, str | None] | None:
        """The path and the hash of the checkpoint that a tokenizer's training starts from, if from any."""
        file: Path | None = None
        if tokenizer.weights and tokenizer.weights != RANDOM:
            file = user_path(tokenizer.weights)
        elif not tokenizer.weights and not tokenizer.start:
            file = self._own_weights(tokenizer, self.tokenizer(data, tokenizer, regularizer))
        if file is None:
            return None
        if not file.is_file() and self.fetch:
            others = "" if tokenizer.weights else "; `weights: PATH` names another, `weights: random` none"
            raise self.refuse(tokenizer, f"there is no file {file}{others}")
        if not file.is_file():
            return {"file": str(file), "fingerprint": None}
        model = self.tokenizer(data, tokenizer, regularizer)

        def check() -> dict[str, str | None]:
            try:
                released_weights.state(model, file)
                return {"file": str(file), "fingerprint": weights_sha256(file)}
            except Unfit:
                raise
            except ValueError as error:
                raise self.refuse(tokenizer, str(error)) from None

        method = base_class(regularizer)
        outputs = f"{method.expansion} {method.extra}"
        return self._once(("weights", str(tokenizer.where), tokenizer.label, data.row.label, outputs), check)

    def _own_weights(self, row: MatrixRow, model: Tokenizer) -> Path | None:
        """The file that the part itself names, which is fetched if it must be here."""
        self._fetch(row, model)
        return model.own_weights()

    def _fetch(self, row: MatrixRow, model: Tokenizer) -> None:
        """Fetches files of a tokenizer that are missing, if they must be here."""
        if self.fetch:
            try:
                model.fetch()
            except (OSError, ValueError) as error:  # no network, or no such file there
                self.offline |= isinstance(error, OfflineError)
                raise self.refuse(row, f"no weights: {error}") from None

    def reconstruction(self, data: DatasetPlan) -> dict[str, Any]:
        """The reconstruction losses with the paths and hashes of their networks' weights."""

        def resolve() -> dict[str, Any]:
            try:
                return self._with_loss_files(plain(self.matrix.reconstruction), data)
            except (OSError, ValueError) as error:  # a missing or wrong file, or too small images
                self.offline |= isinstance(error, OfflineError)
                row = MatrixRow("reconstruction", "reconstruction", {}, where=self.matrix.losses)
                raise self.refuse(row, str(error)) from None

        return self._once(("reconstruction", data.row.label), resolve)

    def _with_loss_files(self, config: dict[str, Any], data: DatasetPlan) -> dict[str, Any]:
        if "lpips" in config:
            lpips = config["lpips"]
            backbone = Lpips(lpips["network"], lpips["weights"]).backbone
            if self.fetch and not backbone.random:
                backbone.file()
            fingerprint = backbone.fingerprint(lpips["network"])
            lpips["weights"] = {"file": lpips["weights"], "fingerprint": fingerprint}
        if "gan" in config:
            gan = config["gan"]
            with torch.device("meta"):
                losses.build_adversary({"gan": gan}, data.dataset.image)
            if gan["dino"] not in (None, RANDOM):
                file = user_path(gan["dino"])
                if self.fetch and not file.is_file():
                    raise FileNotFoundError(f"there is no file {file}")
                if file.is_file():
                    is_safetensors(file)  # raises if the file is no weight file
                gan["dino"] = _file_config(file)
        return config

    def parameters(self, module: nn.Module) -> int:
        """Number of trainable parameters."""
        if module not in self._counts:
            self._counts[module] = sum(p.numel() for p in module.parameters() if p.requires_grad)
        return self._counts[module]

    def refuse(self, row: MatrixRow, message: str) -> Refused:
        """Collects a problem at a row and returns the error to raise."""
        problem = problem_at_row(row, message)
        self.problems[row.where, problem.message] = problem
        return Refused()

    def _build(self, kind: str, row: MatrixRow, construct: Callable[[Config], Any], *variant: str) -> Any:
        """The part on the meta device; `variant` names what the part depends on besides its row."""

        def on_meta() -> Any:
            config = {"name": row.part, "options": row.options}
            try:
                with torch.device("meta"), _limited_modules():
                    if not any("source" in part for part in with_used(part_config(kind, row))):
                        return construct(config)
                    with recorded_reads() as files:
                        part = construct(config)
                if files and isinstance(part, nn.Module):
                    self._reads[part] = " ".join(map(sha256, sorted(files)))
                return part
            except Unfit:
                raise
            except (ValueError, registry.PartError, OfflineError) as error:
                self.offline |= isinstance(error, OfflineError)
                raise self.refuse(row, str(error)) from None
            except Exception as error:  # a plugin's constructor may fail in any way
                file = registry.sources(kind)[row.part].file
                raise self.refuse(row, f"cannot be built: {registry.cause(error, file)}") from None

        return self._once((kind, str(row.where), row.label, *variant), on_meta)

    def _once(self, key: tuple[str, ...], compute: Callable[[], Any]) -> Any:
        """The value of `compute`, called once for each key; its `Unfit` or `Refused` is raised every time."""
        if key not in self._results:
            try:
                self._results[key] = compute()
            except (Unfit, Refused) as error:
                self._results[key] = error
        result = self._results[key]
        if isinstance(result, Exception):
            raise result.with_traceback(None)
        return result


def _file_config(file: Path) -> dict[str, str | None]:
    """A file's path and the hash of its content, None while it is missing."""
    return {"file": str(file), "fingerprint": sha256(file) if file.is_file() else None}


@contextmanager
def _limited_modules() -> Iterator[None]:
    """Refuses a part of more modules than any network has: `depth: 1000000000` would be built for hours."""
    left = MAX_MODULES

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {MAX_MODULES:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
