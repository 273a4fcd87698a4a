"""What a plan counts: networks, FLOPs, bytes; and the memory of one chip that follows from them.

Memory is in float32 where the recipe computes in it: masters, gradients and optimiser states are always float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from raexla.plan.slices import GIB, Slice
from raexla.recipe import UserError


@dataclass(frozen=True)
class Part:
    """A network of the step: its parameters, whether they are trained and averaged, its FLOPs in a step."""

    name: str
    parameters: int
    trained: bool
    averaged: bool
    model_flops: float
    """Of a global step, forward and backward, by MFU's convention (`obs/timing.py`)."""
    judging_flops: float = 0.0
    """What MFU leaves out: networks that only judge (a decoder's), and what is run again for them."""
    repeated_flops: float = 0.0
    """What the backward pass runs again."""
    split: bool = True
    """Whether the parameters are split over the mesh, by a sharding table; else every chip has them all."""
    gradients: int = 1
    """Gradients of each trained parameter that stand in memory at once."""

    @property
    def step_flops(self) -> float:
        """All of a global step, without what is run again."""
        return self.model_flops + self.judging_flops


@dataclass(frozen=True)
class Counts:
    """A recipe in numbers, before any slice."""

    parts: tuple[Part, ...]
    global_batch_images: int
    steps: int
    activation_bytes_per_image: Mapping[str, float]
    """What the backward pass reads, per sample of the global batch (mean over kinds of samples)."""
    phase: str = "train"
    """The phase of training that was counted."""
    stream_bytes_per_image: float = 0.0
    """Of all trained blocks' outputs (bf16), per sample: what a tensor axis adds up between its chips."""
    heads: tuple[int, ...] = ()
    """Of the attentions that a tensor axis splits: it has to divide each."""

    @property
    def model_flops(self) -> float:
        """Of a global step, by MFU's convention."""
        return sum(part.model_flops for part in self.parts)

    @property
    def step_flops(self) -> float:
        """Of a global step, judging networks included, without what is run again."""
        return sum(part.step_flops for part in self.parts)

    @property
    def gathered_parameters(self) -> int:
        """Parameters that fsdp gathers before use."""
        return sum(part.parameters for part in self.parts if part.trained)

    @property
    def repeated_flops(self) -> float:
        """What the backward pass of a global step runs again."""
        return sum(part.repeated_flops for part in self.parts)


@dataclass(frozen=True)
class Memory:
    """GiB of one chip, by part."""

    weights: float
    gradients: float
    optimiser: float
    averages: float
    frozen: float
    activations: Mapping[str, float]

    @property
    def total(self) -> float:
        """All of it at once: an upper bound, since gradients grow while activations go."""
        standing = self.weights + self.gradients + self.optimiser + self.averages + self.frozen
        return standing + sum(self.activations.values())


def memory(counts: Counts, where: Slice, mesh: Mapping[str, int], accumulate: int = 1) -> Memory:
    """Bytes of a chip, when parameters with a sharding table are split over fsdp x tensor and the batch over
    data x fsdp.

    Raises:
        UserError: a mesh that doesn't fill the slice.
    """
    if prod(mesh.values()) != where.chips:
        raise UserError(f"mesh: {prod(mesh.values())} devices, {where.name} has {where.chips} chips")
    split = mesh["fsdp"] * mesh["tensor"]

    def of(part: Part, copies: int = 1) -> float:
        return 4 * copies * part.parameters / (split if part.split else 1) / GIB

    trained = [part for part in counts.parts if part.trained]
    rows = counts.global_batch_images / (mesh["data"] * mesh["fsdp"]) / accumulate
    return Memory(
        weights=sum(of(part) for part in trained),
        gradients=sum(of(part, part.gradients) for part in trained),
        optimiser=sum(of(part, 2) for part in trained),
        averages=sum(of(part) for part in trained if part.averaged),
        frozen=sum(of(part) for part in counts.parts if not part.trained),
        activations={
            name: size * rows / mesh["tensor"] / GIB for name, size in counts.activation_bytes_per_image.items()
        },
    )
