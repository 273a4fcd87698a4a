"""From noise to data: Euler, Heun and a stochastic sampler over any callable `velocity(x, t)`.

A schedule is a tensor [S, 2] of rows (t, t_next): the velocity is evaluated at t, and the state goes to t_next.
`shifted_grid` runs from exactly 1 to exactly 0; `released_grid` reproduces the official samplers' grids.
The step functions take times as tensors, so that one compiled step serves every row of a schedule.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from raexla.flow.path import noise_from_velocity, per_sample
from raexla.flow.time import shift_time
from raexla.recipe import Recipe

Velocity = Callable[[Tensor, Tensor], Tensor]
"""velocity(x [B, ...], t [B]) -> [B, ...]."""

Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]
"""step(velocity, x, t [B], t_next [B]) -> x at t_next."""


class EulerRecipe(Recipe):
    """First-order steps; the papers' sampler (50 evaluations)."""

    type: Literal["euler"] = "euler"
    steps: int = Field(default=50, ge=1)
    """Evaluations of the network."""
    grid: Literal["shifted", "scale_rae", "rae"] = "shifted"
    """`shifted` goes from exactly t = 1 to exactly t = 0; the others are the official grids, defects included."""


class HeunRecipe(Recipe):
    """Second-order steps: two evaluations each."""

    type: Literal["heun"] = "heun"
    steps: int = Field(default=25, ge=1)
    """Steps; the network is evaluated twice in each."""


class SDERecipe(Recipe):
    """Euler-Maruyama on the reverse-time SDE of the same marginals."""

    type: Literal["sde"] = "sde"
    steps: int = Field(default=250, ge=1)
    """Evaluations of the network."""
    diffusion: float = Field(default=1.0, ge=0)
    """w in the diffusion coefficient sqrt(w t); 0 is the ODE."""


SamplerRecipe = Annotated[EulerRecipe | HeunRecipe | SDERecipe, Field(discriminator="type")]
"""The sampler of a recipe, by its `type`."""


def shifted_grid(steps: int, factor: float) -> Tensor:
    """Schedule [steps, 2], float32: shift(i / steps) for i = steps ... 0, from exactly 1 to exactly 0."""
    times = shift_time(torch.arange(steps, -1, -1, dtype=torch.float64, device="cpu") / steps, factor).float()
    return torch.stack([times[:-1], times[1:]], dim=1)


RELEASED_TIMES = 1000
"""Times that Scale-RAE's sampler picks its steps from."""


def released_times(factor: float, times: int = RELEASED_TIMES) -> Tensor:
    """All times [times] of Scale-RAE's sampler, rising: shift(linspace(1 / times, 1, times)), float32."""
    return shift_time(torch.linspace(1 / times, 1, times, device="cpu"), factor)


def released_indices(steps: int, times: int = RELEASED_TIMES) -> Tensor:
    """Which of `released_times` a run of `steps` uses, int64 [steps], rising: evenly spaced, rounded to even."""
    return torch.linspace(0, times - 1, steps, dtype=torch.float64, device="cpu").round().long()


def released_grid(name: Literal["scale_rae", "rae"], steps: int, factor: float, times: int = RELEASED_TIMES) -> Tensor:
    """The official samplers' schedules [steps - 1, 2], float32, where `steps` is their own count (50 by default).

    `rae`: shift(1 - linspace(0, 0.999, steps)); starts at 1 and returns the state at shift(0.001).
    `scale_rae`: `steps` of the 1000 times shift(linspace(0.001, 1, 1000)), without the largest: from t = 0.9976 down to
    t = 0.0084 (for factor 8.485), then a stray step that evaluates the clean state at the first time again and moves
    up to t = 1 (a defect of the official loop, kept here under its name).
    """
    if steps < 3:
        raise ValueError(f"the released grids need at least 3 steps, got {steps}")
    if name == "rae":
        falling = shift_time(1 - torch.linspace(0, 0.999, steps, device="cpu"), factor)
        return torch.stack([falling[:-1], falling[1:]], dim=1)
    rising = released_times(factor, times)[released_indices(steps, times)]
    down = rising[:-1].flip(0)
    stray = rising[-2:]
    return torch.cat([torch.stack([down[:-1], down[1:]], dim=1), stray[None]])


def make_grid(recipe: EulerRecipe | HeunRecipe | SDERecipe, factor: float) -> Tensor:
    """The schedule that a sampler recipe asks for; `factor` is the time shift of the model that is sampled."""
    if isinstance(recipe, EulerRecipe) and recipe.grid != "shifted":
        return released_grid(recipe.grid, recipe.steps, factor)
    return shifted_grid(recipe.steps, factor)


def euler_step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """x + (t_next - t) v(x, t)."""
    return x + per_sample(t_next - t, x) * velocity(x, t)


def heun_step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The trapezoidal corrector on an Euler step: second order, two evaluations."""
    dt = per_sample(t_next - t, x)
    first = velocity(x, t)
    second = velocity(x + dt * first, t_next)
    return x + 0.5 * dt * (first + second)


def sde_step(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor, draw: Tensor, diffusion: float = 1.0) -> Tensor:
    """One Euler-Maruyama step of dx = [v - (w t / 2) score] dt + sqrt(w t) dW, run from t down to t_next.

    The score is -E[eps | x_t] / t, and E[eps | x_t] = x_t + (1 - t) v, so w t / 2 x score = -(w / 2) E[eps | x_t] has
    no pole (Ma et al. 2024, SiT, eq. 6 with diffusion coefficient w_t = w t). `draw` is standard normal, shaped as x.
    A step to t_next = 0 is an Euler step without noise, which gives the denoised mean.
    """
    v = velocity(x, t)
    span = per_sample(t - t_next, x)
    noisy = (per_sample(t_next, x) > 0).to(x.dtype)
    kick = (diffusion * per_sample(t, x) * span).sqrt() * draw
    return x - span * v + noisy * (kick - 0.5 * diffusion * span * noise_from_velocity(x, v, t))


def sample(velocity: Velocity, noise: Tensor, schedule: Tensor, step: Step = euler_step) -> Tensor:
    """Run a deterministic step (`euler_step`, `heun_step`) over a schedule [S, 2], starting from noise [B, ...]."""
    x = noise
    schedule = schedule.to(x.device)
    for row in range(schedule.shape[0]):
        t, t_next = schedule[row, 0].expand(x.shape[0]), schedule[row, 1].expand(x.shape[0])
        x = step(velocity, x, t, t_next)
    return x


def sample_sde(velocity: Velocity, noise: Tensor, schedule: Tensor, draws: Tensor, diffusion: float = 1.0) -> Tensor:
    """Run `sde_step` over a schedule [S, 2]; draws [S, B, ...] are standard normal (the last one is not used if the
    schedule ends at 0)."""
    x = noise
    schedule = schedule.to(x.device)
    for row in range(schedule.shape[0]):
        t, t_next = schedule[row, 0].expand(x.shape[0]), schedule[row, 1].expand(x.shape[0])
        x = sde_step(velocity, x, t, t_next, draws[row], diffusion)
    return x
