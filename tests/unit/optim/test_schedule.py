"""Learning rates by hand."""

import math

import pytest
from pydantic import ValidationError

from raexla.optim import OptimizerRecipe, ScheduleRecipe, learning_rate


def test_warmup_starts_above_zero_and_reaches_the_peak() -> None:
    recipe = OptimizerRecipe(lr=1.0, schedule=ScheduleRecipe(warmup_steps=4))
    assert [learning_rate(recipe, step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_is_symmetric_about_its_middle_and_ends_at_the_minimum() -> None:
    recipe = OptimizerRecipe(lr=3.0, schedule=ScheduleRecipe(min_lr=1.0))
    rates = [learning_rate(recipe, step, 10) for step in range(10)]
    assert rates == sorted(rates, reverse=True)
    assert all(math.isclose(a + b, 4.0) for a, b in zip(rates, reversed(rates), strict=True))
    assert 1.0 < rates[-1] < 1.03


def test_linear_and_constant() -> None:
    linear = OptimizerRecipe(lr=2.0, schedule=ScheduleRecipe(type="linear"))
    assert learning_rate(linear, 0, 4) == pytest.approx(1.75)
    assert learning_rate(linear, 3, 4) == pytest.approx(0.25)
    assert learning_rate(OptimizerRecipe(lr=2.0, schedule=ScheduleRecipe(type="constant")), 3, 4) == 2.0


def test_never_zero_even_past_the_end() -> None:
    recipe = OptimizerRecipe(lr=1.0)
    assert 0 < learning_rate(recipe, 100, 10) < 1e-6


def test_fraction_is_rounded_up_and_two_warmups_are_refused() -> None:
    assert ScheduleRecipe(warmup_fraction=0.0134).warmup(30_000) == 402
    with pytest.raises(ValidationError, match="warmup_steps and warmup_fraction are both given: leave one out, or set"):
        ScheduleRecipe(warmup_steps=3, warmup_fraction=0.1)


def test_a_warmup_in_epochs_needs_to_know_what_an_epoch_is() -> None:
    recipe = OptimizerRecipe(lr=1.0, schedule=ScheduleRecipe(warmup_epochs=2))
    assert recipe.schedule.warmup(200_000, 2500.0) == 5000
    assert ScheduleRecipe(warmup_epochs=0.5).warmup(100, 2.2) == 2
    assert learning_rate(recipe, 2499, 200_000, 2500.0) == 0.5
    with pytest.raises(ValueError, match="the steps of an epoch are not known"):
        learning_rate(recipe, 0, 10)


def test_a_rate_that_would_rise_is_refused() -> None:
    assert OptimizerRecipe(lr=1.0, schedule=ScheduleRecipe(min_lr=1.0)).lr == 1.0
    with pytest.raises(ValidationError, match=r"schedule.min_lr 0.01 is over lr 0.001, where it comes down from"):
        OptimizerRecipe(lr=0.001, schedule=ScheduleRecipe(min_lr=0.01))
