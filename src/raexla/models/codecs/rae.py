"""The representation autoencoder's codec (001, sec. 3; RAE src/stage1/rae.py)."""

import torch
from torch import Tensor, nn

from raexla.models.codecs.recipe import NoiseRecipe
from raexla.models.decoder import ViTDecoder
from raexla.models.encoders import Encoder
from raexla.recipe import UserError


class LatentStatistics(nn.Module):
    """Mean and variance of the latent, per token and channel [N, C] or per channel [1, C]; frozen buffers.

    normalise: (z - mean) / sqrt(var + 1e-5); `denormalise` is its inverse.
    """

    eps = 1e-5
    mean: Tensor
    var: Tensor

    def __init__(self, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        if mean.shape != var.shape or mean.dim() != 2:
            raise ValueError(f"statistics are [N, C] or [1, C], got mean {list(mean.shape)}, var {list(var.shape)}")
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("var", var.float().clone())

    @classmethod
    def from_grid(cls, mean: Tensor, var: Tensor) -> "LatentStatistics":
        """From the released `stat.pt` layout: mean and var [C, h, w] (or [C])."""
        mean, var = (t.reshape(t.shape[0], -1).transpose(0, 1) for t in (mean, var))
        return cls(mean, var)

    def normalise(self, latent: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return (latent - self.mean) / torch.sqrt(self.var + self.eps)

    def denormalise(self, latent: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return latent * torch.sqrt(self.var + self.eps) + self.mean


class RAECodec(nn.Module):
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
        self.statistics = statistics
        self.noise = noise or NoiseRecipe()
        self.grid = encoder.grid
        self.channels = encoder.channels
        self.image_size = encoder.image_size
        if decoder is not None and (decoder.latent_grid, decoder.embed.in_features) != (self.grid, self.channels):
            raise UserError(
                f"the decoder was made for a latent of {decoder.latent_grid} x {decoder.embed.in_features}, "
                f"the encoder gives {self.grid} x {self.channels}: take the decoder trained on this encoder"
            )
        tokens = self.grid[0] * self.grid[1]
        if statistics is not None and tuple(statistics.mean.shape) not in {(tokens, self.channels), (1, self.channels)}:
            raise UserError(
                f"the latent statistics are for {list(statistics.mean.shape)} (tokens, channels), "
                f"the encoder gives [{tokens}, {self.channels}]: compute them again with `raexla stats`"
            )

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
        """Image [B, 3, H, W] of `latent` [B, N, C]; not clamped, with gradients.

        Raises:
            UserError: there is no decoder.
        """
        if self.decoder is None:
            raise UserError(
                "this codec has no decoder: give codec.decoder and codec.weights to get images from latents"
            )
        return self.decoder(self.denormalise(latent))

    def normalise(self, tokens: Tensor) -> Tensor:
        """Encoder tokens -> latent."""
        return tokens if self.statistics is None else self.statistics.normalise(tokens)

    def denormalise(self, latent: Tensor) -> Tensor:
        """Latent -> encoder tokens (which is also what the MLLM's projector reads)."""
        return latent if self.statistics is None else self.statistics.denormalise(latent)
