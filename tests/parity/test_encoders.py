"""Frozen encoders against the official towers."""

import pytest
import torch
from torch.nn import functional as F
from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig, ViTMAEConfig

from raexla.models.encoders import Dinov2Recipe, MAERecipe, Siglip2Recipe, build_encoder


def test_siglip2(official):
    case = official("siglip_features")
    config = SiglipVisionConfig(**case.config, vision_use_head=False)
    encoder = build_encoder(Siglip2Recipe(type="siglip2", path="x"), config=config, state=case.weights)
    pixels = case.inputs["pixel_values"]
    case.check("features", encoder.tokens(pixels))
    case.check("features_rae_siglip2", encoder.tokens(pixels))
    image = pixels * 0.5 + 0.5  # the encoder's own normalisation takes it back
    for layer, output in ((0, "hidden_embeddings"), (1, "hidden_after_layer_0"), (-1, "hidden_last_raw")):
        case.check(output, encoder.features(image, [layer])[0])


@pytest.mark.parametrize("size", [56, 98])
def test_dinov2_with_registers(official, size):
    case = official("dinov2_features")
    recipe = Dinov2Recipe(type="dinov2", path="x", input_size=size)
    encoder = build_encoder(recipe, 64, Dinov2WithRegistersConfig(**case.config), case.weights)
    case.check(f"features_{size}", encoder.tokens(case.inputs[f"pixel_values_{size}"]))
    if size == 56:
        latent = encoder(case.inputs["image01"])
        case.check("rae_encode", latent.transpose(1, 2).unflatten(2, encoder.grid))
        embedded, extra = encoder.embed(case.inputs["pixel_values_56"])
        assert extra == 5
        case.check("embeddings_56", embedded)


def test_mae_sees_every_patch(official):
    case = official("mae_features")
    encoder = build_encoder(MAERecipe(type="mae", path="x"), config=ViTMAEConfig(**case.config), state=case.weights)
    case.check("features", encoder.tokens(case.inputs["pixel_values"]))


def test_the_fixture_tells_conventions_apart(official):
    case = official("siglip_features")
    config = SiglipVisionConfig(**{**case.config, "hidden_act": "gelu"}, vision_use_head=False)
    encoder = build_encoder(Siglip2Recipe(type="siglip2", path="x"), config=config, state=case.weights)
    with pytest.raises(AssertionError, match="differs by"):
        case.check("features", encoder.tokens(case.inputs["pixel_values"]))
    raw = case.outputs["hidden_last_raw"]
    case.check("features", F.layer_norm(raw, raw.shape[-1:], eps=1e-6))
    assert not torch.allclose(raw, case.outputs["features"])
