"""What a DiT's recipe accepts and refuses."""

from typing import Any

import pytest
from pydantic import ValidationError

from raexla.models.dit import SIZES, DiTRecipe, LightningDiT
from raexla.recipe import UserError


def test_a_size_fills_in_the_numbers() -> None:
    recipe = DiTRecipe.model_validate({"size": "XL"})
    assert (recipe.width, recipe.depth, recipe.heads) == SIZES["XL"] == (1152, 28, 16)
    assert DiTRecipe.model_validate(recipe.model_dump()) == recipe
    assert recipe.condition_width == 1152


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "XL", "width": 64}, "size XL has width 1152, but width is given as 64"),
        ({"size": "huge"}, "size"),
        ({"depth": 2, "heads": 2}, "width"),
        ({"width": 64, "depth": 2, "heads": 3}, "64 wide in 3 heads"),
        ({"width": 60, "depth": 2, "heads": 10}, "60 wide in 10 heads"),
        ({"width": 64, "depth": 2, "heads": 2, "hedas": 2}, "hedas"),
        ({"width": 64, "depth": 2, "heads": 2, "head": {"width": 90, "heads": 4}}, "the head is 90 wide in 4 heads"),
        (
            {"width": 64, "depth": 2, "heads": 2, "head": {"wiring": "classic", "width": 96, "heads": 4}},
            r"as wide as the backbone \(64\), not 96",
        ),
        (
            {"width": 64, "depth": 2, "heads": 2, "condition_channels": 48, "head": {"wiring": "rae"}},
            "condition_channels must equal width",
        ),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DiTRecipe.model_validate(values)


@pytest.mark.parametrize(
    ("head", "refused"),
    [
        (None, True),
        ({"wiring": "scale_rae", "width": 48, "depth": 1, "heads": 2}, False),
        ({"wiring": "scale_rae", "width": 16, "depth": 1, "heads": 2}, True),
    ],
)
def test_narrower_than_the_latent(head: dict[str, Any] | None, refused: bool) -> None:
    """Paper 001, Theorem 1: refused with both numbers, unless a wide head is there or the recipe says it is meant."""
    values = {"width": 32, "depth": 1, "heads": 2, "head": head}
    if not refused:
        LightningDiT(DiTRecipe.model_validate(values), (2, 2), 48)
        return
    width = 32 if head is None else 16
    with pytest.raises(UserError, match=rf"is {width} wide and a latent token has 48 channels.*Theorem 1"):
        LightningDiT(DiTRecipe.model_validate(values), (2, 2), 48)
    LightningDiT(DiTRecipe.model_validate(values | {"allow_narrow": True}), (2, 2), 48)


def test_patches_count_towards_the_latents_width() -> None:
    recipe = DiTRecipe(width=32, depth=1, heads=2, patch_size=2)
    LightningDiT(recipe, (4, 4), 8)
    with pytest.raises(UserError, match="a latent token has 64 channels"):
        LightningDiT(recipe, (4, 4), 16)
