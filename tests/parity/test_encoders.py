"""Frozen encoders: the fixtures tell wrong conventions apart."""

import pytest
import torch
from torch.nn import functional as F
from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig

from raexla.models.encoders import Dinov2Recipe, Siglip2Recipe, build_encoder


def test_gelu_and_the_final_norm(official):
    case = official("siglip_features")
    config = SiglipVisionConfig(**{**case.config, "hidden_act": "gelu"}, vision_use_head=False)
    encoder = build_encoder(Siglip2Recipe(type="siglip2", path="x"), config=config, state=case.weights)
    with pytest.raises(AssertionError, match="differs by"):
        case.check("features", encoder.tokens(case.inputs["pixel_values"]))
    raw = case.outputs["hidden_last_raw"]
    case.check("features", F.layer_norm(raw, raw.shape[-1:], eps=1e-6))
    assert not torch.allclose(raw, case.outputs["features"])


def test_registers_and_the_antialias_of_positions(official):
    case = official("dinov2_features")
    recipe = Dinov2Recipe(type="dinov2", path="x", input_size=56)
    encoder = build_encoder(recipe, 64, Dinov2WithRegistersConfig(**case.config), case.weights)
    embedded, extra = encoder.embed(case.inputs["pixel_values_56"])
    assert extra == 5
    case.check("embeddings_56", embedded)
    table = case.weights["embeddings.position_embeddings"]
    plain = F.interpolate(table[:, 1:].transpose(1, 2).unflatten(2, (7, 7)), (4, 4), mode="bicubic", antialias=False)
    ours = encoder._positions(table[:, 1:])
    assert (ours - plain.flatten(2).transpose(1, 2)).abs().max() > 1e-2  # what DINOv2 without registers would get
