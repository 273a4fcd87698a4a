"""`raexla plan`: from a recipe and a topology to a `Plan`."""

from dataclasses import replace

from raexla.plan.analytic import count, memory, recomputed_share
from raexla.plan.estimate import Assumptions, estimate
from raexla.plan.report import Plan
from raexla.plan.slices import Slice
from raexla.recipe import Recipe, UserError
from raexla.runtime import XlaRecipe, prepare_compiler
from raexla.train.base import StageRecipe


def plan_recipe(recipe: Recipe, name: str, topology: str, slices: int = 1, quick: bool = False) -> Plan:
    """Say whether a recipe fits a slice, and how fast it would be.

    Args:
        topology: `v5p:4x4x4`.
        slices: equal slices, joined by the data-centre network.
        quick: closed forms only; neither torch_xla nor transformers is imported.

    Raises:
        UserError: a stage or codec that can't be planned, a mesh that doesn't fill the slice, no compiler.
    """
    counts = count(recipe)
    assert isinstance(recipe, StageRecipe)
    where = Slice.parse(topology, slices)
    mesh = recipe.mesh.resolve(where.chips)
    accumulate = recipe.train.accumulate
    found = Plan(
        name,
        where,
        mesh,
        counts,
        memory(counts, where, mesh, accumulate),
        estimate(counts, where, mesh, accumulate, Assumptions(recompute=recomputed_share(counts))),
    )
    return found if quick else _compiled(found, recipe)


def _compiled(found: Plan, recipe: StageRecipe) -> Plan:
    """With what the TPU compiler says of the step that `raexla train` would run."""
    prepare_compiler()  # before jax is imported by anyone
    from raexla.plan.abstract import AbstractRuntime
    from raexla.plan.compiler import DoesNotFit, compile_step, devices_of
    from raexla.plan.outline import outline_task
    from raexla.plan.trace import trace_step

    if not isinstance(recipe.runtime, XlaRecipe):
        raise UserError("runtime.type: a TPU is planned with xla; add --set runtime.type=xla")
    devices_of(found.where)  # what is missing is said before minutes are spent
    runtime = AbstractRuntime(found.where.chips, recipe.mesh, recipe.runtime)
    program = trace_step(outline_task(recipe, runtime), runtime, found.counts.phase)
    try:
        return replace(found, compiled=compile_step(program, found.where))
    except DoesNotFit as no:
        return replace(found, refused_gib=no.used_gib or float("inf"))
