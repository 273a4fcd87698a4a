"""The ViT decoder: sizes, upsampling by patch and by grid, gradients, sharding."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from raexla.models.decoder import DecoderRecipe, ViTDecoder, init_weights, sharding_table
from raexla.nn.positions import sincos_2d
from raexla.nn.tables import reset_tables
from raexla.runtime.sharding import resolve

TINY = {"width": 32, "depth": 2, "heads": 4, "mlp": 48}


def tiny(**fields) -> ViTDecoder:
    decoder = ViTDecoder(DecoderRecipe(**TINY | {"patch_size": 4} | fields), (4, 4), 24, (0.5,) * 3, (0.5,) * 3)
    init_weights(decoder, torch.Generator().manual_seed(0))
    return decoder


def test_xl_has_the_released_parameter_count():
    with torch.device("meta"):
        decoder = ViTDecoder(DecoderRecipe(size="XL", patch_size=14), (16, 16), 1152)
    official = sum(parameter.numel() for parameter in decoder.parameters()) + 257 * 1152  # its positions are stored
    assert official == 415_587_532  # 415.6M


@pytest.mark.parametrize(("fields", "side"), [({}, 16), ({"patch_size": 8}, 32), ({"grid": (7, 7)}, 28)])
def test_draws_the_size_that_the_recipe_says(fields, side):
    decoder = tiny(**fields)
    assert decoder.image_size == (side, side)
    assert decoder(torch.randn(2, 16, 24)).shape == (2, 3, side, side)


def test_another_grid_resizes_the_embedded_tokens_bilinearly():
    decoder, z = tiny(grid=(7, 7)), torch.randn(2, 16, 24)
    embedded = decoder.embed(z).transpose(1, 2).unflatten(2, (4, 4))
    expected = F.interpolate(embedded, (7, 7), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(decoder.embed_latent(z)[:, 1:], expected + decoder.positions, rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    decoder = tiny()
    decoder(torch.randn(2, 16, 24)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())


def test_positions_come_back_after_meta():
    with torch.device("meta"):
        decoder = ViTDecoder(DecoderRecipe(**TINY), (4, 4), 24)
    decoder.to_empty(device="cpu")
    reset_tables(decoder)
    torch.testing.assert_close(decoder.positions, tiny().positions)


def test_sharding_table_matches_both_ways():
    shapes = {name: tuple(parameter.shape) for name, parameter in tiny().named_parameters()}
    assert set(resolve(sharding_table(tiny().recipe), shapes)) == set(shapes)


def test_without_biases_of_queries_keys_and_values():
    decoder = tiny(qkv_bias=False)
    shapes = {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}
    assert not any(name.endswith(("query.bias", "key.bias", "value.bias")) for name in shapes)
    assert set(resolve(sharding_table(decoder.recipe), shapes)) == set(shapes)
    assert len(sharding_table(tiny().recipe)) == len(sharding_table(decoder.recipe)) + 3
    assert decoder(torch.randn(1, 16, 24)).shape == (1, 3, 16, 16)


def test_positions_of_another_grid_are_interpolated():
    decoder = tiny(grid=(7, 7), position_grid=(4, 4))
    table = sincos_2d((4, 4), 32).T.unflatten(1, (4, 4))[None]
    expected = F.interpolate(table, (7, 7), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(decoder.positions, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tiny(position_grid=(4, 4)).positions, tiny().positions)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "XL", "width": 32}, "already says width"),
        ({"width": 32}, "missing: depth, heads, mlp"),
        (TINY | {"heads": 5}, "not divisible by heads 5"),
    ],
)
def test_recipe_refuses_half_given_sizes(fields, message):
    with pytest.raises(ValidationError, match=message):
        DecoderRecipe(**fields)
