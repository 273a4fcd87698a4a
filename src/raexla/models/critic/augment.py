"""Differentiable augmentation (Zhao et al. 2020, as in StyleGAN-T and RAE src/disc/diffaug.py), draws as arguments.

Everything is of static shape: a translation is a product with a one-hot matrix per sample, not an index.
"""

import torch
from pydantic import Field
from torch import Tensor

from raexla.recipe import Recipe

AUGMENT_DRAWS = 7
"""Uniform draws per sample, in this order: row shift, column shift, brightness, saturation, contrast, cutout row,
cutout column."""

_SHIFT = 0.125


class AugmentRecipe(Recipe):
    """Which augmentations are on; both real and fake images get the same kind, with draws of their own."""

    translation: bool = True
    """Shift by up to 1/8 of the side, zeros come in."""
    color: bool = True
    """Brightness +-0.5 (on [-1, 1]), saturation x [0, 2], contrast x [0.5, 1.5]."""
    cutout: float = Field(default=0.0, ge=0, lt=1)
    """Side of a zeroed square as a share of the image's; 0 is off (as released)."""


def augment(image: Tensor, draws: Tensor, recipe: AugmentRecipe) -> Tensor:
    """Augmented images [B, 3, H, W], float32, not clamped.

    Args:
        image: [B, 3, H, W] in [-1, 1].
        draws: [B, 7] from U(0, 1), see `AUGMENT_DRAWS`. 0.5 is neutral for all but the cutout.
        recipe: what is on.
    """
    image, draws = image.float(), draws.float()
    row, column, brightness, saturation, contrast, cut_row, cut_column = draws.unbind(1)
    if recipe.translation:
        height, width = image.shape[2:]
        shift_rows, shift_columns = _shift_matrix(row, height), _shift_matrix(column, width)
        image = shift_rows[:, None] @ image @ shift_columns[:, None].transpose(2, 3)
    if recipe.color:
        image = image + (brightness - 0.5).view(-1, 1, 1, 1)
        grey = image.mean(1, keepdim=True)
        image = (image - grey) * (2.0 * saturation).view(-1, 1, 1, 1) + grey
        mean = image.mean((1, 2, 3), keepdim=True)
        image = (image - mean) * (contrast + 0.5).view(-1, 1, 1, 1) + mean
    if recipe.cutout > 0:
        inside_rows = _inside(cut_row, image.shape[2], recipe.cutout)
        inside_columns = _inside(cut_column, image.shape[3], recipe.cutout)
        image = image * (1.0 - inside_rows[:, None, :, None] * inside_columns[:, None, None, :])
    return image


def shift_of(draw: Tensor, size: int) -> Tensor:
    """The translation [B] in whole pixels, in [-size/8, size/8], that draws [B] from U(0, 1) stand for."""
    limit = round(size * _SHIFT)
    return torch.floor(draw * (2 * limit + 1)) - limit


def _shift_matrix(draw: Tensor, size: int) -> Tensor:
    """[B, size, size] with out[i] = in[i + shift], shift an integer in [-size/8, size/8]."""
    shift = shift_of(draw, size)
    index = torch.arange(size, device=draw.device, dtype=draw.dtype)
    return (index[None, None, :] == index[None, :, None] + shift[:, None, None]).to(draw.dtype)


def _inside(draw: Tensor, size: int, share: float) -> Tensor:
    """[B, size]: 1 where a cut of round(size * share) pixels, its middle drawn, covers the axis."""
    side = round(size * share)
    start = torch.floor(draw * (size + (1 - side % 2))) - side // 2
    index = torch.arange(size, device=draw.device, dtype=draw.dtype)
    return ((index[None] >= start[:, None]) & (index[None] < start[:, None] + side)).to(draw.dtype)
