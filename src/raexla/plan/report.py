"""What a plan says, as lines for a person and as values for a program."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raexla.plan.analytic import Counts, Memory
from raexla.plan.compiler import Compiled
from raexla.plan.estimate import Estimate
from raexla.plan.slices import GIB, Slice

CAVEAT = "Estimates: none of these figures has met a TPU."
USABLE = 0.95
"""Of a chip's memory; the rest is the runtime's."""


@dataclass(frozen=True)
class Plan:
    """Everything that was found about a recipe on a slice. `compiled` is None in a quick plan; `refused_gib` is what
    the compiler would have needed where it found no way to fit."""

    recipe: str
    where: Slice
    mesh: Mapping[str, int]
    counts: Counts
    memory: Memory
    estimate: Estimate
    compiled: Compiled | None = None
    refused_gib: float | None = None

    @property
    def peak_hbm_gib(self) -> float:
        """The compiler's where there is one, else the closed form's upper bound."""
        if self.compiled is not None:
            return self.compiled.peak_gib
        return self.refused_gib if self.refused_gib is not None else self.memory.total

    @property
    def fits(self) -> bool:
        """Whether it stands in a chip's memory."""
        if self.refused_gib is not None:
            return False
        return self.peak_hbm_gib <= USABLE * self.where.chip.hbm_gib

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the keys `fits`, `peak_hbm_gib`, `mfu`, `step_seconds` and `images_per_second_per_chip` stay."""
        made = self.compiled
        return {
            "recipe": self.recipe,
            "topology": self.where.name,
            "chips": self.where.chips,
            "mesh": dict(self.mesh),
            "fits": self.fits,
            "peak_hbm_gib": self.peak_hbm_gib,
            "hbm_gib": self.where.chip.hbm_gib,
            "mfu": self.estimate.mfu,
            "step_seconds": self.estimate.step_seconds,
            "images_per_second_per_chip": self.estimate.images_per_second_per_chip,
            "images_per_second": self.estimate.images_per_second_per_chip * self.where.chips,
            "days": self.estimate.days,
            "chip_hours": self.estimate.chip_hours,
            "limit": self.estimate.limit,
            "parts": [asdict(part) for part in self.counts.parts],
            "model_flops_per_step": self.counts.model_flops,
            "memory_gib": asdict(self.memory),
            "checkpoint_gib": checkpoint_gib(self.counts),
            "compiler": None if made is None else {k: v for k, v in asdict(made).items() if k != "hlo"},
            "estimate": asdict(self.estimate),
            "caveat": CAVEAT,
        }


def checkpoint_gib(counts: Counts) -> float:
    """Masters, two moments and averages of what is trained."""
    numbers = sum(part.parameters * (3 + part.averaged) for part in counts.parts if part.trained)
    return 4 * numbers / GIB


def lines(plan: Plan) -> list[str]:
    """For a person."""
    counts, guess, where = plan.counts, plan.estimate, plan.where
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    out = [
        f"{plan.recipe} on {where.name}: {where.chips} chips, {mesh}",
        "",
        "  part              parameters   PFLOP/step",
    ]
    for part in counts.parts:
        note = "" if part.trained else "  frozen"
        out.append(f"  {part.name:<16} {part.parameters / 1e9:9.3f} B   {part.model_flops / 1e15:10.3f}{note}")
    out.append(
        f"  {'together':<16} {sum(p.parameters for p in counts.parts) / 1e9:9.3f} B   {counts.model_flops / 1e15:10.3f}"
    )
    memory = plan.memory
    standing = {
        "weights (float32)": memory.weights,
        "gradients": memory.gradients,
        "AdamW's two moments": memory.optimiser,
        "moving averages": memory.averages,
        "frozen networks": memory.frozen,
        **{f"activations: {name}": size for name, size in memory.activations.items()},
    }
    out += ["", "  GiB a chip, in closed form (an upper bound: everything at once)"]
    out += [f"  {name:<28} {size:8.2f}" for name, size in standing.items() if size >= 0.005]
    out.append(f"  {'together':<28} {memory.total:8.2f} of {where.chip.hbm_gib:g}")
    if plan.compiled is not None:
        made = plan.compiled
        out += [
            "",
            f"  compiled in {made.seconds:.0f} s: peak {made.peak_gib:.2f} GiB a chip "
            f"(arguments {made.arguments_gib:.2f}, temporaries {made.temporaries_gib:.2f})",
        ]
    if plan.refused_gib is not None:
        out += ["", f"  the compiler finds no way to fit: {plan.refused_gib:.1f} GiB needed"]
    rate = guess.images_per_second_per_chip
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    out += [
        "",
        f"  {verdict}: {plan.peak_hbm_gib:.1f} GiB of {where.chip.hbm_gib:g} a chip",
        f"  {guess.step_seconds:.2f} s a step, MFU {guess.mfu:.0%}, "
        f"{rate:.1f} images/s a chip ({rate * where.chips:,.0f}/s together); longest: {guess.limit}",
        f"  {counts.steps:,} steps: {guess.days:.1f} days, {guess.chip_hours:,.0f} chip-hours; "
        f"a checkpoint is {checkpoint_gib(counts):.0f} GiB",
        f"  assumed: {', '.join(f'{name} {value:g}' for name, value in guess.assumptions.items())}",
        f"  {CAVEAT}",
    ]
    return out
