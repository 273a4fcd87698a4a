"""Guidance is v = u + s (c - u) inside the interval and c outside; the official inverted interval fails this check.

The released `forward_with_cfg` guides *outside* its interval, whose default is all times, so that its guidance does
nothing. Each wrong rule below is put into the code, and the check must notice.
"""

import pytest
import torch
from torch import Tensor

from raexla.flow import guidance
from raexla.flow.guidance import AutoGuidanceRecipe, CFGRecipe, guide, guided, guided_together
from raexla.flow.samplers import sample, shifted_grid

TIMES = (0.0, 0.05, 0.125, 0.3, 0.5, 0.875, 0.95, 1.0)
SCALE, TOKENS, CHANNELS = 2.5, 3, 5
INTERVALS = [(0.0, 1.0), (0.125, 0.875), (0.4, 1.0)]  # ends that float32 holds exactly


def c(x: Tensor, t: Tensor) -> Tensor:
    """The strong, conditional prediction."""
    return torch.sin(3 * x) + t[:, None, None]


def u(x: Tensor, t: Tensor) -> Tensor:
    """The weak one: unconditional, or a weaker model's."""
    return 0.5 * x - t[:, None, None]


def expected(x: Tensor, t: Tensor, interval: tuple[float, float], channels: int) -> Tensor:
    """Number by number, with no mask."""
    strong, weak = c(x, t), u(x, t)
    out = torch.empty_like(x)
    for sample_, time in enumerate(t.tolist()):
        for channel in range(CHANNELS):
            a, b = strong[sample_, :, channel], weak[sample_, :, channel]
            inside = interval[0] <= time <= interval[1] and channel < channels
            out[sample_, :, channel] = b + SCALE * (a - b) if inside else a
    return out


def check_formula(interval: tuple[float, float], channels: int | None) -> None:
    """Every way to guide, at times inside, outside and on the ends of the interval."""
    t = torch.tensor(TIMES)
    x = torch.linspace(-2, 2, len(TIMES) * TOKENS * CHANNELS).reshape(len(TIMES), TOKENS, CHANNELS)
    want = expected(x, t, interval, CHANNELS if channels is None else channels)
    fields = {"scale": SCALE, "interval": interval, "channels": channels}

    def both(x2: Tensor, t2: Tensor) -> Tensor:
        half = len(x2) // 2
        return torch.cat([c(x2[:half], t2[:half]), u(x2[half:], t2[half:])])

    for got in (
        guide(c(x, t), u(x, t), t, SCALE, interval, channels),
        guided(c, u, CFGRecipe.model_validate(fields))(x, t),
        guided(c, u, AutoGuidanceRecipe.model_validate({**fields, "weak": "runs/small"}))(x, t),
        guided_together(both, SCALE, interval, channels)(x, t),
    ):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def check_effect() -> None:
    """Guidance over all times changes what is sampled, by CFG and by AutoGuidance."""
    noise, grid = torch.linspace(-1, 1, 30).reshape(2, TOKENS, CHANNELS), shifted_grid(6, 2.0)
    plain = sample(c, noise, grid)
    for recipe in (CFGRecipe(scale=SCALE), AutoGuidanceRecipe(scale=SCALE, weak="runs/small")):
        assert (sample(guided(c, u, recipe), noise, grid) - plain).abs().max() > 0.05


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("interval", INTERVALS)
def test_formula(interval: tuple[float, float], channels: int | None) -> None:
    check_formula(interval, channels)


def test_effect() -> None:
    check_effect()


def inverted(t: Tensor, interval: tuple[float, float]) -> Tensor:
    """The released rule."""
    return (t < interval[0]) | (t > interval[1])


def ends_left_out(t: Tensor, interval: tuple[float, float]) -> Tensor:
    return (t > interval[0]) & (t < interval[1])


def never(t: Tensor, interval: tuple[float, float]) -> Tensor:
    del interval
    return torch.zeros_like(t, dtype=torch.bool)


def always(t: Tensor, interval: tuple[float, float]) -> Tensor:
    del interval
    return torch.ones_like(t, dtype=torch.bool)


@pytest.mark.parametrize("interval", INTERVALS)
def test_the_inverted_interval_of_the_released_code_is_caught(
    interval: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guidance, "inside_interval", inverted)
    with pytest.raises(AssertionError):
        check_formula(interval, None)
    with pytest.raises(AssertionError):
        check_effect()


@pytest.mark.parametrize("wrong", [ends_left_out, never, always])
def test_other_wrong_rules_are_caught(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "inside_interval", wrong)
    with pytest.raises(AssertionError):
        check_formula(INTERVALS[1], None)


def test_other_wrong_formulas_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guiding from the strong prediction (c + s (c - u)), and forgetting the channel subset."""
    right = guidance.guide

    def from_strong(strong: Tensor, weak: Tensor, t: Tensor, scale: float, *rest: object) -> Tensor:
        return right(strong, weak, t, scale + 1, *rest)  # type: ignore[arg-type]

    def all_channels(strong: Tensor, weak: Tensor, t: Tensor, scale: float, interval: object, _: object) -> Tensor:
        return right(strong, weak, t, scale, interval)  # type: ignore[arg-type]

    monkeypatch.setattr(guidance, "guide", from_strong)
    with pytest.raises(AssertionError):
        check_formula(INTERVALS[0], None)
    monkeypatch.setattr(guidance, "guide", all_channels)
    with pytest.raises(AssertionError):
        check_formula(INTERVALS[0], 3)
