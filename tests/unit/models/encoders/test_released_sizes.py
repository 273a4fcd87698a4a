"""The encoders that the papers use, at their published sizes, on `meta`: what comes out, and how big they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from raexla.models.codecs import CodecRecipe, build_codec
from raexla.models.encoders import EncoderRecipe, build_encoder

DINO: dict[str, Any] = {
    "model_type": "dinov2_with_registers", "image_size": 518, "patch_size": 14, "num_register_tokens": 4,
}  # fmt: skip
SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "patch_size": 14, "image_size": 224, "model_type": "siglip_vision_model",
}  # fmt: skip
WEBSSL = {
    "model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14,
}  # fmt: skip

# name -> type, config.json, input size that is asked for, channels, input size, millions of parameters
RELEASED: dict[str, tuple[str, dict[str, Any], int | None, int, int, float]] = {
    "siglip2-so400m-patch14-224": (
        "siglip2", {"model_type": "siglip", "vision_config": SO400M}, None, 1152, 224, 412.4
    ),
    "siglip2-base-patch16-256": (
        "siglip2",
        {"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model", "image_size": 256}},
        None, 768, 256, 85.8,
    ),
    "dinov2-with-registers-small": (
        "dinov2", DINO | {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}, 224, 384, 224, 22.1
    ),
    "dinov2-with-registers-base": (
        "dinov2", DINO | {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}, 224, 768, 224, 86.6
    ),
    "dinov2-with-registers-large": (
        "dinov2", DINO | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        224, 1024, 224, 304.4,
    ),
    "webssl-dino300m-full2b-224": ("webssl", WEBSSL, None, 1024, 224, 303.2),
    "vit-mae-base": ("mae", {"model_type": "vit_mae", "image_size": 224, "patch_size": 16}, 256, 768, 256, 85.8),
}  # fmt: skip


def folder(root: Path, name: str) -> str:
    """A Hugging Face folder that holds the configuration only."""
    (root / "config.json").write_text(json.dumps(RELEASED[name][1]))
    return str(root)


@pytest.mark.parametrize("name", RELEASED)
def test_tokens_and_parameters(name: str, tmp_path: Path) -> None:
    kind, _, asked, channels, size, millions = RELEASED[name]
    fields = {"type": kind, "path": folder(tmp_path, name), "input_size": asked, "channels": channels}
    recipe: Any = TypeAdapter(EncoderRecipe).validate_python(fields)
    with torch.device("meta"):
        encoder = build_encoder(recipe, 256)
    assert (encoder.grid, encoder.channels, encoder.input_size, encoder.image_size) == ((16, 16), channels, size, 256)
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "decoder", "image"),
    [
        ("dinov2-with-registers-base", {"patch_size": 16}, 256),  # 224 in, 256 out
        ("siglip2-so400m-patch14-224", {"patch_size": 14}, 224),
        ("siglip2-so400m-patch14-224", {"patch_size": 28}, 448),  # twice, by the patch
        ("siglip2-base-patch16-256", {"patch_size": 32}, 512),
        ("siglip2-so400m-patch14-224", {"patch_size": 14, "grid": [27, 27]}, 378),  # by resizing the embedded tokens
        ("vit-mae-base", {"patch_size": 16}, 256),
    ],
)
def test_the_size_that_is_drawn_is_apart_from_the_encoders(name: str, decoder: Any, image: int, tmp_path: Path) -> None:
    kind, _, asked, _, size, _ = RELEASED[name]
    encoder = {"type": kind, "path": folder(tmp_path, name), "input_size": asked}
    fields = {"type": "rae", "encoder": encoder, "decoder": {"size": "B", **decoder}}
    recipe: Any = TypeAdapter(CodecRecipe).validate_python(fields)
    with torch.device("meta"):
        codec: Any = build_codec(recipe, load=False)
        codec.encoder.resize.reset_tables()
        drawn = codec.decode(codec.encode(torch.rand(2, 3, image, image)))
    assert codec.encoder.input_size == size
    assert codec.image_size == image
    assert drawn.shape == (2, 3, image, image)
