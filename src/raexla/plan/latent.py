"""The latent of a codec, and what it costs to make: from configurations, nothing is built."""

from dataclasses import dataclass

from raexla.models.codecs import (
    AlignTokCodecRecipe,
    CodecRecipe,
    PixelsCodecRecipe,
    RAECodecRecipe,
    VAECodecRecipe,
)
from raexla.models.encoders import EncoderRecipe
from raexla.models.flops import Work, image_work, vae_work
from raexla.plan.sizes import read_sizes, read_vae_sizes, vae_parameters, vision_parameters
from raexla.recipe import UserError


@dataclass(frozen=True)
class Latent:
    """What a codec makes of an image.

    parameters: of the network that makes it (a VAE's decoder, which is placed with it, included).
    work: multiply-adds of one image.
    """

    grid: tuple[int, int]
    channels: int
    parameters: int
    work: Work

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]


def read_latent(recipe: CodecRecipe, image_size: int) -> Latent:
    """The latent of images of `image_size` pixels.

    Raises:
        UserError: a network whose configuration is not known, a codec that can't be planned.
    """
    if isinstance(recipe, RAECodecRecipe):
        return read_tokens(recipe.encoder, image_size)
    if isinstance(recipe, VAECodecRecipe):
        return _vae(recipe)
    if isinstance(recipe, PixelsCodecRecipe):
        side = recipe.image_size // recipe.patch_size
        return Latent((side, side), 3 * recipe.patch_size**2, 0, Work())
    assert isinstance(recipe, AlignTokCodecRecipe)
    raise UserError("codec.type aligntok: `plan` knows rae, vae and pixels")


def read_tokens(recipe: EncoderRecipe, image_size: int) -> Latent:
    """The tokens of a frozen vision transformer.

    Raises:
        UserError: its configuration is not known.
    """
    sizes = read_sizes(recipe.path)
    pixels = recipe.input_size or sizes.image_size
    side = pixels // sizes.patch_size
    work = image_work(sizes, image_size, pixels)  # type: ignore[arg-type]
    return Latent((side, side), sizes.hidden_size, vision_parameters(sizes), work)


def _vae(recipe: VAECodecRecipe) -> Latent:
    sizes = read_vae_sizes(recipe.place)
    side = recipe.image_size // 2 ** (len(sizes.block_out_channels) - 1) // recipe.pack
    shape = (sizes.block_out_channels, sizes.layers_per_block, sizes.latent_channels, recipe.image_size)
    work = vae_work(*shape, quantised=sizes.use_quant_conv).under("encoder.")
    return Latent((side, side), sizes.latent_channels * recipe.pack**2, vae_parameters(sizes), work)
