"""The convention, the time density and the shift."""

import math

import pytest
import torch

from raexla.flow.path import (
    data_from_velocity,
    flow_loss,
    interpolate,
    noise_from_velocity,
    velocity_target,
)
from raexla.flow.time import TimeRecipe, dimension_shift, sample_time, shift_time


def test_zero_is_data_and_one_is_noise() -> None:
    x, noise = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    assert torch.equal(interpolate(x, noise, torch.tensor([0.0, 1.0])), torch.stack([x[0], noise[1]]))
    v = velocity_target(x, noise)
    step = 1e-2
    t = torch.tensor([0.2, 0.6])
    slope = (interpolate(x, noise, t + step) - interpolate(x, noise, t - step)) / (2 * step)
    torch.testing.assert_close(slope, v, rtol=0, atol=1e-4)


def test_data_and_noise_come_back_from_the_velocity() -> None:
    x, noise, t = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.tensor([0.1, 0.5, 0.9])
    x_t, v = interpolate(x, noise, t), velocity_target(x, noise)
    torch.testing.assert_close(data_from_velocity(x_t, v, t), x)
    torch.testing.assert_close(noise_from_velocity(x_t, v, t), noise)


def test_loss_is_a_mean_per_sample() -> None:
    loss = flow_loss(torch.full((2, 3, 4), 2.0), torch.stack([torch.zeros(3, 4), torch.ones(3, 4)]))
    assert loss.tolist() == [4.0, 1.0]


def test_shift_has_the_released_values() -> None:
    assert dimension_shift(256, 1152) == pytest.approx(8.48528, abs=1e-5)
    assert dimension_shift(256, 64) == 2
    assert dimension_shift(64, 48) == pytest.approx(0.866025, abs=1e-6)  # below 1, not clamped
    t = shift_time(torch.tensor([0.0, 0.02, 0.25, 0.5, 0.75, 0.98, 1.0]), dimension_shift(256, 1152))
    expected = torch.tensor([0.0, 0.147608, 0.738796, 0.894574, 0.962201, 0.997601, 1.0])
    torch.testing.assert_close(t, expected, rtol=0, atol=1e-6)


def test_shift_keeps_the_signal_to_noise_ratio_of_the_base_dimension() -> None:
    """sqrt(m) x (1 - t') / t' for the shifted time is what sqrt(n) x (1 - t) / t is for the base (001, sec. 4.2)."""
    t = torch.linspace(0.1, 0.9, 5)
    shifted = shift_time(t, dimension_shift(256, 1152))
    ratio = math.sqrt(256 * 1152) * (1 - shifted) / shifted
    torch.testing.assert_close(ratio, math.sqrt(4096) * (1 - t) / t, rtol=1e-4, atol=1e-4)


def test_training_times_have_the_released_statistics() -> None:
    recipe = TimeRecipe()
    draw = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    t = sample_time(draw, recipe, recipe.factor(256, 1152))
    assert t.mean().item() == pytest.approx(0.860, abs=2e-3)
    quantiles = torch.quantile(t, torch.tensor([0.05, 0.5, 0.95])).tolist()
    assert quantiles == pytest.approx([0.622, 0.8946, 0.978], abs=3e-3)


def test_truncated_logit_normal_is_the_logit_normal_without_its_tail() -> None:
    recipe = TimeRecipe(largest=0.6)
    assert recipe.draw == "uniform"
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    t = sample_time(uniform, recipe, 1.0)
    assert t.max().item() <= 0.6
    normal = torch.sigmoid(torch.randn(400_000, generator=torch.Generator().manual_seed(0)))
    kept = normal[normal <= 0.6]
    at = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(torch.quantile(t, at), torch.quantile(kept, at), rtol=0, atol=3e-3)


def test_uniform_times_and_a_given_shift() -> None:
    recipe = TimeRecipe(density="uniform", shift=3.0)
    assert recipe.factor(256, 1152) == 3.0
    t = sample_time(torch.tensor([0.0, 0.5]), recipe, recipe.factor(1, 1))
    assert t.tolist() == [0.0, 0.75]


def test_mean_and_std_move_the_density() -> None:
    draw = torch.tensor([-1.0, 0.0, 1.0])
    t = sample_time(draw, TimeRecipe(mean=0.5, std=2.0), 1.0)
    torch.testing.assert_close(t, torch.sigmoid(0.5 + 2 * draw))
