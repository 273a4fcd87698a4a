"""Which times are trained on: a density on (0, 1), then a shift that depends on the latent's dimension.

The shift t <- a t / (1 + (a - 1) t) with a = sqrt(m / n), m = tokens x channels and n = 4096, keeps the signal-to-
noise ratio of a latent of m numbers at that of the base dimension n (Esser et al. 2024; paper 001, sec. 4.2; paper
000, sec. 3.2). For 256 x 1152 it is 8.485, for 64 x 48 it is 0.866: it is not clamped at 1.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from raexla.recipe import Recipe


class TimeRecipe(Recipe):
    """Time density and dimension shift."""

    density: Literal["logit_normal", "uniform"] = "logit_normal"
    """Logit-normal: t = sigmoid(u), u ~ N(mean, std), as released. Uniform: paper 001's first runs."""

    mean: float = 0.0
    """Mean of u; logit-normal only."""

    std: float = Field(default=1.0, gt=0)
    """Standard deviation of u; logit-normal only."""

    largest: float = Field(default=1.0, gt=0, le=1)
    """Times are drawn below this, before the shift. RAE's class-conditional recipes use 0.999."""

    base_dim: int = Field(default=4096, gt=0)
    """n of the shift a = sqrt(tokens x channels / n)."""

    shift: float | None = Field(default=None, gt=0)
    """The shift a itself instead of the rule above; 1 is no shift."""

    @property
    def draw(self) -> Literal["normal", "uniform"]:
        """Which draw `sample_time` wants: standard normal, or uniform on (0, 1)."""
        return "normal" if self.density == "logit_normal" and self.largest == 1 else "uniform"

    def factor(self, tokens: int, channels: int) -> float:
        """The shift a for a latent of `tokens` x `channels`."""
        return self.shift if self.shift is not None else dimension_shift(tokens, channels, self.base_dim)


def dimension_shift(tokens: int, channels: int, base_dim: int = 4096) -> float:
    """a = sqrt(tokens x channels / base_dim)."""
    return math.sqrt(tokens * channels / base_dim)


def shift_time(t: Tensor, factor: float) -> Tensor:
    """a t / (1 + (a - 1) t); 0 and 1 stay where they are."""
    return factor * t / (1 + (factor - 1) * t)


def sample_time(draw: Tensor, recipe: TimeRecipe, factor: float) -> Tensor:
    """Shifted training times [B] float32 from draws [B] of the kind `recipe.draw` names.

    A truncated logit-normal goes through the inverse distribution function: t = sigmoid(mean + std Phi^-1(U P)) with
    P = Phi((logit(largest) - mean) / std).
    """
    draw = draw.float()
    if recipe.density == "uniform":
        t = draw * recipe.largest
    elif recipe.largest == 1:
        t = torch.sigmoid(recipe.mean + recipe.std * draw)
    else:
        bound = (math.log(recipe.largest / (1 - recipe.largest)) - recipe.mean) / recipe.std
        probability = draw * (0.5 * (1 + math.erf(bound / math.sqrt(2))))
        normal = math.sqrt(2) * torch.erfinv(2 * probability - 1)
        t = torch.sigmoid(recipe.mean + recipe.std * normal)
    return shift_time(t, factor)
