"""Codecs: image <-> latent tokens, one contract whatever is behind it (`base.py`).

`encode(image [B, 3, H, W] in [0, 1]) -> latent [B, N, C]` and `decode(latent) -> image` (unclamped), with `.grid`,
`.channels`, `.image_size` in and `.output_size` out. `rae` puts a frozen encoder and the ViT decoder together, `vae`
wraps diffusers' AutoencoderKL, `aligntok` is a tuned encoder with an adapter to a small latent and a convolutional
decoder, `pixels` has no network at all.
"""

from raexla.models.codecs.aligntok import AlignTokCodec
from raexla.models.codecs.base import Codec
from raexla.models.codecs.build import build_codec
from raexla.models.codecs.convolutional import ConvDecoder, ConvDecoderRecipe
from raexla.models.codecs.pixels import PixelsCodec
from raexla.models.codecs.rae import RAECodec
from raexla.models.codecs.recipe import (
    AlignTokCodecRecipe,
    CodecRecipe,
    NoiseRecipe,
    PixelsCodecRecipe,
    RAECodecRecipe,
    VAECodecRecipe,
)
from raexla.models.codecs.statistics import LatentStatistics, NormalisedCodec
from raexla.models.codecs.vae import VAECodec

__all__ = [
    "AlignTokCodec",
    "AlignTokCodecRecipe",
    "Codec",
    "CodecRecipe",
    "ConvDecoder",
    "ConvDecoderRecipe",
    "LatentStatistics",
    "NoiseRecipe",
    "NormalisedCodec",
    "PixelsCodec",
    "PixelsCodecRecipe",
    "RAECodec",
    "RAECodecRecipe",
    "VAECodec",
    "VAECodecRecipe",
    "build_codec",
]
