"""Codecs: image <-> latent tokens, one contract whatever is behind it.

`encode(image [B, 3, H, W] in [0, 1]) -> latent [B, N, C]` and `decode(latent) -> image` (unclamped), with `.grid`,
`.channels` and `.image_size`. `rae` puts a frozen encoder and the ViT decoder together, `vae` wraps diffusers'
AutoencoderKL, `pixels` has no network at all.
"""

from raexla.models.codecs.base import Codec
from raexla.models.codecs.build import build_codec
from raexla.models.codecs.pixels import PixelsCodec
from raexla.models.codecs.rae import LatentStatistics, RAECodec
from raexla.models.codecs.recipe import (
    CodecRecipe,
    NoiseRecipe,
    PixelsCodecRecipe,
    RAECodecRecipe,
    VAECodecRecipe,
)

__all__ = [
    "Codec",
    "CodecRecipe",
    "LatentStatistics",
    "NoiseRecipe",
    "PixelsCodec",
    "PixelsCodecRecipe",
    "RAECodec",
    "RAECodecRecipe",
    "VAECodecRecipe",
    "build_codec",
]
