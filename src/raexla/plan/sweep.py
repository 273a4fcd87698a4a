"""Meshes, rematerialisation, accumulation and batches of a recipe, tried in closed form and ranked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from raexla.plan.analytic import Counts, count, memory, recomputed_share
from raexla.plan.estimate import Assumptions, Estimate, estimate
from raexla.plan.report import CAVEAT, USABLE
from raexla.plan.slices import Slice
from raexla.plan.unified import shares
from raexla.recipe import Recipe, UserError
from raexla.train.base import StageRecipe
from raexla.train.decoder import DecoderTrainingRecipe

REMATS = ("none", "selective", "blocks")
ACCUMULATES = (1, 2, 4, 8, 16)
TENSORS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Trial:
    """One setting. changed: key -> value for `--set`, of what differs from the recipe."""

    mesh: Mapping[str, int]
    remat: str
    accumulate: int
    global_batch_images: int
    changed: Mapping[str, Any]
    hbm_gib: float
    estimate: Estimate

    @property
    def rank(self) -> tuple[float, float]:
        """The most images/s a chip first; of equals the one that needs less memory."""
        return -self.estimate.images_per_second_per_chip, self.hbm_gib


@dataclass(frozen=True)
class Sweep:
    """What was tried on a slice. ranked: what fits, the best first. least: the smallest, of what doesn't fit."""

    recipe: str
    where: Slice
    ranked: tuple[Trial, ...]
    least: Trial | None
    tried: int

    def lines(self, top: int = 12) -> list[str]:
        """For a person."""
        chip = self.where.chip
        out = [
            f"{self.recipe} on {self.where.name}: {len(self.ranked)} of {self.tried} settings fit {USABLE:.0%} of "
            f"{chip.hbm_gib:g} GiB in closed form",
        ]
        if not self.ranked:
            assert self.least is not None
            need = f"{self.least.hbm_gib:.1f} GiB with {_settings(self.least)}"
            return [*out, f"  the least needs {need}", "  more chips, or losses.language_chunks, may do", f"  {CAVEAT}"]
        head = "images/s a chip   s/step    MFU     GiB     days  --set"
        out += ["", f"  {head}"]
        for one in self.ranked[:top]:
            guess = one.estimate
            out.append(
                f"  {guess.images_per_second_per_chip:15.2f} {guess.step_seconds:8.3f} {guess.mfu:6.1%} "
                f"{one.hbm_gib:7.1f} {guess.days:8.2f}  {_settings(one)}"
            )
        if len(self.ranked) > top:
            out.append(f"  and {len(self.ranked) - top} more (--top)")
        best = "".join(f" --set {key}={value}" for key, value in self.ranked[0].changed.items())
        slices = f" --slices {self.where.slices}" if self.where.slices > 1 else ""
        name = self.where.name.removeprefix(f"{self.where.slices} x ")
        out += [
            "",
            "  Memory is an upper bound and times are at best: have the first compiled,",
            f"    raexla plan {self.recipe} --topology {name}{slices}{best}",
            f"  {CAVEAT}",
        ]
        return out

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "recipe": self.recipe,
            "topology": self.where.name,
            "tried": self.tried,
            "ranked": [
                {
                    "set": dict(one.changed),
                    "mesh": dict(one.mesh),
                    "remat": one.remat,
                    "accumulate": one.accumulate,
                    "global_batch_images": one.global_batch_images,
                    "fits": True,
                    "peak_hbm_gib": one.hbm_gib,
                    "mfu": one.estimate.mfu,
                    "step_seconds": one.estimate.step_seconds,
                    "images_per_second_per_chip": one.estimate.images_per_second_per_chip,
                    "days": one.estimate.days,
                }
                for one in self.ranked
            ],
            "caveat": CAVEAT,
        }


def sweep_recipe(
    recipe: Recipe, name: str, topology: str, slices: int = 1, batches: Sequence[int] = (), phase: str | None = None
) -> Sweep:
    """Try settings of a recipe on a slice: seconds, no compiler.

    Args:
        topology: `v5p:4x4x4`.
        slices: equal slices; `data` is a multiple of them.
        batches: global batches to try; the recipe's own if none is given, since another trains another model.
        phase: of training; the heaviest if not given.

    Raises:
        UserError: what can't be planned, or no mesh and accumulation over which the batch's rows divide.
    """
    count(recipe, phase)  # refuses what can't be planned
    assert isinstance(recipe, StageRecipe)
    where = Slice.parse(topology, slices)
    trials = list(_trials(recipe, where, batches or (recipe.train.global_batch_images,), phase))
    if not trials:
        rows = ", ".join(f"{n:g}" for n in _rows(recipe))
        raise UserError(
            f"--sweep: no mesh of {where.chips} chips over which a step's rows divide (by kind of sample: {rows}); "
            "change train.global_batch_images or the sources' weights, or add --batch"
        )
    ranked = sorted((one for one in trials if one.hbm_gib <= USABLE * where.chip.hbm_gib), key=lambda one: one.rank)
    return Sweep(name, where, tuple(ranked), min(trials, key=lambda one: one.hbm_gib), len(trials))


def meshes(where: Slice, heads: Sequence[int]) -> Iterator[dict[str, int]]:
    """Every data x fsdp x tensor that fills the chips, `data` a multiple of the slices, `tensor` dividing all heads."""
    for tensor in TENSORS:
        if where.chips_in_slice % tensor or any(many % tensor for many in heads):
            continue
        split = where.chips_in_slice // tensor
        for fsdp in (n for n in range(split, 0, -1) if split % n == 0):
            yield {"data": where.chips // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor}


def _trials(recipe: StageRecipe, where: Slice, batches: Sequence[int], phase: str | None) -> Iterator[Trial]:
    # a decoder's networks keep what they compute, whatever the recipe says
    remats = (recipe.runtime.remat,) if isinstance(recipe, DecoderTrainingRecipe) else REMATS
    for batch, remat in product(batches, remats):
        made = _with(recipe, remat, batch)
        counts, rows = count(made, phase), _rows(made)
        for mesh, accumulate in product(meshes(where, counts.heads), ACCUMULATES):
            shards = accumulate * mesh["data"] * mesh["fsdp"]
            if all(many == round(many) and round(many) % shards == 0 for many in rows):
                yield _trial(recipe, where, counts, mesh, remat, accumulate, batch)


def _trial(
    recipe: StageRecipe, where: Slice, counts: Counts, mesh: dict[str, int], remat: str, accumulate: int, batch: int
) -> Trial:
    own = {
        "runtime.remat": (recipe.runtime.remat, remat),
        "train.accumulate": (recipe.train.accumulate, accumulate),
        "train.global_batch_images": (recipe.train.global_batch_images, batch),
    }
    changed = {key: new for key, (old, new) in own.items() if old != new}
    try:
        same = recipe.mesh.resolve(where.chips) == mesh
    except UserError:  # the recipe's own mesh is for other slices
        same = False
    if not same:
        changed = {**{f"mesh.{axis}": size for axis, size in mesh.items()}, **changed}
    guess = estimate(counts, where, mesh, accumulate, Assumptions(recompute=recomputed_share(counts)))
    return Trial(mesh, remat, accumulate, batch, changed, memory(counts, where, mesh, accumulate).total, guess)


def _with(recipe: StageRecipe, remat: str, batch: int) -> StageRecipe:
    runtime = recipe.runtime.model_copy(update={"remat": remat})
    train = recipe.train.model_copy(update={"global_batch_images": batch})
    return recipe.model_copy(update={"runtime": runtime, "train": train})


def _rows(recipe: StageRecipe) -> list[float]:
    """Rows of a step by kind of sample: each kind is an array of its own, whose rows have to divide."""
    if isinstance(recipe, DecoderTrainingRecipe):
        return [recipe.train.global_batch_images]
    return [many for many in shares(recipe) if many]  # type: ignore[arg-type]


def _settings(one: Trial) -> str:
    return " ".join(f"{key}={value}" for key, value in one.changed.items()) or "(as the recipe has it)"
