"""Step time, MFU, days and chip-hours from FLOPs, bytes and links: an estimate, with its assumptions named.

Of a recipe alone by closed forms, of a compiled program from its own instructions and collectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raexla.plan.counts import Counts
from raexla.plan.links import ALL_DIMS, Sent, lay
from raexla.plan.links import seconds as seconds_on_links
from raexla.plan.program import ProgramFacts
from raexla.plan.slices import Slice

PRODUCTS, MEMORY, LINKS, NETWORK = "matrix products", "memory", "links of the slice", "network between slices"
"""What a step's time can go into."""


@dataclass(frozen=True)
class Assumptions:
    """What no compiler says. Shown with every figure that depends on them."""

    matmul_efficiency: float = 0.75
    """Of the peak that bf16 matrix products of these sizes reach, all that stands between them included."""
    hbm_efficiency: float = 0.8
    """Of the memory's bandwidth that what it binds reaches."""
    link_efficiency: float = 0.8
    """Of the links' bandwidth that collectives reach."""
    overlap: float = 0.9
    """Of the time of collectives that runs behind other work; in compiled programs of those that the compiler set
    beside other work, and nothing of the others."""
    recompute: float = 0.0
    """What the backward pass runs again, as a part of the step's FLOPs (nearly 1/3: every trained block once more). A
    compiled program has it in its own count."""


@dataclass(frozen=True)
class Estimate:
    """Of a training step on a slice. Seconds, unless they say otherwise."""

    compute: float
    """Matrix products."""
    memory: float
    """What instructions that wait for memory take beyond their products; in closed form only the optimiser's."""
    collectives: float
    across_slices: float
    hidden: float
    """Of the two before, what runs behind other work."""
    step_seconds: float
    mfu: float
    images_per_second_per_chip: float
    days: float
    chip_hours: float
    limit: str
    """What takes longest."""
    assumptions: dict[str, Any]
    source: str
    """`closed form` or `compiled program`."""

    @property
    def terms(self) -> dict[str, float]:
        """What the step's time goes into, before anything is hidden."""
        return {PRODUCTS: self.compute, MEMORY: self.memory, LINKS: self.collectives, NETWORK: self.across_slices}


def estimate(
    counts: Counts, where: Slice, mesh: Mapping[str, int], accumulate: int = 1, assume: Assumptions | None = None
) -> Estimate:
    """In closed form: matrix products at a part of the peak, and what the mesh makes the chips send each other.

    Trained parameters are gathered twice for each micro-batch (forward and backward, bf16) and their gradients
    scattered once (float32); over all three dims of a torus both cost twice the bytes. Between copies gradients are
    added up (float32). A tensor axis adds up each block's output four times (bf16). Of what waits for memory only the
    optimiser's numbers are counted: 28 bytes of a parameter are read and written in an update, 12 more to add each
    further micro-batch's gradient.

    Raises:
        UserError: a mesh whose axes don't lie within the slices.
    """
    assume = assume or Assumptions()
    compute = counts.step_flops * (1 + assume.recompute) / (where.peak_flops * assume.matmul_efficiency)
    inside, across = seconds_on_links(_closed(counts, where, mesh, accumulate), where, mesh, assume.link_efficiency)
    held = counts.gathered_parameters / (mesh["fsdp"] * mesh["tensor"])
    memory = held * (28 + 12 * (accumulate - 1)) / (where.chip.hbm_bandwidth * assume.hbm_efficiency)
    hidden = min(assume.overlap * (inside + across), compute)
    return _made(counts, where, assume, "closed form", (compute, memory, inside, across, hidden))


def _closed(counts: Counts, where: Slice, mesh: Mapping[str, int], accumulate: int) -> Sequence[Sent]:
    gathered = counts.gathered_parameters / mesh["tensor"]
    fsdp, tensor, copies = mesh["fsdp"], mesh["tensor"], mesh["data"]
    clumsy = 2 if len(lay(where, mesh)["fsdp"].dims) >= ALL_DIMS else 1
    rows = counts.global_batch_images / (copies * fsdp)
    moved = gathered * (fsdp - 1) / fsdp
    return (
        Sent("all-gather", "fsdp", 2 * 2 * accumulate * moved * clumsy, fsdp),
        Sent("reduce-scatter", "fsdp", 4 * accumulate * moved * clumsy, fsdp),
        Sent("all-reduce", "data", 2 * 4 * gathered / fsdp * (copies - 1) / copies, copies),
        Sent("all-reduce", "tensor", 2 * 4 * rows * counts.stream_bytes_per_image * (tensor - 1) / tensor, tensor),
    )


def estimate_program(
    counts: Counts, where: Slice, mesh: Mapping[str, int], facts: ProgramFacts, assume: Assumptions | None = None
) -> Estimate:
    """From the compiled program: each instruction takes as long as its products or the bytes that it moves, whichever
    is longer; each collective as long as its bytes on the links of its mesh axis.

    The compiler's own `estimated_cycles` are not used: for what waits for memory they stand for some 400 GB/s on a
    v5p, a sixth of what the chip is sold with, and they have nothing for kernels.
    """
    assume = assume or Assumptions()
    flops, bytes_ = where.chip.bf16_flops * assume.matmul_efficiency, where.chip.hbm_bandwidth * assume.hbm_efficiency
    compute = sum(one.flops for one in facts.timed) / flops
    busy = sum(one.seconds(flops, bytes_) for one in facts.timed)
    inside, across = _program_links(facts, where, mesh, assume, beside=None)
    beside = sum(_program_links(facts, where, mesh, assume, beside=True))
    hidden = min(assume.overlap * beside, busy)
    return _made(counts, where, assume, "compiled program", (compute, busy - compute, inside, across, hidden))


def _program_links(
    facts: ProgramFacts, where: Slice, mesh: Mapping[str, int], assume: Assumptions, beside: bool | None
) -> tuple[float, float]:
    """Time of the collectives that run beside other work (True), that don't (False), of all (None)."""
    sent = [
        Sent(one.kind, one.axis, float(one.total), one.group_size)
        for one in facts.collectives
        if beside is None or one.hidden == beside
    ]
    return seconds_on_links(sent, where, mesh, assume.link_efficiency)


def _made(
    counts: Counts, where: Slice, assume: Assumptions, source: str, times: tuple[float, float, float, float, float]
) -> Estimate:
    compute, memory, inside, across, hidden = times
    seconds = compute + memory + inside + across - hidden
    terms = {PRODUCTS: compute, MEMORY: memory, LINKS: inside, NETWORK: across}
    return Estimate(
        compute=compute,
        memory=memory,
        collectives=inside,
        across_slices=across,
        hidden=hidden,
        step_seconds=seconds,
        mfu=counts.model_flops / (seconds * where.peak_flops),
        images_per_second_per_chip=counts.global_batch_images / seconds / where.chips,
        days=counts.steps * seconds / 86400,
        chip_hours=counts.steps * seconds * where.chips / 3600,
        limit=max(terms, key=lambda name: terms[name]),
        assumptions=asdict(assume),
        source=source,
    )
