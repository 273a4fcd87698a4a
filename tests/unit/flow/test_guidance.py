"""Guidance equals its formula, changes the result, and acts inside its interval."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from raexla.flow.guidance import AutoGuidanceRecipe, CFGRecipe, NoGuidance, guide, guided, guided_together
from raexla.flow.samplers import sample, shifted_grid


def strong(x: Tensor, t: Tensor) -> Tensor:
    return 2 * x + t.reshape(-1, 1, 1)


def weak(x: Tensor, t: Tensor) -> Tensor:
    return x - 1


X, T = torch.linspace(-1, 1, 24).reshape(4, 2, 3), torch.tensor([0.1, 0.5, 0.9, 0.95])


@pytest.mark.parametrize("recipe", [CFGRecipe(scale=3.0), AutoGuidanceRecipe(scale=3.0, weak="artifact")])
def test_guidance_is_its_formula_and_changes_the_result(recipe: CFGRecipe | AutoGuidanceRecipe) -> None:
    out = guided(strong, weak, recipe)(X, T)
    torch.testing.assert_close(out, weak(X, T) + 3 * (strong(X, T) - weak(X, T)))
    assert (out - strong(X, T)).abs().min() > 1e-3


def test_inside_the_interval_guided_outside_conditional() -> None:
    """The official code has this the wrong way round."""
    out = guided(strong, weak, CFGRecipe(scale=3.0, interval=(0.1, 0.9)))(X, T)
    full = weak(X, T) + 3 * (strong(X, T) - weak(X, T))
    torch.testing.assert_close(out[:3], full[:3])  # the ends are inside
    assert torch.equal(out[3], strong(X, T)[3])


def test_the_default_interval_guides_everywhere() -> None:
    ends = torch.tensor([0.0, 1.0])
    out = guide(torch.ones(2, 1, 1), torch.zeros(2, 1, 1), ends, 2.5)
    assert out.flatten().tolist() == [2.5, 2.5]


def test_only_the_first_channels() -> None:
    out = guide(strong(X, T), weak(X, T), T, 3.0, channels=2)
    full = weak(X, T) + 3 * (strong(X, T) - weak(X, T))
    torch.testing.assert_close(out[..., :2], full[..., :2])
    assert torch.equal(out[..., 2], strong(X, T)[..., 2])


def test_without_guidance_the_weak_side_is_not_computed() -> None:
    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError

    for recipe in (NoGuidance(), CFGRecipe(scale=1.0)):
        assert torch.equal(guided(strong, never, recipe)(X, T), strong(X, T))


def test_one_doubled_batch_gives_the_same() -> None:
    def both(x2: Tensor, t2: Tensor) -> Tensor:
        assert x2.shape[0] == t2.shape[0] == 8
        return torch.cat([strong(x2[:4], t2[:4]), weak(x2[4:], t2[4:])])

    recipe = CFGRecipe(scale=2.0, interval=(0.2, 0.93), channels=1)
    together = guided_together(both, recipe.scale, recipe.interval, recipe.channels)
    torch.testing.assert_close(together(X, T), guided(strong, weak, recipe)(X, T))


def test_guidance_changes_a_whole_sample() -> None:
    grid = shifted_grid(8, 1.0)
    plain = sample(strong, X, grid)
    assert (sample(guided(strong, weak, CFGRecipe(scale=2.0)), X, grid) - plain).abs().max() > 1e-2
    outside = CFGRecipe(scale=2.0, interval=(1.5, 2.0))
    assert torch.equal(sample(guided(strong, weak, outside), X, grid), plain)


def test_an_inverted_interval_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"runs from 0\.9 to 0\.1"):
        CFGRecipe(interval=(0.9, 0.1))
