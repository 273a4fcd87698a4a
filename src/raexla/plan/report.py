"""What a plan says, as values: for a program (`as_dict`), for the text (`text.py`) and the page (`page.py`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raexla.plan.analytic import Counts, Memory
from raexla.plan.compiler import Compiled
from raexla.plan.estimate import Estimate
from raexla.plan.intake import Intake, checkpoint_gib
from raexla.plan.program import ProgramFacts
from raexla.plan.slices import GIB, Slice
from raexla.plan.waste import by_network, run_again

CAVEAT = "Estimates: none of these figures has met a TPU."
USABLE = 0.95
"""Of a chip's memory; the rest is the runtime's."""


@dataclass(frozen=True)
class Plan:
    """Everything that was found about a recipe on a slice.

    compiled, facts: None in a quick plan. refused_gib: what the compiler would have needed where it found no way to
    fit.
    """

    recipe: str
    where: Slice
    mesh: Mapping[str, int]
    counts: Counts
    memory: Memory
    estimate: Estimate
    intake: Intake
    compiled: Compiled | None = None
    facts: ProgramFacts | None = None
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

    @property
    def images_per_second(self) -> float:
        """Of all chips."""
        return self.estimate.images_per_second_per_chip * self.where.chips

    @property
    def standing_gib(self) -> dict[str, float]:
        """GiB a chip by part: of the compiled program at its fullest moment, else in closed form. Their sum is
        `peak_hbm_gib`, except where the compiler refused."""
        if self.compiled is not None and self.facts is not None:
            held = {_ARGUMENTS[name]: size / GIB for name, size in self.facts.arguments.items()}
            rest = self.compiled.peak_gib - sum(held.values())
            found = {**held, "activations and temporaries": max(rest, 0.0)}
        else:
            memory = self.memory
            found = {
                "weights (float32)": memory.weights,
                "gradients": memory.gradients,
                "AdamW's two moments": memory.optimiser,
                "moving averages": memory.averages,
                "frozen networks": memory.frozen,
                **{f"activations: {name}": size for name, size in memory.activations.items()},
            }
        least = sum(found.values()) / 2000  # what no bar would show
        return {name: size for name, size in found.items() if size > least}

    @property
    def waste(self) -> float | None:
        """FLOPs of the compiled program's products over the recipe's own, minus 1; what it runs again included."""
        if self.facts is None:
            return None
        return self.facts.product_flops * self.where.chips / self.counts.step_flops - 1

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the keys `fits`, `peak_hbm_gib`, `mfu`, `step_seconds` and `images_per_second_per_chip` stay."""
        made, facts, guess = self.compiled, self.facts, self.estimate
        return {
            "recipe": self.recipe,
            "topology": self.where.name,
            "chips": self.where.chips,
            "mesh": dict(self.mesh),
            "phase": self.counts.phase,
            "fits": self.fits,
            "peak_hbm_gib": self.peak_hbm_gib,
            "hbm_gib": self.where.chip.hbm_gib,
            "hbm_by_part_gib": self.standing_gib,
            "mfu": guess.mfu,
            "step_seconds": guess.step_seconds,
            "seconds_by_term": guess.terms,
            "images_per_second_per_chip": guess.images_per_second_per_chip,
            "images_per_second": self.images_per_second,
            "days": guess.days,
            "chip_hours": guess.chip_hours,
            "limit": guess.limit,
            "parts": [asdict(part) for part in self.counts.parts],
            "model_flops_per_step": self.counts.model_flops,
            "waste": self.waste,
            "memory_gib": asdict(self.memory),
            "input": {
                "hosts": self.where.hosts,
                "samples_per_second_per_host": self.images_per_second / self.where.hosts,
                "bytes_per_second": self.images_per_second * self.intake.sample_bytes,
                "bytes_per_second_per_host": self.images_per_second * self.intake.sample_bytes / self.where.hosts,
                "assumed": self.intake.said,
            },
            "checkpoint_gib": checkpoint_gib(self.counts),
            "compiler": None if made is None else {k: v for k, v in asdict(made).items() if k != "hlo"},
            "program": None
            if facts is None
            else {**facts.as_dict(), "flops_by_network": by_network(facts), "run_again": run_again(facts)},
            "refused_gib": self.refused_gib,
            "estimate": asdict(guess),
            "caveat": CAVEAT,
        }


_ARGUMENTS = {
    "weights": "weights",
    "optimiser": "optimiser",
    "averages": "moving averages",
    "frozen": "frozen networks",
    "batch": "batch",
    "constants": "constants",
}
"""Parts of a program's arguments (`program.PARTS`) -> their names in a table."""
