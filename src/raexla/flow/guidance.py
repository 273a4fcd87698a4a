"""Guidance: pushing a strong prediction away from a weak one.

Inside an interval of times, ends included, the velocity is w + s (c - w), where c is the conditional prediction and w
the weak one: the unconditional prediction for classifier-free guidance (Ho and Salimans 2022), a weaker model's
conditional prediction for AutoGuidance (Karras et al. 2024). Outside it is c (Kynkaanniemi et al. 2024). The
official Scale-RAE and RAE LightningDiT code has the interval inverted, so that its guidance has no effect.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raexla.flow.path import per_sample
from raexla.flow.samplers import Velocity
from raexla.recipe import Recipe


class NoGuidance(Recipe):
    """The conditional prediction as it is."""

    type: Literal["none"] = "none"


class _Guidance(Recipe):
    scale: float = Field(default=1.0, ge=0)
    """s of w + s (c - w); 1 is no guidance."""

    interval: tuple[float, float] = (0.0, 1.0)
    """Times t at which guidance acts, ends included."""

    channels: int | None = Field(default=None, ge=1)
    """Guide the first so many channels of the latent only (AlignTok: 3); all by default."""

    @model_validator(mode="after")
    def _ordered(self) -> "_Guidance":
        low, high = self.interval
        if low >= high:
            raise ValueError(f"the interval runs from {low} to {high}: the first must be the smaller")
        return self


class CFGRecipe(_Guidance):
    """Classifier-free guidance: the weak prediction is the model's own without its condition."""

    type: Literal["cfg"] = "cfg"


class AutoGuidanceRecipe(_Guidance):
    """AutoGuidance: the weak prediction is a weaker model's, with the same condition."""

    type: Literal["autoguidance"] = "autoguidance"

    weak: str
    """The weaker model: a run directory or an artifact, on the same latent and with as many queries."""


GuidanceRecipe = Annotated[NoGuidance | CFGRecipe | AutoGuidanceRecipe, Field(discriminator="type")]
"""The guidance of a recipe, by its `type`."""


def inside_interval(t: Tensor, interval: tuple[float, float]) -> Tensor:
    """Which of the times [B] are guided, bool [B]: those between the ends, ends included."""
    return (t >= interval[0]) & (t <= interval[1])


def guide(
    strong: Tensor,
    weak: Tensor,
    t: Tensor,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    channels: int | None = None,
) -> Tensor:
    """weak + scale (strong - weak) where interval[0] <= t <= interval[1], else strong; per sample.

    strong, weak [B, N, C]; t [B]. With `channels`, only the first so many of the last dim are guided.
    """
    inside = per_sample(inside_interval(t, interval), strong)
    if channels is not None:
        inside = inside & (torch.arange(strong.shape[-1], device=strong.device) < channels)
    return torch.where(inside, weak + scale * (strong - weak), strong)


def guided(strong: Velocity, weak: Velocity, recipe: NoGuidance | CFGRecipe | AutoGuidanceRecipe) -> Velocity:
    """A guided velocity from two callables; `weak` is not called without guidance."""
    if isinstance(recipe, NoGuidance) or recipe.scale == 1:
        return strong

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return guide(strong(x, t), weak(x, t), t, recipe.scale, recipe.interval, recipe.channels)

    return velocity


def guided_together(
    both: Callable[[Tensor, Tensor], Tensor], scale: float, interval: tuple[float, float], channels: int | None = None
) -> Velocity:
    """Classifier-free guidance with one evaluation on a doubled batch.

    `both(x2 [2 B, N, C], t2 [2 B])` is the model with the conditions of the B samples, then B null conditions; the
    returned velocity takes and gives B samples.
    """

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        strong, weak = both(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        return guide(strong, weak, t, scale, interval, channels)

    return velocity
