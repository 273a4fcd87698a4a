"""The pixel decoder of the representation autoencoder: latent tokens to an image.

A plain ViT (001, sec. 3 and app. E; 000, app. B): embed, a learned CLS token, fixed sine-cosine positions, pre-norm
blocks, a linear to pixels. Its patch size is its own, so that it may draw a larger picture than the encoder saw.
"""

from raexla.models.decoder.recipe import DecoderRecipe
from raexla.models.decoder.sharding import sharding_table
from raexla.models.decoder.vit import ViTDecoder, init_weights

__all__ = ["DecoderRecipe", "ViTDecoder", "init_weights", "sharding_table"]
