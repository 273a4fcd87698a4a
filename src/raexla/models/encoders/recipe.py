"""What a recipe can say about the frozen encoder."""

from typing import Annotated, Literal

from pydantic import Field

from raexla.recipe import Recipe

Interpolation = Literal["bilinear", "bicubic", "bicubic_antialias"]


class _EncoderRecipe(Recipe):
    path: str
    """Hugging Face folder or hub name with `config.json` and weights."""
    input_size: int | None = Field(default=None, gt=0)
    """Side in pixels of the square that the network sees; the one it was trained at if not given."""
    channels: int | None = Field(default=None, gt=0)
    """The width that the folder must have; another one is refused. Not checked if not given."""
    sum_last: int = Field(default=1, ge=1)
    """Sum the outputs of this many last blocks before the final norm (RAEv2); 1 is the plain encoder."""


class Siglip2Recipe(_EncoderRecipe):
    """SigLIP or SigLIP-2 at a fixed resolution (`SiglipVisionModel`); last block, then LayerNorm without affine."""

    type: Literal["siglip2"]
    resize: Interpolation = "bicubic_antialias"
    """How images are brought to `input_size`: antialiased, as the Hugging Face processor does."""


class Dinov2Recipe(_EncoderRecipe):
    """DINOv2 with or without registers; final LayerNorm without its affine, as in RAE."""

    type: Literal["dinov2"]
    resize: Interpolation = "bicubic"
    """How images are brought to `input_size`: bicubic without antialias, as in RAE."""


class WebSSLRecipe(_EncoderRecipe):
    """WebSSL-DINO (`Dinov2Model`); final LayerNorm with its affine, as released in Scale-RAE."""

    type: Literal["webssl"]
    resize: Interpolation = "bicubic_antialias"
    """How images are brought to `input_size`: antialiased, as the Hugging Face processor does."""


class MAERecipe(_EncoderRecipe):
    """MAE (`ViTMAEModel`) without masking; final LayerNorm without its affine, as in RAE."""

    type: Literal["mae"]
    resize: Interpolation = "bicubic"
    """How images are brought to `input_size`: bicubic without antialias, as in RAE."""


EncoderRecipe = Annotated[Siglip2Recipe | Dinov2Recipe | WebSSLRecipe | MAERecipe, Field(discriminator="type")]
