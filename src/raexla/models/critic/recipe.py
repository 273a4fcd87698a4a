"""What a recipe can say about the critic."""

from typing import Annotated, Literal

from pydantic import Field

from raexla.models.critic.augment import AugmentRecipe
from raexla.recipe import Recipe


class DinoFeaturesRecipe(Recipe):
    """A frozen DINO ViT; the file is DINO's own `dino_deitsmall16_pretrain.pth` and the like, or timm's weights."""

    type: Literal["dino"]
    size: Literal["S_16", "S_8", "B_16"] = "S_16"
    """ViT-S or ViT-B and its patch size (000 takes S/16, 001 S/8)."""
    path: str
    """A .pth or .safetensors file, a folder with `model.safetensors`, or a hub name such as
    `timm/vit_small_patch16_224.dino`."""


class EncoderFeaturesRecipe(Recipe):
    """Blocks of the codec's own frozen encoder."""

    type: Literal["encoder"]
    layers: tuple[int, ...] = Field(min_length=1)
    """Block numbers, counted from 1; the last one given also gets the first head, as with DINO."""


class CriticRecipe(Recipe):
    """Features and heads of the critic."""

    features: Annotated[DinoFeaturesRecipe | EncoderFeaturesRecipe, Field(discriminator="type")]
    kernel: int = Field(default=9, gt=0)
    """Width of the heads' circular convolution over tokens; odd."""
    norm: Literal["per_sample", "batch"] = "per_sample"
    """Normalisation in the heads: over each sample's tokens (released), or batch norm (001, app. E)."""
    augment: AugmentRecipe = AugmentRecipe()
