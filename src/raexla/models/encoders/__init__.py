"""Frozen image encoders: SigLIP-2, DINOv2 (with and without registers), WebSSL, MAE.

Each is a transformers class behind one small contract, `Encoder`: an image in [0, 1] goes in, row-major patch tokens
come out. The encoder owns what used to be scattered over scripts: its pixel normalisation, its way of resizing, which
tokens are dropped and which final norm applies. All resizing is by fixed matrices, so that it compiles on XLA.
"""

from raexla.models.encoders.base import Encoder
from raexla.models.encoders.build import build_encoder, load_encoder, read_encoder_config
from raexla.models.encoders.recipe import Dinov2Recipe, EncoderRecipe, MAERecipe, Siglip2Recipe, WebSSLRecipe
from raexla.models.encoders.sharding import sharding_table

__all__ = [
    "Dinov2Recipe",
    "Encoder",
    "EncoderRecipe",
    "MAERecipe",
    "Siglip2Recipe",
    "WebSSLRecipe",
    "build_encoder",
    "load_encoder",
    "read_encoder_config",
    "sharding_table",
]
