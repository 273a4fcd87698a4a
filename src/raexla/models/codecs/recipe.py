"""What a recipe can say about the codec."""

from typing import Annotated, Literal

from pydantic import Field

from raexla.models.codecs.convolutional import ConvDecoderRecipe
from raexla.models.decoder.recipe import DecoderRecipe
from raexla.models.encoders.recipe import EncoderRecipe
from raexla.recipe import ArtifactReference, Recipe


class NoiseRecipe(Recipe):
    """Noise on the latent while the decoder is trained: z + sigma n, n ~ N(0, I), one sigma a sample (001, sec. 3)."""

    tau: float = Field(default=0.0, ge=0)
    """Scale of sigma; 0 is no noise."""
    kind: Literal["half_normal", "uniform"] = "half_normal"
    """sigma = |N(0, tau^2)| (papers) or tau U(0, 1) (released code)."""


class RAECodecRecipe(Recipe):
    """A frozen encoder, and the decoder that was trained on it."""

    type: Literal["rae"]
    encoder: EncoderRecipe
    image_size: int | None = Field(default=None, gt=0)
    """Side of the images that go in; if not given that of the decoder's, or without a decoder the encoder's input size.
    Smaller than what the decoder draws, it makes an upsampling codec (224 in, 448 out)."""
    decoder: DecoderRecipe | None = None
    """Sizes of the decoder; None for a codec that only encodes."""
    weights: ArtifactReference | None = None
    """The trained decoder."""
    statistics: ArtifactReference | None = None
    """Mean and variance of the latent; without them the latent is not normalised."""


class VAECodecRecipe(Recipe):
    """A diffusers `AutoencoderKL` (FLUX, SD), shifted and scaled, its latent packed into tokens."""

    type: Literal["vae"]
    path: str
    """Folder or hub name."""
    subfolder: str | None = None
    """Where in it the VAE is ("vae" in a pipeline's folder)."""
    image_size: int = Field(default=256, gt=0)
    """Side of the images."""
    pack: int = Field(default=2, gt=0)
    """Latent pixels per token and side; a token holds them in (C, p, p) order (facts A5)."""

    @property
    def place(self) -> str:
        """Path and subfolder."""
        return self.path if self.subfolder is None else f"{self.path}/{self.subfolder}"


class AlignTokCodecRecipe(Recipe):
    """A tuned encoder, an adapter to a small latent, a convolutional decoder (003)."""

    type: Literal["aligntok"]
    encoder: EncoderRecipe
    """The pretrained encoder; where `weights` are given its tuned weights come from there."""
    channels: int = Field(default=32, gt=0)
    """Channels of the latent."""
    hidden: int | None = Field(default=None, gt=0)
    """Hidden width of the adapter; the encoder's width if not given."""
    decoder: ConvDecoderRecipe = ConvDecoderRecipe()
    weights: ArtifactReference | None = None
    """The trained tokenizer: encoder, adapter and decoder."""
    statistics: ArtifactReference | None = None
    """Mean and variance of the latent; without them the latent is not normalised."""


class PixelsCodecRecipe(Recipe):
    """No network: a token is a patch of pixels, scaled to [-1, 1]."""

    type: Literal["pixels"]
    image_size: int = Field(gt=0)
    """Side of the images."""
    patch_size: int = Field(default=16, gt=0)
    """Side of a patch."""


CodecRecipe = Annotated[
    RAECodecRecipe | VAECodecRecipe | AlignTokCodecRecipe | PixelsCodecRecipe, Field(discriminator="type")
]
