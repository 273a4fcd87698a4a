"""LightningDiT and its heads against the official modules: outputs and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from raexla.flow.guidance import guide, guided_together
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.dit.official import derived_tables, from_official, key_map, to_official

GRID, CHANNELS = (4, 4), 24


def assert_parity(ours: Tensor, theirs: Tensor, factor: float = 1e-4) -> None:
    """Largest absolute difference <= factor x rms of the reference + 1e-6."""
    assert ours.shape == theirs.shape
    limit = factor * theirs.square().mean().sqrt().item() + 1e-6
    worst = (ours - theirs).abs().max().item()
    assert worst <= limit, f"differs by {worst:.3g}, allowed {limit:.3g}"


def tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, N, C]."""
    return x.flatten(2).transpose(1, 2)


def scale_rae_recipe(config: dict[str, Any]) -> DiTRecipe:
    width, depth, heads = (config[f"model_{key}"] for key in ("hidden_size", "depth", "heads"))
    head = None
    if isinstance(width, list):
        head = {"wiring": "scale_rae", "width": width[1], "depth": depth[1], "heads": heads[1]}
        width, depth, heads = width[0], depth[0], heads[0]
    elif config.get("use_DDT"):
        backbone = config["DDT_encoder_depth"]
        head = {"wiring": "classic", "width": width, "depth": depth - backbone, "heads": heads}
        depth = backbone
    return DiTRecipe.model_validate(
        {
            "width": width,
            "depth": depth,
            "heads": heads,
            "condition_channels": config["z_channels"],
            "condition_dropout": config["class_dropout_prob"],
            "head": head,
        }
    )


def rae_recipe(config: dict[str, Any], sizes: dict[str, Any]) -> DiTRecipe:
    (width, wide), (depth, shallow), (heads, more) = (sizes[k] for k in ("hidden_size", "depth", "num_heads"))
    return DiTRecipe.model_validate(
        {
            "width": width,
            "depth": depth,
            "heads": heads,
            "conditioning": {"type": "class", "num_classes": config["num_classes"]},
            "condition_dropout": config["class_dropout_prob"],
            "head": {"wiring": "rae", "width": wide, "depth": shallow, "heads": more},
        }
    )


def build(recipe: DiTRecipe, weights: dict[str, Tensor]) -> LightningDiT:
    model = LightningDiT(recipe, GRID, CHANNELS)
    model.load_state_dict(from_official(weights, recipe, GRID, CHANNELS))
    return model


def assert_grads(model: LightningDiT, fixture: Any, layout: Any, keys: set[str]) -> None:
    parameters, names = dict(model.named_parameters()), key_map(model.recipe, layout)
    for key in keys:
        grad = parameters[names[key]].grad
        assert grad is not None
        assert_parity(grad.reshape(fixture.grads[key].shape), fixture.grads[key], 2e-4)


@pytest.mark.parametrize("name", ["scale_rae_dit", "scale_rae_ddt_classic", "scale_rae_ddt_wide"])
def test_scale_rae(official: Any, name: str) -> None:
    fixture = official(name)
    model = build(scale_rae_recipe(fixture.config), fixture.weights)
    x, y, out = tokens(fixture.inputs["x"]), fixture.inputs["y"], fixture.outputs
    for index in range(3):
        assert_parity(model(x, fixture.inputs[f"t_{index}"], y), tokens(out[f"v_{index}"]))
    everyone = torch.ones(2, dtype=torch.bool)
    t0, t1 = fixture.inputs["t_0"], fixture.inputs["t_1"]
    assert_parity(model(x, t0, y, everyone), tokens(out["v_uncond"]))
    drop = fixture.inputs["drop_uniform"] < model.recipe.condition_dropout
    assert drop.tolist() == [True, False]
    assert_parity(model(x, t0, y, drop), tokens(out["v_train_drop"]))
    # the official interval is inverted: its empty interval guides everywhere, its default one nowhere
    c, u = model(x, t1, y), model(x, t1, y, everyone)
    assert_parity(guide(c, u, t1, 3.0), tokens(out["v_cfg_scale3_empty_interval"]))
    assert_parity(guide(c, u, t1, 3.0, (2.0, 3.0)), tokens(out["v_cfg_scale3_default_interval"]))

    null = "y_embedder.dropout_embedding"
    model(x, t0, y).square().mean().backward()
    assert_grads(model, fixture, "scale_rae", set(fixture.grads) - {null})
    model.zero_grad()
    model(x, t0, y, everyone).square().mean().backward()
    assert_grads(model, fixture, "scale_rae", {null})


def test_rae_ditdh(official: Any) -> None:
    fixture = official("rae_ditdh")
    config, inputs, out = fixture.config, fixture.inputs, fixture.outputs
    model = build(rae_recipe(config, config), fixture.weights)
    weak = build(rae_recipe(config, config["guide"]), fixture.part("weight_guide"))
    x, label = tokens(inputs["x"]), inputs["label"]
    assert_parity(model(x, inputs["t_0"], label), tokens(out["v_t_0"]))
    assert_parity(model(x, inputs["t_1"], label), tokens(out["v_t_1"]))
    null = torch.full_like(label, config["num_classes"])
    assert_parity(model(x, inputs["t_0"], null), tokens(out["v_null"]))
    assert_parity(model(x, inputs["t_0"], label, torch.ones(2, dtype=torch.bool)), tokens(out["v_null"]))
    assert_parity(weak(x, inputs["t_0"], label), tokens(out["v_guide_t_0"]))
    both = guided_together(lambda x2, t2: model(x2, t2, torch.cat([label, null])), 2.0, (0.1, 0.9))
    for when in ("in", "out", "mixed", "edge"):
        t = inputs[f"t_{when}"]
        assert_parity(both(x, t), tokens(out[f"cfg2_{when}"]))
        strong = model(x, t, label)
        assert_parity(guide(strong, weak(x, t, label), t, 2.0, (0.1, 0.9)), tokens(out[f"ag2_{when}"]))
    model(x, inputs["t_0"], label).square().mean().backward()
    assert_grads(model, fixture, "rae", set(fixture.grads))


@pytest.mark.parametrize("name", ["scale_rae_dit", "scale_rae_ddt_classic", "scale_rae_ddt_wide", "rae_ditdh"])
def test_official_keys_there_and_back(official: Any, name: str) -> None:
    """Every official key comes back, bit-equal where it carries weights; the derived ones are what we compute."""
    fixture = official(name)
    rae = name == "rae_ditdh"
    recipe = rae_recipe(fixture.config, fixture.config) if rae else scale_rae_recipe(fixture.config)
    back = to_official(from_official(fixture.weights, recipe, GRID, CHANNELS), recipe, GRID, CHANNELS)
    assert back.keys() == fixture.weights.keys()
    tables = derived_tables(recipe, GRID, "rae" if rae else "scale_rae")
    for key, value in fixture.weights.items():
        assert back[key].shape == value.shape
        if key in tables:
            torch.testing.assert_close(back[key], value, rtol=0, atol=1e-6)
        else:
            assert torch.equal(back[key], value)
