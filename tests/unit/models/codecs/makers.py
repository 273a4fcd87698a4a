"""Small codecs of every kind, on folders saved by transformers and diffusers themselves."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

from raexla.models.codecs import (
    AlignTokCodecRecipe,
    ConvDecoderRecipe,
    LatentStatistics,
    PixelsCodecRecipe,
    RAECodecRecipe,
    VAECodecRecipe,
    build_codec,
)
from raexla.models.codecs.aligntok import init_weights as init_aligntok
from raexla.models.decoder import DecoderRecipe
from raexla.models.decoder import init_weights as init_decoder
from raexla.models.encoders import Dinov2Recipe, Siglip2Recipe

DECODER = {"width": 32, "depth": 1, "heads": 4, "mlp": 48}
CONVOLUTIONAL = ConvDecoderRecipe(width=8, multipliers=(1, 2, 2), blocks=1, attention_levels=(2,), groups=4)
KINDS = ("rae", "rae_doubled", "rae_resized", "vae_flux", "vae_sd", "aligntok", "pixels")
ON_XLA = ("rae_resized", "vae_flux", "aligntok", "pixels")


def save_siglip(folder: Path) -> str:
    """28 pixels, patch 7, 16 tokens of 32 channels."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=28, patch_size=7)).save_pretrained(folder)
    return str(folder)


def save_dino(folder: Path) -> str:
    """28 pixels, patch 7, 16 tokens of 24 channels."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**sizes, image_size=28, patch_size=7)).save_pretrained(folder)
    return str(folder)


def save_vae(folder: Path, *, flux: bool) -> str:
    """A VAE of factor 2 in `folder`/vae: FLUX's kind (shift, no quant convolutions) or Stable Diffusion's."""
    torch.manual_seed(0)
    kind: dict[str, Any] = {"scaling_factor": 0.18215}
    if flux:
        kind = {"shift_factor": 0.1159, "scaling_factor": 0.3611, "use_quant_conv": False, "use_post_quant_conv": False}
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        **kind,
    ).save_pretrained(folder / "vae")
    return str(folder)


def codec_recipe(kind: str, folder: Path) -> Any:
    """The recipe of one of `KINDS`; what it needs is saved under `folder`."""
    if kind == "pixels":
        return PixelsCodecRecipe(type="pixels", image_size=32, patch_size=8)
    if kind.startswith("vae"):
        return VAECodecRecipe(
            type="vae", path=save_vae(folder, flux=kind == "vae_flux"), subfolder="vae", image_size=32
        )
    if kind == "aligntok":
        encoder = Dinov2Recipe(type="dinov2", path=save_dino(folder))
        return AlignTokCodecRecipe(type="aligntok", encoder=encoder, channels=8, decoder=CONVOLUTIONAL)
    # 28 pixels in: 28 out (patch 7), 56 by doubling the patch, 35 by 5 x 5 tokens; the paper's 224, 448 and 378
    decoder = {
        "rae": {"patch_size": 7},
        "rae_doubled": {"patch_size": 14},
        "rae_resized": {"patch_size": 7, "grid": (5, 5)},
    }
    return RAECodecRecipe(
        type="rae",
        encoder=Siglip2Recipe(type="siglip2", path=save_siglip(folder)),
        image_size=28,
        decoder=DecoderRecipe(**DECODER, **decoder[kind]),
    )


def build(kind: str, folder: Path) -> Any:
    """One of `KINDS`, with weights and, for rae and aligntok, statistics."""
    recipe = codec_recipe(kind, folder)
    generator = torch.Generator().manual_seed(1)
    statistics = None
    if recipe.type in ("rae", "aligntok"):
        channels = 32 if recipe.type == "rae" else 8
        mean = torch.randn(16, channels, generator=generator)
        statistics = LatentStatistics(mean, torch.rand(16, channels, generator=generator) + 0.5)
    codec = build_codec(recipe, statistics=statistics)
    if recipe.type == "rae":
        init_decoder(codec.decoder, generator)
    elif recipe.type == "aligntok":
        init_aligntok(codec, generator)
    return codec
