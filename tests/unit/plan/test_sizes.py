"""What is counted without building anything, against what is built."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from raexla.losses import build_lpips
from raexla.models.codecs import RAECodecRecipe, VAECodecRecipe, build_codec
from raexla.models.critic import Critic, CriticRecipe, build_dino
from raexla.models.decoder import DecoderRecipe, ViTDecoder
from raexla.models.dit import DiTRecipe, LightningDiT
from raexla.models.encoders import Siglip2Recipe, build_encoder
from raexla.models.encoders.recipe import Dinov2Recipe, MAERecipe, WebSSLRecipe
from raexla.models.flops import encoding_work
from raexla.models.mllm import MLLMRecipe, build_mllm
from raexla.models.published import PUBLISHED, PUBLISHED_VAES
from raexla.plan.latent import read_latent, read_tokens
from raexla.plan.sizes import (
    VGG16_PARAMETERS,
    decoder_parameters,
    dino_parameters,
    dit_parameters,
    head_parameters,
    language_parameters,
    read_sizes,
    read_vae_sizes,
    vae_parameters,
    vision_parameters,
)
from raexla.recipe import UserError

ENCODERS: dict[str, Any] = {
    "siglip": Siglip2Recipe,
    "dinov2_with_registers": Dinov2Recipe,
    "dinov2": WebSSLRecipe,
    "vit_mae": MAERecipe,
}
TYPES = {"siglip": "siglip2", "dinov2_with_registers": "dinov2", "dinov2": "webssl", "vit_mae": "mae"}
LANGUAGE = [name for name, config in PUBLISHED.items() if config["model_type"] == "qwen2"]
VISION = [name for name in PUBLISHED if name not in LANGUAGE]
DITS: dict[str, dict[str, Any]] = {
    "plain": {"width": 32, "depth": 2, "heads": 2},
    "0.5B": {"size": "0.5B"},
    "patches": {"width": 64, "depth": 1, "heads": 2, "patch_size": 2, "condition_channels": 24, "qk_norm": True},
    "classes": {"width": 32, "depth": 1, "heads": 2, "conditioning": {"type": "class", "num_classes": 10}},
    "no null": {"width": 32, "depth": 1, "heads": 2, "condition_dropout": 0.0},
    "wide head": {"width": 32, "depth": 1, "heads": 2, "head": {"width": 48, "depth": 2, "heads": 4}},
    "classic head": {
        "width": 32, "depth": 1, "heads": 2, "head": {"wiring": "classic", "width": 32, "depth": 2, "heads": 2},
    },
}  # fmt: skip


def parameters(module: nn.Module) -> int:
    """How many numbers a network has."""
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models(name):
    with torch.device("meta"):
        built = build_mllm(MLLMRecipe(path=name), 0, 8, 8)
    wanted = sum(p.numel() for key, p in built.named_parameters() if key.startswith(("llm.", "lm_head.")))
    assert sum(language_parameters(read_sizes(name)).values()) == wanted


@pytest.mark.parametrize("name", VISION)
def test_encoders_at_their_own_size_and_another(name):
    kind = PUBLISHED[name]["model_type"]
    native = read_sizes(name)
    for pixels, image in ((None, native.image_size), (8 * native.patch_size, 96)):
        recipe = ENCODERS[kind](type=TYPES[kind], path=name, input_size=pixels)
        with torch.device("meta"):
            built = build_encoder(recipe, image)
        assert vision_parameters(native) == parameters(built)
        found = read_tokens(recipe, image)
        assert (found.grid, found.channels) == (built.grid, built.channels)
        with torch.device("meta"):
            codec = build_codec(RAECodecRecipe(type="rae", encoder=recipe, image_size=image), load=False)
        assert found.work == encoding_work(codec)


@pytest.mark.parametrize(("path", "size", "pack"), [("black-forest-labs/FLUX.1-schnell", 256, 2), ("small", 64, 1)])
def test_vaes(path, size, pack, tmp_path):
    """A published one without a network, and one of other sizes from its folder."""
    if path == "small":
        path = str(tmp_path)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, sample_size=64,
        ).save_pretrained(tmp_path / "vae")  # fmt: skip
    recipe = VAECodecRecipe(type="vae", path=path, subfolder="vae", image_size=size, pack=pack)
    with torch.device("meta"):
        built = build_codec(recipe, load=False)
    found = read_latent(recipe, size)
    assert (found.grid, found.channels) == (built.grid, built.channels)
    assert found.parameters == parameters(built)
    assert found.work == encoding_work(built)


def test_the_flux_vae_is_the_published_one():
    """Facts A5: 16 x 32 x 32 at 256 pixels, packed into 256 tokens of 64 channels; 83.8M parameters on the hub."""
    recipe = VAECodecRecipe(type="vae", path="black-forest-labs/FLUX.1-dev", subfolder="vae")
    with torch.device("meta"):
        built: Any = build_codec(recipe, load=False)
    assert (built.grid, built.channels) == ((16, 16), 64)
    assert (built.shift, built.scale) == (0.1159, 0.3611)
    assert parameters(built) == vae_parameters(read_vae_sizes(recipe.place)) == 83_819_683
    assert PUBLISHED_VAES[recipe.place] == PUBLISHED_VAES["black-forest-labs/FLUX.1-schnell/vae"]


@pytest.mark.parametrize("name", list(DITS))
def test_dits(name):
    recipe = DiTRecipe(**DITS[name])
    with torch.device("meta"):
        built = LightningDiT(recipe, (4, 4), 16)
    assert dit_parameters(recipe, 16) == parameters(built)


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": "XL", "patch_size": 14},
        {"width": 32, "depth": 2, "heads": 2, "mlp": 48, "qkv_bias": False, "grid": (6, 6)},
    ],
)
def test_decoders(sizes):
    recipe = DecoderRecipe(**sizes)
    with torch.device("meta"):
        built = ViTDecoder(recipe, (4, 4), 24)
    assert decoder_parameters(recipe, 24) == parameters(built)


@pytest.mark.parametrize(("size", "norm"), [("S_16", "per_sample"), ("S_8", "batch"), ("B_16", "per_sample")])
def test_critics(size, norm):
    recipe = CriticRecipe(features={"type": "dino", "size": size, "path": "nowhere"}, norm=norm, kernel=5)  # type: ignore[arg-type]
    with torch.device("meta"):
        built = Critic(build_dino(recipe.features, 224), recipe)  # type: ignore[arg-type]
    assert dino_parameters(size) == parameters(built.features)  # type: ignore[arg-type]
    assert head_parameters(recipe, 24) == parameters(built.heads)


def test_lpips_is_built_without_a_file():
    built = build_lpips()
    assert parameters(built) == VGG16_PARAMETERS
    assert {buffer.device.type for buffer in built.buffers()} == {"meta"}


def test_a_network_of_unknown_sizes_is_refused_by_name():
    with pytest.raises(UserError, match=r"org/model: no config\.json there.*Qwen2\.5-7B"):
        read_sizes("org/model")
    with pytest.raises(UserError, match=r"org/model/vae: .*FLUX\.1-dev/vae"):
        read_vae_sizes("org/model/vae")
