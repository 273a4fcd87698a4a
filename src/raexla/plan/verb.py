"""`raexla plan`: from a recipe and a topology to a `Plan`."""

from dataclasses import replace
from pathlib import Path

from raexla.plan.analytic import count, memory, recomputed_share
from raexla.plan.estimate import Assumptions, estimate, estimate_program
from raexla.plan.intake import intake
from raexla.plan.program import read_program
from raexla.plan.report import Plan
from raexla.plan.slices import Slice
from raexla.recipe import Recipe, UserError
from raexla.runtime import XlaRecipe, prepare_compiler
from raexla.train.base import StageRecipe


def plan_recipe(
    recipe: Recipe,
    name: str,
    topology: str,
    slices: int = 1,
    quick: bool = False,
    phase: str | None = None,
    hlo: Path | None = None,
    html: Path | None = None,
) -> Plan:
    """Say whether a recipe fits a slice, and how fast it would be.

    Args:
        topology: `v5p:4x4x4`.
        slices: equal slices, joined by the data-centre network.
        quick: closed forms only; neither torch_xla nor transformers is imported.
        phase: of training; the heaviest if not given.
        hlo, html: where the optimised program and a page are written, if anywhere.

    Raises:
        UserError: a stage or codec that can't be planned, a mesh that doesn't fill the slice, no compiler.
    """
    for option, file in (("--hlo", hlo), ("--html", html)):
        if file is not None and not file.absolute().parent.is_dir():
            raise UserError(f"{option} {file}: there is no folder {file.parent}")
    if hlo is not None and quick:
        raise UserError(f"--hlo {hlo}: --quick compiles nothing; leave one of them out")
    counts = count(recipe, phase)
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
        intake(recipe),
    )
    if not quick:
        found = _compiled(found, recipe, hlo)
    if html is not None:
        from raexla.plan.page import write_page

        write_page(found, html)
    return found


def _compiled(found: Plan, recipe: StageRecipe, hlo: Path | None) -> Plan:
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
        made = compile_step(program, found.where)
    except DoesNotFit as no:
        return replace(found, refused_gib=no.used_gib or float("inf"))
    if hlo is not None:
        hlo.write_text(made.hlo, encoding="utf-8")
    facts = read_program(made.hlo, program.arguments, found.mesh)
    return replace(
        found,
        compiled=replace(made, hlo=""),  # megabytes, and all that is asked of it is in the facts
        facts=facts,
        estimate=estimate_program(found.counts, found.where, found.mesh, facts),
    )
