"""What `tools/parity.py` does not ask of times and samplers."""

import json
from pathlib import Path

import pytest
import torch

from raexla.flow.samplers import released_grid, released_indices, released_times
from raexla.flow.time import TimeRecipe, dimension_shift

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity"


def test_which_draw_a_density_takes() -> None:
    assert TimeRecipe().draw == "normal"
    assert TimeRecipe(largest=0.999).draw == "uniform"
    assert TimeRecipe(density="uniform").draw == "uniform"


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


def test_the_times_that_the_official_sampler_picks_from() -> None:
    assert released_indices(50).tolist()[:3] == [0, 20, 41]
    assert released_indices(50).tolist()[-2:] == [979, 999]
    assert released_times(1.0, 500)[0].item() == pytest.approx(1 / 500)
    assert released_grid("scale_rae", 5, 1.0, 500)[0, 0].item() == pytest.approx(
        (released_indices(5, 500)[-2] + 1) / 500
    )
