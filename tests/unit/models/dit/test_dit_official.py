"""The released key lists, at full size, on meta."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raexla.models.dit import DiTRecipe, LightningDiT, init_weights
from raexla.models.dit.official import check_official, derived_tables, from_official, to_official
from raexla.recipe import UserError

KEYS = Path(__file__).parents[3] / "fixtures" / "parity" / "keys"
DIT_DH = {"conditioning": {"type": "class"}, "head": {"wiring": "rae"}}


def released(name: str, prefix: str = "") -> dict[str, Tensor]:
    shapes = json.loads((KEYS / f"{name}.json").read_text())
    return {
        key.removeprefix(prefix): torch.empty(shape, device="meta")
        for key, shape in shapes.items()
        if key.startswith(prefix)
    }


CASES = [
    ("DiTDH-S", "", {"size": "S", **DIT_DH}, 768),
    ("DiTDH-XL", "", {"size": "XL", **DIT_DH}, 768),
    ("Scale-RAE-Qwen1.5B_DiT2.4B", "diff_head.model.", {"size": "2.4B"}, 1152),
]


@pytest.mark.parametrize(("name", "prefix", "values", "channels"), CASES)
def test_the_released_keys_are_all_accounted_for(name: str, prefix: str, values: dict[str, Any], channels: int) -> None:
    recipe, grid = DiTRecipe.model_validate(values), (16, 16)
    state = released(name, prefix)
    report = check_official(state, recipe, grid, channels)
    assert report.problems() == []
    assert sorted(report.unchecked_tables) == sorted(
        derived_tables(recipe, grid, "rae" if prefix == "" else "scale_rae")
    )
    with torch.device("meta"):
        model = LightningDiT(recipe, grid, channels)
    model.load_state_dict(from_official(state, recipe, grid, channels), assign=True)


def small() -> tuple[DiTRecipe, tuple[int, int], int, dict[str, Tensor]]:
    recipe, grid, channels = DiTRecipe(width=32, depth=1, heads=2), (3, 4), 8
    model = LightningDiT(recipe, grid, channels)
    init_weights(model, torch.Generator().manual_seed(0))
    return recipe, grid, channels, to_official(model.state_dict(), recipe, grid, channels)


def without(state: dict[str, Tensor]) -> None:
    del state["dit_blocks.0.attn.qkv.weight"]


def renamed(state: dict[str, Tensor]) -> None:
    state["final_layer.out.bias"] = state.pop("final_layer.linear.bias")


def reshaped(state: dict[str, Tensor]) -> None:
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"][:, :4]


def turned(state: dict[str, Tensor]) -> None:
    state["pos_embed"] = state["pos_embed"].roll(1, dims=-1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without, ["missing: dit_blocks.0.attn.qkv.weight"]),
        (renamed, ["missing: final_layer.linear.bias", "unexpected: final_layer.out.bias"]),
        (reshaped, ["wrong shape: x_embedder.proj.weight: [32, 4, 1, 1], expected [32, 8, 1, 1]"]),
        (turned, ["wrong values: pos_embed: differs from the table for this grid by"]),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Tensor]], None], named: list[str]) -> None:
    recipe, grid, channels, state = small()
    from_official(state, recipe, grid, channels)
    change(state)
    with pytest.raises(UserError) as error:
        from_official(state, recipe, grid, channels)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert len(lines) == len(named)
    assert all(line.startswith(name) for line, name in zip(lines, named, strict=True))


def test_derived_tables_may_be_absent() -> None:
    recipe, grid, channels, state = small()
    tables = derived_tables(recipe, grid, "scale_rae")
    report = check_official({k: v for k, v in state.items() if k not in tables}, recipe, grid, channels)
    assert report.problems() == []
    assert report.absent_tables == sorted(tables)


def test_there_and_back_with_patches_and_norms() -> None:
    recipe = DiTRecipe(width=32, depth=1, heads=2, patch_size=2, qk_norm=True, condition_dropout=0.0)
    model = LightningDiT(recipe, (4, 4), 8)
    init_weights(model, torch.Generator().manual_seed(0))
    official = to_official(model.state_dict(), recipe, (4, 4), 8)
    assert official["x_embedder.proj.weight"].shape == (32, 8, 2, 2)
    assert official["pos_embed"].shape == (1, 4, 32)
    back = from_official(official, recipe, (4, 4), 8)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


def test_other_frequencies_cannot_go_into_the_layout_that_does_not_store_them() -> None:
    recipe, grid, channels, official = small()
    state = from_official(official, recipe, grid, channels)
    state["t_embedder.W"] = state["t_embedder.W"] + 1
    with pytest.raises(UserError, match=r"t_embedder\.W"):
        to_official(state, recipe, grid, channels)
    stored = to_official(state, recipe, grid, channels, "rae")
    assert torch.equal(stored["t_embedder.W"], state["t_embedder.W"])
