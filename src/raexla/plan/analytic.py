"""Parameters, FLOPs and bytes of a recipe in closed form: no device, no weights, about a second."""

from raexla.plan.counts import Counts, Memory, Part, memory
from raexla.plan.decoding import count_decoder
from raexla.plan.unified import count_unified
from raexla.recipe import Recipe, UserError
from raexla.train.decoder import DecoderTrainingRecipe
from raexla.train.decoder.work import phases_of
from raexla.train.finetune import FinetuneRecipe
from raexla.train.pretrain import PretrainRecipe

__all__ = ["Counts", "Memory", "Part", "count", "memory", "phases", "recomputed_share"]


def phases(recipe: Recipe) -> tuple[str, ...]:
    """The phases of training that a recipe has, in order; the last one is the heaviest.

    Raises:
        UserError: a stage that can't be planned.
    """
    if isinstance(recipe, (PretrainRecipe, FinetuneRecipe)):
        return ("train",)
    if isinstance(recipe, DecoderTrainingRecipe):
        return phases_of(recipe)
    stage = getattr(recipe, "stage", type(recipe).__name__)
    raise UserError(f"stage {stage}: `plan` knows the stages pretrain, finetune and decoder")


def count(recipe: Recipe, phase: str | None = None) -> Counts:
    """The numbers of a recipe in one of its phases, the heaviest if none is given.

    Raises:
        UserError: a stage that can't be planned, a phase that it doesn't have, or a network whose configuration is not
            known.
    """
    known = phases(recipe)
    if phase is not None and phase not in known:
        raise UserError(f"phase {phase}: this recipe has {', '.join(known)}")
    if isinstance(recipe, DecoderTrainingRecipe):
        return count_decoder(recipe, phase)
    assert isinstance(recipe, (PretrainRecipe, FinetuneRecipe))
    return count_unified(recipe)


def recomputed_share(counts: Counts) -> float:
    """FLOPs that are run again, as a part of the step's."""
    return counts.repeated_flops / counts.step_flops
