"""The codecs' contract: shapes, round trips, refusals; a real AutoencoderKL saved by diffusers."""

import pytest
import torch
from diffusers import AutoencoderKL

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
from tests.unit.models.codecs.makers import DECODER, save_siglip, save_vae


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return save_siglip(tmp_path_factory.mktemp("siglip"))


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


@pytest.mark.parametrize("flux", [True, False])
def test_vae_equals_diffusers(tmp_path, flux):
    """FLUX has a shift and no quant convolutions, Stable Diffusion has these and no shift."""
    recipe = VAECodecRecipe(type="vae", path=save_vae(tmp_path, flux=flux), subfolder="vae", image_size=32)
    codec = build_codec(recipe)
    theirs = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert (codec.grid, codec.channels) == ((8, 8), 16)
    image, noise = torch.rand(2, 3, 32, 32), torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        posterior = theirs.encode(image * 2 - 1).latent_dist
        scale, shift = (0.3611, 0.1159) if flux else (0.18215, 0.0)
        for given, z in ((None, posterior.mean), (noise, posterior.mean + posterior.std * noise)):
            latent = codec.encode(image, noise=given)
            z = (z - shift) * scale
            for row, column in ((0, 0), (1, 1), (7, 2)):  # a token holds (C, p, p) of its place
                place = z[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
                torch.testing.assert_close(latent[:, 8 * row + column], place, rtol=1e-5, atol=1e-6)
            drawn = theirs.decode(z / scale + shift).sample / 2 + 0.5
            torch.testing.assert_close(codec.decode(latent), drawn, rtol=1e-4, atol=1e-5)
    assert (posterior.std > 0).all()
    assert not torch.allclose(codec.encode(image, noise=noise), codec.encode(image), atol=1e-3)


def test_vae_refusals(tmp_path):
    flux = save_vae(tmp_path, flux=True)
    with pytest.raises(UserError, match="no AutoencoderKL can be read"):
        build_codec(VAECodecRecipe(type="vae", path=flux + "/nowhere"))
    with pytest.raises(UserError, match="image_size 30 is no multiple of 4"):
        build_codec(VAECodecRecipe(type="vae", path=flux, subfolder="vae", image_size=30))
