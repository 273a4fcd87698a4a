"""The representation autoencoder's codec (001, sec. 3; RAE src/stage1/rae.py)."""

import torch
from torch import Tensor

from raexla.models.codecs.recipe import NoiseRecipe
from raexla.models.codecs.statistics import LatentStatistics, NormalisedCodec
from raexla.models.decoder import ViTDecoder
from raexla.models.encoders import Encoder
from raexla.recipe import UserError


class RAECodec(NormalisedCodec):
    """Frozen encoder, optional statistics, optional decoder.

    Args:
        encoder: made for images of `image_size`.
        decoder: None for a codec that only encodes.
        statistics: None for a latent that is left as the encoder's final norm makes it.
        noise: the law of the noise that `noised` adds while a decoder is trained.

    Raises:
        UserError: decoder, statistics and encoder don't fit, both numbers named.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: ViTDecoder | None = None,
        statistics: LatentStatistics | None = None,
        noise: NoiseRecipe | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.noise = noise or NoiseRecipe()
        self.grid = encoder.grid
        self.channels = encoder.channels
        self.image_size = encoder.image_size
        self.output_size = decoder.image_size[0] if decoder is not None else encoder.image_size
        if decoder is not None and (decoder.latent_grid, decoder.embed.in_features) != (self.grid, self.channels):
            raise UserError(
                f"the decoder was made for a latent of {decoder.latent_grid} x {decoder.embed.in_features}, "
                f"the encoder gives {self.grid} x {self.channels}: take the decoder trained on this encoder"
            )
        if decoder is not None and len(set(decoder.image_size)) != 1:
            raise UserError(f"the decoder draws {decoder.image_size} pixels: give it a grid as high as it is wide")
        self.set_statistics(statistics)

    def encode(self, image: Tensor) -> Tensor:
        """Latent [B, N, C] of `image` [B, 3, H, W] in [0, 1]; no gradient."""
        with torch.no_grad():
            return self.normalise(self.encoder(image))

    def encode_noised(self, image: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """As `encode`, with noise added before the statistics are applied (facts C); for decoder training.

        Args:
            image: [B, 3, H, W] in [0, 1].
            sigma: [B], standard normal draws (half_normal) or draws from U(0, 1) (uniform).
            noise: [B, N, C], standard normal draws.
        """
        with torch.no_grad():
            tokens = self.encoder(image)
            scale = self.noise.tau * (sigma.abs() if self.noise.kind == "half_normal" else sigma)
            return self.normalise(tokens + scale[:, None, None] * noise)

    def decode(self, latent: Tensor) -> Tensor:
        """Image [B, 3, output_size, output_size] of `latent` [B, N, C]; not clamped, with gradients.

        Raises:
            UserError: there is no decoder.
        """
        if self.decoder is None:
            raise UserError(
                "this codec has no decoder: give codec.decoder and codec.weights to get images from latents"
            )
        return self.decoder(self.denormalise(latent))
