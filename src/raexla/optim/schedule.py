"""Learning-rate schedules: a warm-up from above zero, then constant, cosine or linear to a minimum."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raexla.recipe import Recipe


class ScheduleRecipe(Recipe):
    """How the learning rate moves over a part's own steps."""

    type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps of linear warm-up; the first step already has 1 / warmup_steps of the rate."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """The same as a fraction of all steps, rounded up."""
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """The same in virtual epochs (`train.epoch_images`), rounded up."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Where cosine and linear end."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "ScheduleRecipe":
        given = [
            name for name in ("warmup_steps", "warmup_fraction", "warmup_epochs") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given: leave one out, or set it to null")
        return self

    def warmup(self, steps: int, epoch_steps: float | None = None) -> int:
        """Warm-up steps out of `steps`; `epoch_steps` are those of a virtual epoch.

        Raises:
            ValueError: the warm-up is given in epochs, and nobody says how long one is.
        """
        if self.warmup_epochs is not None:
            if epoch_steps is None:
                raise ValueError("warmup_epochs: the steps of an epoch are not known here")
            return math.ceil(self.warmup_epochs * epoch_steps)
        return self.warmup_steps or math.ceil((self.warmup_fraction or 0.0) * steps)


class OptimizerRecipe(Recipe):
    """AdamW over one part of the model."""

    lr: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of this part's gradient; None leaves it alone."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of this part's parameters; None keeps none."""
    schedule: ScheduleRecipe = ScheduleRecipe()

    @model_validator(mode="after")
    def _falls(self) -> "OptimizerRecipe":
        if self.schedule.min_lr > self.lr:
            raise ValueError(
                f"schedule.min_lr {self.schedule.min_lr:g} is over lr {self.lr:g}, where it comes down from"
            )
        return self


def learning_rate(recipe: OptimizerRecipe, step: int, steps: int, epoch_steps: float | None = None) -> float:
    """The rate of the optimiser step `step` (0-based) out of `steps`; `epoch_steps` as in `ScheduleRecipe.warmup`.

    Never exactly zero: a zero would be another graph under XLA, and a division by zero in the capturable AdamW.
    """
    schedule = recipe.schedule
    warmup = schedule.warmup(steps, epoch_steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if schedule.type == "constant":
        return recipe.lr
    progress = min(1.0, (step - warmup + 0.5) / max(1, steps - warmup))
    left = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.type == "cosine" else 1 - progress
    return max(schedule.min_lr + (recipe.lr - schedule.min_lr) * left, recipe.lr * 1e-8)
