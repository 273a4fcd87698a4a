"""Step time, MFU, days and chip-hours from FLOPs, bytes and links: an estimate, with its assumptions named."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raexla.plan.analytic import Counts
from raexla.plan.slices import Slice


@dataclass(frozen=True)
class Assumptions:
    """What no compiler says. Shown with every figure that depends on them."""

    matmul_efficiency: float = 0.75
    """Of the peak that bf16 matrix products of these sizes reach, all that stands between them included."""
    link_efficiency: float = 0.8
    """Of the links' bandwidth that collectives reach."""
    overlap: float = 0.9
    """Of the collectives' time that runs behind matrix products."""
    recompute: float = 0.0
    """What the backward pass runs again, as a part of the step's FLOPs (nearly 1/3: every trained block once more)."""


@dataclass(frozen=True)
class Estimate:
    """Of a training step on a slice. Seconds, unless they say otherwise."""

    compute: float
    collectives: float
    across_slices: float
    step_seconds: float
    mfu: float
    images_per_second_per_chip: float
    days: float
    chip_hours: float
    limit: str
    """What takes longest."""
    assumptions: dict[str, Any]


def estimate(
    counts: Counts, where: Slice, mesh: Mapping[str, int], accumulate: int = 1, assume: Assumptions | None = None
) -> Estimate:
    """Time of a step: matrix products at a part of the peak, the parameters' gathering and the gradients' scattering
    over the slice's links (bf16 there, float32 back), gradients between slices over the data-centre network.

    Parameters are gathered twice for each micro-batch (forward and backward), gradients scattered once.
    """
    assume = assume or Assumptions()
    compute = counts.step_flops * (1 + assume.recompute) / (where.peak_flops * assume.matmul_efficiency)
    gathered = counts.gathered_parameters / mesh["tensor"]
    part = (mesh["fsdp"] - 1) / mesh["fsdp"]
    link = where.ring_bandwidth * assume.link_efficiency
    moved = gathered * part * (2 * 2 * accumulate + 4 * accumulate)
    collectives = moved / link if mesh["fsdp"] > 1 else 0.0
    copies = mesh["data"]
    across = 0.0
    if copies > 1:
        own = 4.0 * gathered / mesh["fsdp"] * 2 * (copies - 1) / copies
        across = own / (where.chip.dcn_bandwidth if where.slices > 1 else link)
    hidden = min(assume.overlap * (collectives + across), compute)
    seconds = compute + collectives + across - hidden
    terms = {"matrix products": compute, "links of the slice": collectives, "network between slices": across}
    steps = counts.steps
    return Estimate(
        compute=compute,
        collectives=collectives,
        across_slices=across,
        step_seconds=seconds,
        mfu=counts.model_flops / (seconds * where.peak_flops),
        images_per_second_per_chip=counts.global_batch_images / seconds / where.chips,
        days=steps * seconds / 86400,
        chip_hours=steps * seconds * where.chips / 3600,
        limit=max(terms, key=lambda name: terms[name]),
        assumptions=asdict(assume),
    )
