"""The table of stages: a recipe's `stage` -> the type of the recipe, and the Task that it configures."""

from collections.abc import Callable, Mapping
from typing import Any

from raexla.recipe import Recipe
from raexla.runtime import Runtime, open_runtime
from raexla.train.base import StageRecipe
from raexla.train.decoder import DecoderTask, DecoderTrainingRecipe
from raexla.train.directory import RunDirectory
from raexla.train.finetune import FinetuneRecipe, FinetuneTask
from raexla.train.loop import fit
from raexla.train.pretrain import PretrainRecipe, PretrainTask
from raexla.train.task import Task

_TASKS: Mapping[type[StageRecipe], Callable[[Any, Runtime], Task]] = {
    DecoderTrainingRecipe: DecoderTask,
    PretrainRecipe: PretrainTask,
    FinetuneRecipe: FinetuneTask,
}
STAGES: Mapping[str, type[Recipe]] = {recipe.model_fields["stage"].annotation.__args__[0]: recipe for recipe in _TASKS}  # type: ignore[union-attr]


def train(recipe: StageRecipe, fresh: bool = False) -> RunDirectory:
    """Run a training recipe to its end (`raexla train`)."""
    runtime = open_runtime(recipe.runtime, recipe.mesh)
    task = open_task(recipe, runtime)
    every = getattr(recipe, "eval", None)
    return fit(recipe, task, runtime, STAGES, every.every_steps if every else None, fresh)


def open_task(recipe: StageRecipe, runtime: Runtime) -> Task:
    """The Task of a recipe, placed on the runtime's devices."""
    return _TASKS[type(recipe)](recipe, runtime)
