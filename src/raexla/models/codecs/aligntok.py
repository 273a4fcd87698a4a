"""AlignTok's codec (003): a pretrained encoder, an adapter to a small latent, a convolutional decoder.

What the paper says (section 3.2, appendix A) is built: a two-layer MLP from the encoder's width to 32 channels, no KL
term (the latent is a function of the image), the decoder of VA-VAE. What it leaves open is decided here: the MLP's
hidden layer is as wide as the encoder, with a GELU; VA-VAE's 1 x 1 `post_quant_conv` is left out, since the adapter's
last linear does the same. The affine of the encoder's final norm, which timm's DINOv2 has and RAE's way of reading it
has not, is a special case of the adapter's first linear.

B: batch, N = h*w: tokens (row-major), E: encoder width, C: latent channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.codecs.convolutional import ConvDecoder, init_like_pytorch
from raexla.models.codecs.convolutional import sharding_table as decoder_table
from raexla.models.codecs.statistics import LatentStatistics, NormalisedCodec
from raexla.models.encoders import Encoder
from raexla.models.encoders import sharding_table as encoder_table
from raexla.nn.sharding import ShardingTable
from raexla.recipe import UserError


class Adapter(nn.Module):
    """Two-layer MLP, tokens [B, N, E] -> latent [B, N, C]."""

    def __init__(self, width: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, E] -> [B, N, C]."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class AlignTokCodec(NormalisedCodec):
    """Encoder, adapter, decoder, optional statistics of the latent.

    Args:
        encoder: made for images of the size that the decoder draws; frozen unless `tune_encoder` says otherwise.
        adapter, decoder: trained together.
        statistics: None for a latent that is left as the adapter makes it.

    Raises:
        UserError: decoder and encoder don't fit, both numbers named.
    """

    def __init__(
        self, encoder: Encoder, adapter: Adapter, decoder: ConvDecoder, statistics: LatentStatistics | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.adapter = adapter
        self.decoder = decoder
        self.grid = encoder.grid
        self.channels = adapter.fc2.out_features
        self.image_size = encoder.image_size
        self.output_size = self.grid[0] * decoder.recipe.factor
        if (adapter.fc1.in_features, decoder.channels) != (encoder.channels, self.channels):
            raise UserError(
                f"the adapter leads from {adapter.fc1.in_features} to {self.channels} channels, but the encoder gives "
                f"{encoder.channels} and the decoder takes {decoder.channels}"
            )
        self.set_statistics(statistics)

    def encode(self, image: Tensor) -> Tensor:
        """Latent [B, N, C] of `image` [B, 3, H, W] in [0, 1]; no gradient."""
        with torch.no_grad():
            return self.normalise(self.code(image))

    def code(self, image: Tensor) -> Tensor:
        """The adapter's output [B, N, C] before statistics, z0 = A(E(x)) (003, eq. 3), with gradients to the adapter,
        to the image, and to the encoder where it is tuned."""
        return self.adapter(self.encoder(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Image [B, 3, H, W] of `latent` [B, N, C]; not clamped, with gradients."""
        z = self.denormalise(latent).transpose(1, 2).reshape(-1, self.channels, *self.grid)
        return (self.decoder(z) + 1.0) / 2.0

    def tune_encoder(self, tuned: bool) -> None:
        """Let the encoder learn (003, stage 2) or freeze it again (stages 1 and 3). It stays in eval mode: without
        dropout and stochastic depth."""
        self.encoder.requires_grad_(tuned)


def init_weights(codec: AlignTokCodec, generator: torch.Generator | None = None) -> None:
    """A fresh adapter and decoder, PyTorch's own start; the encoder is left alone. CPU tensors only."""
    init_like_pytorch(codec.adapter, generator)
    init_like_pytorch(codec.decoder, generator)


def sharding_table(codec: AlignTokCodec) -> ShardingTable:
    """The table of all three parts."""
    encoder = codec.encoder
    parts = {
        "encoder": encoder_table(encoder.recipe, registers=encoder.has_registers, swiglu=encoder.has_swiglu),
        "decoder": decoder_table(codec.decoder.recipe),
    }
    return [
        *((f"{part}.{path}", axes) for part, rows in parts.items() for path, axes in rows),
        ("adapter.fc1.weight", ("tensor", "fsdp")),
        ("adapter.fc1.bias", ("tensor",)),
        ("adapter.fc2.weight", ("fsdp", "tensor")),
        ("adapter.fc2.bias", (None,)),
    ]
