"""Data sheets of accelerators, and the cost of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Accelerator:
    """Peak speed of dense matrix products without sparsity, and memory."""

    name: str
    peak: Mapping[str, float]  # FLOP/s by precision
    memory: float | None  # bytes; None: the main memory of this machine


ACCELERATORS = {
    # NVIDIA's data sheets: H100 SXM, A100 SXM 80 GB, GeForce RTX 4090 (Ada whitepaper, fp32 accumulation).
    "h100": Accelerator("h100", {"fp32": 67e12, "bf16": 989e12}, 80e9),
    "a100": Accelerator("a100", {"fp32": 19.5e12, "bf16": 312e12}, 80e9),
    "rtx4090": Accelerator("rtx4090", {"fp32": 82.6e12, "bf16": 165.2e12}, 24e9),
    # One core with AVX2: 2 multiply-adds of 8 floats in each of 3e9 cycles; half precision is no faster.
    "cpu": Accelerator("cpu core", {"fp32": 96e9, "bf16": 96e9}, None),
}


@dataclass(frozen=True)
class Cost:
    """The cost of one stage; None is a number that needs data or values, and `note` is the reason.

    Weights, optimizer, activations and temporary tensors are where networks are computed, sets and what is
    needed in passing in main memory on every device. Tensors in mapped files take no memory.
    """

    parameters: int = 0  # trainable
    parameters_total: int = 0
    images: int = 0  # or latents, that the stage processes
    flops_per_image: float | None = 0.0  # forward and, in training, backward
    weights_memory_bytes: int = 0
    optimizer_memory_bytes: int = 0  # gradients, AdamW's two moments, the average of weights
    activation_memory_bytes: int | None = 0  # kept by autograd in a training step
    temporary_memory_bytes: int = 0  # inputs and other tensors that are alive at the peak of a step or a pass
    set_memory_bytes: int = 0  # images, latents, features, distances
    passing_memory_bytes: int = (
        0  # before and between the steps: copies for a checkpoint, mapping a reference
    )
    disk_bytes: int | None = 0
    note: str = ""
    scratch_disk_bytes: int = 0  # temporary files, removed when the stage ends
    gap_memory_bytes: int = 0  # what a CPU's heap takes beside activations and temporary tensors
    partial: bool = False  # whether operations beside those of `flops_per_image` are not counted
    memory_advice: str = ""  # what takes less memory, where the kind of stage doesn't say it

    @property
    def flops(self) -> float | None:
        return None if self.flops_per_image is None else self.flops_per_image * self.images

    @property
    def memory_bytes(self) -> int | None:
        """Memory where networks are computed, at its peak."""
        return None if self.activation_memory_bytes is None else self.known_memory(of_cpu=False)

    @property
    def cpu_memory_bytes(self) -> int | None:
        """Memory of a CPU, which computes and holds the sets, at its peak, with gaps between tensors."""
        return None if self.activation_memory_bytes is None else self.known_memory(of_cpu=True)

    @property
    def host_memory_bytes(self) -> int:
        """Main memory beside an accelerator's, at its peak."""
        return self.set_memory_bytes + self.passing_memory_bytes

    def known_memory(self, of_cpu: bool) -> int:
        """The memory of a CPU, or that where networks are computed; unknown activations count as 0."""
        step = (self.activation_memory_bytes or 0) + self.temporary_memory_bytes
        lasting = self.weights_memory_bytes + self.optimizer_memory_bytes
        if not of_cpu:
            return lasting + step
        step += self.gap_memory_bytes
        return lasting + self.set_memory_bytes + max(step, self.passing_memory_bytes)

    def hours(self, accelerator: Accelerator, precision: str, utilisation: float) -> float | None:
        """Hours on one accelerator; `utilisation` is the share of its peak speed, from 0 to 1."""
        return None if self.flops is None else self.flops / (accelerator.peak[precision] * utilisation * 3600)

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {
            "flops": self.flops,
            "memory_bytes": self.memory_bytes,
            "host_memory_bytes": self.host_memory_bytes,
        }
