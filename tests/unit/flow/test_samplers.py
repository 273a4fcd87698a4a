"""Samplers on equations with known answers."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from raexla.flow.samplers import (
    EulerRecipe,
    HeunRecipe,
    euler_step,
    heun_step,
    make_grid,
    released_grid,
    sample,
    sample_sde,
    shifted_grid,
)

MU, S = 1.5, 0.5


def gaussian_velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[eps - x_0 | x_t] for data N(MU, S^2)."""
    t = t.reshape(-1, 1)
    variance = (1 - t) ** 2 * S**2 + t**2
    return -MU + (t - (1 - t) * S**2) / variance * (x - (1 - t) * MU)


def test_the_grid_runs_from_exactly_one_to_exactly_zero() -> None:
    for steps in (1, 3, 50):
        for factor in (0.866, 1.0, 8.48528):
            grid = shifted_grid(steps, factor)
            assert grid.shape == (steps, 2)
            assert grid[0, 0].item() == 1
            assert grid[-1, 1].item() == 0
            assert torch.equal(grid[1:, 0], grid[:-1, 1])
            assert (grid[:, 1] < grid[:, 0]).all()
    assert shifted_grid(2, 3.0).tolist() == [[1.0, 0.75], [0.75, 0.0]]


def test_a_point_is_hit_exactly() -> None:
    """With the data a single point x0, v = (x - x0) / t is exact along the path, and so is any grid that ends at 0."""
    x0 = 3.0
    noise = torch.randn(4, 5)
    out = sample(lambda x, t: (x - x0) / t.reshape(-1, 1), noise, shifted_grid(7, 8.5))
    torch.testing.assert_close(out, torch.full_like(noise, x0))
    stopped = sample(lambda x, t: (x - x0) / t.reshape(-1, 1), noise, released_grid("rae", 50, 8.5))
    assert (stopped - x0).abs().max() > 1e-3  # the official grids stop short of 0


@pytest.mark.parametrize(("step", "order"), [(euler_step, 1), (heun_step, 2)])
def test_order_of_convergence(step: Any, order: int) -> None:
    """dx/dt = cos(t) x from t = 1 to 0: x(0) = x(1) exp(-sin 1)."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return t.double().cos().reshape(-1, 1) * x

    start = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    exact = start * math.exp(-math.sin(1.0))
    errors = [(sample(velocity, start, shifted_grid(n, 1.0), step) - exact).abs().max().item() for n in (16, 32, 64)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_euler_evaluates_once_a_step_at_the_grids_times() -> None:
    seen: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        seen.append(t[0].item())
        return torch.zeros_like(x)

    grid = shifted_grid(5, 2.0)
    sample(velocity, torch.zeros(2, 3), grid)
    assert seen == grid[:, 0].tolist()


def test_sde_has_the_data_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    count, steps = 20_000, 60
    noise = torch.randn(count, 1, generator=generator)
    draws = torch.randn(steps, count, 1, generator=generator)
    out = sample_sde(gaussian_velocity, noise, shifted_grid(steps, 1.0), draws)
    assert out.mean().item() == pytest.approx(MU, abs=0.02)
    assert out.std().item() == pytest.approx(S, abs=0.02)
    ode = sample(gaussian_velocity, noise, shifted_grid(steps, 1.0))
    together = torch.corrcoef(torch.stack([ode[:, 0], out[:, 0]]))[0, 1]
    assert abs(together.item()) < 0.9  # the noise was replaced on the way, not carried through
    assert ode.mean().item() == pytest.approx(MU, abs=0.02)


def test_sde_with_wrong_noise_level_would_be_seen() -> None:
    """The statistics above are sharp enough: draws of twice the variance miss the spread."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 1, generator=generator)
    draws = 2**0.5 * torch.randn(60, 20_000, 1, generator=generator)
    out = sample_sde(gaussian_velocity, noise, shifted_grid(60, 1.0), draws)
    assert abs(out.std().item() - S) > 0.04


def test_sde_without_diffusion_is_euler() -> None:
    noise, draws = torch.randn(8, 1), torch.randn(10, 8, 1)
    grid = shifted_grid(10, 2.0)
    out = sample_sde(gaussian_velocity, noise, grid, draws, diffusion=0.0)
    torch.testing.assert_close(out, sample(gaussian_velocity, noise, grid))


def test_sde_takes_its_last_step_without_noise() -> None:
    noise, draws = torch.randn(8, 1), torch.randn(10, 8, 1)
    grid = shifted_grid(10, 2.0)
    other = draws.clone()
    other[-1] += 1
    assert torch.equal(
        sample_sde(gaussian_velocity, noise, grid, draws), sample_sde(gaussian_velocity, noise, grid, other)
    )


def test_released_grids() -> None:
    rae = released_grid("rae", 50, 6.928203)
    assert rae.shape == (49, 2)
    assert rae[0, 0].item() == 1
    assert rae[-1, 1].item() == pytest.approx(0.00689, abs=5e-6)
    scale_rae = released_grid("scale_rae", 50, 8.48528)
    assert scale_rae.shape == (49, 2)
    assert scale_rae[-1].tolist() == pytest.approx([0.99760, 1.0], abs=1e-5)  # the stray step
    assert scale_rae[-2, 1].item() == pytest.approx(0.00842, abs=1e-5)
    with pytest.raises(ValueError, match="at least 3 steps, got 2"):
        released_grid("rae", 2, 1.0)


def test_a_recipe_chooses_the_grid() -> None:
    assert torch.equal(make_grid(EulerRecipe(steps=7), 2.0), shifted_grid(7, 2.0))
    assert torch.equal(make_grid(HeunRecipe(steps=7), 2.0), shifted_grid(7, 2.0))
    assert torch.equal(make_grid(EulerRecipe(grid="rae"), 2.0), released_grid("rae", 50, 2.0))
