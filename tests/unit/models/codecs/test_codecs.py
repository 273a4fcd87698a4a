"""The codecs' contract: shapes, round trips, refusals; a real AutoencoderKL saved by diffusers."""

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import SiglipVisionConfig, SiglipVisionModel

from raexla.models.codecs import (
    Codec,
    LatentStatistics,
    NoiseRecipe,
    PixelsCodecRecipe,
    RAECodec,
    RAECodecRecipe,
    VAECodecRecipe,
    build_codec,
)
from raexla.models.decoder import DecoderRecipe
from raexla.models.encoders import Siglip2Recipe
from raexla.recipe import UserError

DECODER = {"width": 32, "depth": 1, "heads": 4, "mlp": 48}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=28, patch_size=7)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def flux_vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.1159,
        scaling_factor=0.3611,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    return str(folder)


def test_pixels_round_trip():
    codec = build_codec(PixelsCodecRecipe(type="pixels", image_size=32, patch_size=8))
    assert isinstance(codec, Codec)
    image = torch.rand(2, 3, 32, 32)
    latent = codec.encode(image)
    assert latent.shape == (2, codec.grid[0] * codec.grid[1], codec.channels)
    assert latent.min() < 0
    torch.testing.assert_close(codec.decode(latent), image)
    with pytest.raises(UserError, match="image_size 30 is no multiple of patch_size 8"):
        build_codec(PixelsCodecRecipe(type="pixels", image_size=30, patch_size=8))


def test_rae_encodes_and_decodes(siglip):
    recipe = RAECodecRecipe(
        type="rae", encoder=Siglip2Recipe(type="siglip2", path=siglip), decoder=DecoderRecipe(**DECODER, patch_size=8)
    )
    statistics = LatentStatistics(torch.randn(16, 32), torch.rand(16, 32) + 0.5)
    codec = build_codec(recipe, statistics=statistics)
    assert isinstance(codec, Codec)
    assert (codec.grid, codec.channels, codec.image_size) == ((4, 4), 32, 32)  # encoder input 28, images 32
    image = torch.rand(2, 3, 32, 32)
    latent = codec.encode(image)
    assert not latent.requires_grad
    torch.testing.assert_close(codec.denormalise(latent), codec.encoder(image), rtol=1e-4, atol=1e-5)
    decoded = codec.decode(latent)
    assert decoded.shape == image.shape
    assert decoded.requires_grad
    assert {name.split(".")[0] for name, p in codec.named_parameters() if p.requires_grad} == {"decoder"}


def test_half_normal_noise_has_the_scale_of_tau(siglip):
    recipe = RAECodecRecipe(type="rae", encoder=Siglip2Recipe(type="siglip2", path=siglip))
    codec = build_codec(recipe, noise=NoiseRecipe(tau=0.8))
    image, draw = torch.rand(2, 3, 28, 28), torch.tensor([-1.5, 0.5])
    noise = torch.randn(2, 16, 32)
    added = codec.encode_noised(image, draw, noise) - codec.encode(image)
    torch.testing.assert_close(added, torch.tensor([1.2, 0.4])[:, None, None] * noise, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="has no decoder"):
        codec.decode(noise)


def test_parts_that_do_not_fit_are_refused_with_both_numbers(siglip):
    encoder = Siglip2Recipe(type="siglip2", path=siglip)
    with pytest.raises(UserError, match="image_size is 64, but the decoder draws 32"):
        build_codec(
            RAECodecRecipe(type="rae", encoder=encoder, image_size=64, decoder=DecoderRecipe(**DECODER, patch_size=8))
        )
    with pytest.raises(UserError, match=r"statistics are for \[9, 32\]"):
        build_codec(
            RAECodecRecipe(type="rae", encoder=encoder),
            statistics=LatentStatistics(torch.zeros(9, 32), torch.ones(9, 32)),
        )
    other = build_codec(
        RAECodecRecipe(type="rae", encoder=encoder, decoder=DecoderRecipe(**DECODER, patch_size=8)), load=False
    )
    small = build_codec(
        RAECodecRecipe(type="rae", encoder=Siglip2Recipe(type="siglip2", path=siglip, input_size=14)), load=False
    )
    with pytest.raises(UserError, match="decoder was made for a latent of"):
        RAECodec(small.encoder, other.decoder)


def test_vae_of_a_flux_folder(flux_vae):
    recipe = VAECodecRecipe(type="vae", path=flux_vae, subfolder="vae", image_size=32)
    codec = build_codec(recipe)
    assert isinstance(codec, Codec)
    assert (codec.grid, codec.channels) == ((8, 8), 16)
    image = torch.rand(1, 3, 32, 32)
    latent = codec.encode(image)
    z = (codec.vae.encode(image * 2 - 1).latent_dist.mean - 0.1159) * 0.3611
    torch.testing.assert_close(latent[0, 9], z[0, :, 2:4, 2:4].flatten())  # token (1, 1): (C, p, p)
    decoded = codec.vae.decode(z / 0.3611 + 0.1159).sample / 2 + 0.5
    torch.testing.assert_close(codec.decode(latent), decoded, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(codec.encode(image, noise=torch.randn(1, 4, 16, 16)), latent)
    with pytest.raises(UserError, match="no AutoencoderKL can be read"):
        build_codec(VAECodecRecipe(type="vae", path=flux_vae + "/nowhere"))
    with pytest.raises(UserError, match="image_size 30 is no multiple of 4"):
        build_codec(VAECodecRecipe(type="vae", path=flux_vae, subfolder="vae", image_size=30))
