"""The recipe keys that every training stage shares."""

import math
from fractions import Fraction
from typing import Annotated

from pydantic import Field, model_validator

from raexla.checkpoint import CheckpointRecipe
from raexla.data import DataRecipe
from raexla.obs import ObsRecipe
from raexla.recipe import Recipe
from raexla.runtime import MeshRecipe, RuntimeRecipe, XlaRecipe
from raexla.train.guards import GuardsRecipe
from raexla.train.profiling import ProfileRecipe
from raexla.train.watch import WatchRecipe


class RunRecipe(Recipe):
    """Where a run lives, and its seed."""

    dir: str
    """Run directory; one with a checkpoint is resumed."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything random follows from it."""


class TrainRecipe(Recipe):
    """How long (`steps` or `epochs`), and how much at a time."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """The same in virtual epochs."""
    epoch_images: Annotated[int, Field(ge=1)] = 1_280_000
    """Images of a virtual epoch, whatever the data set's size (000, app. A: ImageNet's 1.28M)."""
    global_batch_images: Annotated[int, Field(ge=1)]
    """Samples in a step, over all processes and devices."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches in a step; the result is that of the whole batch."""
    profile: ProfileRecipe | None = None
    """Steps whose trace is written into `profile/` of the run directory, for `raexla profile`."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainRecipe":
        if self.steps is None and self.epochs is None:
            raise ValueError("give steps or epochs")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps {self.steps} and epochs {self.epochs:g} are both given: leave one out, or set it to null"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps if self.steps is not None else self.steps_in(self.epochs or 0.0)

    @property
    def epoch_steps(self) -> float:
        """Optimiser steps of a virtual epoch, not rounded."""
        return self.epoch_images / self.global_batch_images

    def steps_in(self, epochs: float) -> int:
        """Optimiser steps that see so many epochs, rounded up."""
        return math.ceil(Fraction(str(epochs)) * self.epoch_images / self.global_batch_images)

    def formula(self, epochs: float) -> str:
        """How epochs come to steps: `80 epochs x 1,280,000 images / 512`."""
        return f"{epochs:g} epochs x {self.epoch_images:,} images / {self.global_batch_images:,}"

    def describe(self) -> str:
        """The length of the run for a person."""
        if self.epochs is not None:
            return f"{self.formula(self.epochs)} = {self.total_steps:,} steps"
        return f"{self.total_steps:,} steps x {self.global_batch_images:,} images"


class StageRecipe(Recipe):
    """What all training recipes have in common."""

    stage: str
    run: RunRecipe
    runtime: RuntimeRecipe = XlaRecipe()
    mesh: MeshRecipe = MeshRecipe()
    data: DataRecipe
    train: TrainRecipe
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    guards: GuardsRecipe = GuardsRecipe()
    obs: ObsRecipe = ObsRecipe()
    watch: WatchRecipe = WatchRecipe()
