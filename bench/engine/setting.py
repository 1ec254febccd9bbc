"""The settings that are the same for all stages of a run, and how a stage runs under them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import registry
from ..runtime.heap import keep_freed_memory
from ..store import mirror
from ..store.artifacts import Artifact, Result, Store
from ..store.stage import Stage

if TYPE_CHECKING:
    from ..runtime.processes import Group


@dataclass(frozen=True)
class Setting:
    """The settings of a worker and its companions."""

    root: Path  # of the store
    plugins: tuple[Path, ...]
    threads: int
    device: str
    precision: str
    loaders: int = 0  # processes that decode images ahead
    url: str = ""  # a second place of artifacts
    processes: int = 1  # that share each stage

    @property
    def store(self) -> Store:
        return mirror.at(self.root, self.url)

    def apply(self) -> None:
        """Prepares a worker or companion before its first stage."""
        import torch

        torch.set_num_threads(self.threads)
        # LZN's softmax is full of denormals; all workers of all engines must agree, for it changes last bits.
        torch.set_flush_denormal(True)
        keep_freed_memory()
        for plugin in self.plugins:
            registry.load_plugin(plugin)

    def run_stage(self, stage: Stage, inputs: dict[str, Artifact], group: Group, **context: Any) -> Result:
        """The result of a stage, which isn't stored; `context` are further arguments of Context."""
        from ..stages.table import STAGES
        from ..training.context import Context

        work = self.store.work(stage)
        options = Context(work, self.device, self.precision, loaders=self.loaders, group=group, **context)
        return STAGES[stage.kind](stage.config, inputs, options)
