"""What `tools/parity.py` does not ask of the diffusion transformers: the way back, other ways to the same numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raexla.flow.guidance import guided_together
from raexla.models.dit import LightningDiT
from raexla.models.dit.official import derived_tables, from_official, to_official

GRID, CHANNELS = (4, 4), 24
SCALE_RAE = ["scale_rae_dit", "scale_rae_ddt_classic", "scale_rae_ddt_wide"]


@pytest.fixture
def recipe_of(tool: Any) -> Any:
    """`recipe_of(name, config)`: the recipe that the tool makes of a fixture's config."""
    from parity_kinds.case import Config
    from parity_kinds.dit import rae_recipe, scale_rae_recipe

    def make(name: str, config: dict[str, Any]) -> Any:
        fields = Config(config)
        if name in SCALE_RAE:
            return scale_rae_recipe(fields)
        return rae_recipe(fields, fields, config["num_classes"], head=True)

    return make


@pytest.mark.parametrize("name", [*SCALE_RAE, "rae_ditdh"])
def test_official_keys_there_and_back(official: Any, recipe_of: Any, name: str) -> None:
    """Every official key comes back, bit-equal where it carries weights; the derived ones are what we compute."""
    fixture = official(name)
    recipe = recipe_of(name, fixture.config)
    back = to_official(from_official(fixture.weights, recipe, GRID, CHANNELS), recipe, GRID, CHANNELS)
    assert back.keys() == fixture.weights.keys()
    tables = derived_tables(recipe, GRID, "rae" if name == "rae_ditdh" else "scale_rae")
    for key, value in fixture.weights.items():
        assert back[key].shape == value.shape
        if key in tables:
            torch.testing.assert_close(back[key], value, rtol=0, atol=1e-6)
        else:
            assert torch.equal(back[key], value)


def tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, N, C]."""
    return x.flatten(2).transpose(1, 2)


def planes(x: Tensor) -> Tensor:
    """[B, N, C] -> [B, C, H, W]."""
    return x.transpose(1, 2).unflatten(2, GRID)


def test_a_dropped_label_is_the_null_class_and_guidance_may_double_the_batch(official: Any, recipe_of: Any) -> None:
    fixture = official("rae_ditdh")
    inputs = fixture.inputs
    recipe = recipe_of("rae_ditdh", fixture.config)
    model = LightningDiT(recipe, GRID, CHANNELS)
    model.load_state_dict(from_official(fixture.weights, recipe, GRID, CHANNELS))
    x, label = tokens(inputs["x"]), inputs["label"]
    fixture.check("v_null", planes(model(x, inputs["t_0"], label, torch.ones(2, dtype=torch.bool))))
    null = torch.full_like(label, fixture.config["num_classes"])
    both = guided_together(lambda x2, t2: model(x2, t2, torch.cat([label, null])), 2.0, (0.1, 0.9))
    for when in ("in", "out", "mixed", "edge"):
        fixture.check(f"cfg2_{when}", planes(both(x, inputs[f"t_{when}"])))


def test_the_fixtures_drop_some_and_keep_some(official: Any) -> None:
    for name in SCALE_RAE:
        assert (official(name).inputs["drop_uniform"] < 0.1).tolist() == [True, False]
    assert (official("scale_rae_flow_train").inputs["full_drop_uniform"] < 0.1).tolist() == [False, True, False]
