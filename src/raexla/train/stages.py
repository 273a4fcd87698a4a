"""The table of stages: a recipe's `stage` -> the type of the recipe, and the Task that it configures."""

from collections.abc import Callable, Mapping
from typing import Any

from raexla.recipe import Recipe
from raexla.runtime import Runtime, open_runtime
from raexla.train.base import StageRecipe
from raexla.train.decoder import DecoderTask, DecoderTrainingRecipe
from raexla.train.directory import RunDirectory
from raexla.train.encoder import EncoderRecipe, EncoderTask
from raexla.train.finetune import FinetuneRecipe, FinetuneTask
from raexla.train.language import LanguageRecipe, LanguageTask
from raexla.train.loop import fit
from raexla.train.pretrain import PretrainRecipe, PretrainTask
from raexla.train.stop import StopRequest
from raexla.train.task import Task
from raexla.train.watch import listening

_TASKS: Mapping[type[StageRecipe], Callable[[Any, Runtime], Task]] = {
    EncoderRecipe: EncoderTask,
    LanguageRecipe: LanguageTask,
    DecoderTrainingRecipe: DecoderTask,
    PretrainRecipe: PretrainTask,
    FinetuneRecipe: FinetuneTask,
}
STAGES: Mapping[str, type[Recipe]] = {recipe.model_fields["stage"].annotation.__args__[0]: recipe for recipe in _TASKS}  # type: ignore[union-attr]


def train_recipe(recipe: Recipe, fresh: bool = False, stop: StopRequest | None = None) -> RunDirectory:
    """Run a training recipe to its end (`raexla train`).

    Args:
        fresh: start over. stop: the caller's, if it has been listening already.

    Raises:
        UserError: the recipe, its files or its devices; StopRequested: stopped and saved; ProcessLost: another process
            of the run is gone.
    """
    assert isinstance(recipe, StageRecipe)
    with stop or StopRequest() as asked, listening(recipe.watch, asked):
        runtime = open_runtime(recipe.runtime, recipe.mesh)
        task = open_task(recipe, runtime)
        every = getattr(recipe, "eval", None)
        return fit(recipe, task, runtime, STAGES, every.every_steps if every else None, asked, fresh)


def open_task(recipe: StageRecipe, runtime: Runtime) -> Task:
    """The Task of a recipe, placed on the runtime's devices."""
    return _TASKS[type(recipe)](recipe, runtime)
