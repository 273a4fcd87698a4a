"""The recipe keys that every training stage shares."""

from typing import Annotated

from pydantic import Field

from raexla.data import DataRecipe
from raexla.obs import ObsRecipe
from raexla.recipe import Recipe
from raexla.runtime import MeshRecipe, RuntimeRecipe, XlaRecipe


class RunRecipe(Recipe):
    """Where a run lives, and its seed."""

    dir: str
    """Run directory; one with a checkpoint is resumed."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from it."""


class TrainRecipe(Recipe):
    """How long, and how much at a time."""

    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps."""
    global_batch_images: Annotated[int, Field(ge=1)]
    """Samples in a step, over all processes and devices."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches in a step; the result is that of the whole batch."""


class CheckpointRecipe(Recipe):
    """When to save, and what to keep."""

    every_steps: Annotated[int, Field(ge=1)] = 1000
    keep: Annotated[int, Field(ge=1)] = 2


class StageRecipe(Recipe):
    """What all training recipes have in common."""

    stage: str
    run: RunRecipe
    runtime: RuntimeRecipe = XlaRecipe()
    mesh: MeshRecipe = MeshRecipe()
    data: DataRecipe
    train: TrainRecipe
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    obs: ObsRecipe = ObsRecipe()
