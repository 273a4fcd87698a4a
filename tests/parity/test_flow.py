"""Path, times, grids and samplers against the official code; element-wise, so to 1e-6."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raexla.flow.path import flow_loss, interpolate, velocity_target
from raexla.flow.samplers import released_grid, sample
from raexla.flow.time import TimeRecipe, dimension_shift, sample_time
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.dit.official import from_official
from raexla.nn.timestep import fourier_frequencies

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"


def assert_parity(ours: Tensor, theirs: Tensor, factor: float = 1e-4) -> None:
    """Largest absolute difference <= factor x rms of the reference + 1e-6."""
    assert ours.shape == theirs.shape
    limit = factor * theirs.square().mean().sqrt().item() + 1e-6
    worst = (ours - theirs).abs().max().item()
    assert worst <= limit, f"differs by {worst:.3g}, allowed {limit:.3g}"


def close(ours: Tensor, theirs: Tensor, relative: float = 1e-6) -> None:
    """Largest absolute difference relative to the reference's rms, as the element-wise cases are judged."""
    assert ours.shape == theirs.shape
    limit = relative * max(theirs.float().square().mean().sqrt().item(), 1.0)
    assert (ours.float() - theirs.float()).abs().max().item() <= limit


def test_fourier_frequencies(official: Any) -> None:
    assert torch.equal(fourier_frequencies(), official("gaussian_fourier_W").outputs["W"])


@pytest.mark.parametrize(("tokens", "channels"), [(256, 1152), (256, 64), (64, 48)])
def test_scale_rae_training_times(official: Any, tokens: int, channels: int) -> None:
    fixture = official("scale_rae_flow_train")
    name, inputs, out = f"{tokens}x{channels}", fixture.inputs, fixture.outputs
    recipe = TimeRecipe()
    assert recipe.draw == "normal"
    factor = recipe.factor(tokens, channels)
    close(torch.tensor([factor]), out[f"shift_{name}"])
    close(sample_time(inputs["u"], TimeRecipe(shift=1.0), 1.0), out["t_before_shift"])
    close(sample_time(inputs["u"], recipe, factor), out[f"t_{name}"])
    t = sample_time(inputs["u4"], recipe, factor)
    x, noise = inputs["x"], inputs["noise"]
    close(t, out[f"small_t_{name}"])
    close(interpolate(x, noise, t), out[f"small_x_t_{name}"])
    close(velocity_target(x, noise), out["small_target"])
    close(flow_loss(inputs["pred"], velocity_target(x, noise)), out[f"small_loss_{name}"])


def test_scale_rae_training_loss(official: Any) -> None:
    """The whole loss with a real DiT: times, dropped conditions, velocity, gradients."""
    fixture = official("scale_rae_flow_train")
    inputs, out, full = fixture.inputs, fixture.outputs, fixture.config["full"]
    grid = (full["grid"], full["grid"])
    recipe = DiTRecipe(width=full["hidden"], depth=full["depth"], heads=full["heads"], condition_channels=full["z"])
    model = LightningDiT(recipe, grid, full["channels"])
    model.load_state_dict(from_official(fixture.weights, recipe, grid, full["channels"]))
    x, noise = inputs["full_x"], inputs["full_noise"].flatten(2).transpose(1, 2)
    time = TimeRecipe()
    t = sample_time(inputs["full_u"], time, time.factor(full["tokens"], full["channels"]))
    x_t = interpolate(x, noise, t)
    drop = inputs["full_drop_uniform"] < recipe.condition_dropout
    assert drop.tolist() == [False, True, False]
    velocity = model(x_t, t, inputs["full_y"], drop)
    loss = flow_loss(velocity, velocity_target(x, noise))
    close(t, out["full_t"])
    close(x_t, out["full_x_t"].flatten(2).transpose(1, 2))
    assert_parity(velocity, out["full_v"].flatten(2).transpose(1, 2))
    assert_parity(loss, out["full_loss"])
    loss.mean().backward()
    assert model.final_layer.linear.weight.grad is not None
    assert_parity(model.final_layer.linear.weight.grad, fixture.grads["final_layer.linear.weight"], 2e-4)
    null = dict(model.named_parameters())["y_embedder.dropout_embedding"].grad
    assert null is not None
    assert_parity(null, fixture.grads["y_embedder.dropout_embedding"], 2e-4)


@pytest.mark.parametrize(
    ("name", "density", "shifted"),
    [
        ("logitnormal_shift", "logit_normal", True),
        ("uniform_shift", "uniform", True),
        ("logitnormal_noshift", "logit_normal", False),
    ],
)
def test_rae_training_times(official: Any, name: str, density: Any, shifted: bool) -> None:
    fixture = official("rae_transport")
    inputs, out = fixture.inputs, fixture.outputs
    recipe = TimeRecipe(density=density, largest=0.999)
    assert recipe.draw == "uniform"
    t = sample_time(inputs["U"], recipe, fixture.config["shift"] if shifted else 1.0)
    close(t, out[f"t_{name}"], 1e-5)
    x_t = interpolate(inputs["x1"], inputs["x0"], out[f"t_{name}"])
    close(x_t, out[f"x_t_{name}"])
    target = velocity_target(inputs["x1"], inputs["x0"])
    close(target, out["u_t"])
    close(flow_loss(inputs["pred"], target), out[f"loss_{name}"])


def linear_field(a: Tensor, b: Tensor, seen: list[float]) -> Any:
    """v(x, t)[c] = sum_j A[c, j] x[j] + t b[c] over channels, as the fixtures' stub."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return torch.einsum("cj,bjhw->bchw", a, x) + t.reshape(-1, 1, 1, 1) * b.reshape(1, -1, 1, 1)

    return velocity


@pytest.mark.parametrize(("steps", "shifted"), [(50, True), (50, False), (10, True)])
def test_rae_sampler(official: Any, steps: int, shifted: bool) -> None:
    fixture = official("rae_transport")
    inputs, out = fixture.inputs, fixture.outputs
    name = f"{steps}_{'shift' if shifted else 'noshift'}"
    grid = released_grid("rae", steps, fixture.config["shift"] if shifted else 1.0)
    torch.testing.assert_close(torch.cat([grid[:, 0], grid[-1:, 1]]), out[f"grid_{name}"], rtol=1e-6, atol=0)
    seen: list[float] = []
    ours = sample(linear_field(inputs["A"], inputs["b"], seen), inputs["noise"], grid)
    close(torch.tensor(seen), out[f"t_evaluated_{name}"])
    close(ours, out[f"sample_{name}"])


def test_scale_rae_grid_figures() -> None:
    """No tensors of this case are at hand, but what its description says of them is."""
    described = json.loads((FOLDER / "scale_rae_sampler_grid.json").read_text())
    config, rms = described["config"], described["tolerance_observed"]["output_rms"]
    factor = dimension_shift(config["tokens"], config["channels"])
    assert factor == pytest.approx(config["shift"])
    grid = released_grid("scale_rae", config["steps"], factor)
    assert grid.shape == (49, 2)
    assert grid[:, 0].double().square().mean().sqrt().item() == pytest.approx(rms["t_evaluated"], abs=1e-6)
    # 48 steps down, contiguous, from 0.99760 to 0.00842, then the stray one back up
    assert torch.equal(grid[:47, 1], grid[1:48, 0])
    assert grid[0, 0].item() == pytest.approx(0.99760, abs=5e-6)
    assert grid[47, 1].item() == pytest.approx(0.00842, abs=5e-6)
    assert grid[48, 0].item() == grid[0, 0].item()
    assert grid[48, 1].item() == 1.0
    used = torch.cat([grid[:48, 0], grid[47:48, 1], grid[48:, 1]])
    assert used.double().square().mean().sqrt().item() == pytest.approx(rms["grid_50"], abs=1e-6)
