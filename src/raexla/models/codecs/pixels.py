"""The codec without a network: patches of pixels are the latent."""

from torch import Tensor, nn

from raexla.models.codecs.recipe import PixelsCodecRecipe
from raexla.nn.patches import patchify, unpatchify
from raexla.recipe import UserError


class PixelsCodec(nn.Module):
    """Latent [B, N, 3 p p] = pixels of each patch, (row, column, channel) inside it, scaled from [0, 1] to [-1, 1]."""

    def __init__(self, recipe: PixelsCodecRecipe) -> None:
        super().__init__()
        if recipe.image_size % recipe.patch_size:
            raise UserError(f"image_size {recipe.image_size} is no multiple of patch_size {recipe.patch_size}")
        side = recipe.image_size // recipe.patch_size
        self.patch_size = recipe.patch_size
        self.image_size = self.output_size = recipe.image_size
        self.grid = (side, side)
        self.channels = 3 * recipe.patch_size**2

    def encode(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, N, 3 p p] in [-1, 1]."""
        return patchify(image * 2.0 - 1.0, self.patch_size)

    def decode(self, latent: Tensor) -> Tensor:
        """The inverse of `encode`."""
        return (unpatchify(latent, self.grid, self.patch_size) + 1.0) / 2.0
