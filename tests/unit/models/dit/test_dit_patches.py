"""Patches of 1, 2 and 16: representation latents, VAE latents, pixels."""

import pytest
import torch

from raexla.models.dit import DDTHeadRecipe, DiTRecipe, LightningDiT, init_weights
from raexla.recipe import UserError

# patch -> grid and channels of the latent; each gives 2 x 4 transformer tokens
LATENTS = {1: ((2, 4), 6), 2: ((4, 8), 4), 16: ((32, 64), 3)}


def build(patch: int) -> LightningDiT:
    """A model in which tokens do not see each other, and none of whose weights is zero."""
    grid, channels = LATENTS[patch]
    recipe = DiTRecipe(width=32, depth=1, heads=2, patch_size=patch, allow_narrow=True)
    model = LightningDiT(recipe, grid, channels)
    generator = torch.Generator().manual_seed(0)
    init_weights(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.blocks[0].attn.proj.weight.zero_()
    return model


@pytest.mark.parametrize("patch", sorted(LATENTS))
def test_a_patch_is_read_and_written_where_it_stands(patch: int) -> None:
    """Changing one latent token changes the velocity of exactly its own patch: in and out agree on rows and columns."""
    model, ((rows, columns), channels) = build(patch), LATENTS[patch]
    assert model.condition_tokens == 8
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, rows * columns, channels, generator=generator)
    t, condition = torch.tensor([0.4]), torch.randn(1, 8, 32, generator=generator)
    row, column = rows - 1, patch  # the second row of patches, the second patch in it
    other = x.clone()
    other[0, row * columns + column] += 1
    moved = (model(other, t, condition) - model(x, t, condition)).abs().amax(-1).reshape(rows, columns) > 1e-7
    expected = torch.zeros(rows, columns, dtype=torch.bool)
    expected[patch:, patch : 2 * patch] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("patch", sorted(LATENTS))
def test_a_condition_modulates_its_patch(patch: int) -> None:
    model, ((rows, columns), channels) = build(patch), LATENTS[patch]
    x, t = torch.ones(1, rows * columns, channels), torch.tensor([0.4])
    condition = torch.zeros(1, 8, 32)
    other = condition.clone()
    other[0, 5] = 1  # second row of patches, second patch
    moved = (model(x, t, other) - model(x, t, condition)).abs().amax(-1).reshape(rows, columns) > 1e-7
    assert moved.nonzero().amin(0).tolist() == [patch, patch]
    assert moved.sum() == patch * patch


def test_pixels_count_in_theorem_1() -> None:
    """Paper 001, Figure 3 and App. G: 16 x 16 pixels of 3 channels are 768 numbers, DiT-S is 384 wide."""
    wide, narrow = (DiTRecipe.model_validate({"size": size, "patch_size": 16}) for size in ("B", "S"))
    with torch.device("meta"):
        LightningDiT(wide, (256, 256), 3)
        with pytest.raises(
            UserError, match=r"is 384 wide and a latent token has 768 channels.*\(768 - 384\) / 768 = 0.50"
        ):
            LightningDiT(narrow, (256, 256), 3)


def test_a_grid_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="patch_size is 2, but the latent has 16 x 15 tokens"):
        LightningDiT(DiTRecipe(width=32, depth=1, heads=2, patch_size=2), (16, 15), 4)


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        ({}, (2048, 2, 16)),
        ({"width": 2688}, (2688, 2, 21)),
        ({"width": 1536}, (1536, 2, 16)),
        ({"width": 768}, (768, 2, 12)),
        ({"width": 1152, "depth": 6}, (1152, 6, 16)),
        ({"width": 2688, "heads": 42}, (2688, 2, 42)),
        ({"width": 192}, (192, 2, 16)),
    ],
)
def test_a_head_takes_the_papers_heads_by_its_width(values: dict[str, int], shape: tuple[int, int, int]) -> None:
    head = DDTHeadRecipe.model_validate(values)
    assert (head.width, head.depth, head.heads) == shape
    assert DDTHeadRecipe.model_validate(head.model_dump()) == head
