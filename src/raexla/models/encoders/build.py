"""From a recipe to an encoder, in two steps: `build_encoder` (structure, possible on `meta`) and `load_encoder`.

transformers' model classes take seconds to import, so that happens where an encoder is asked for, not above.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from raexla.models.encoders.base import Encoder
from raexla.models.encoders.families import (
    Dinov2Encoder,
    Dinov2RegistersEncoder,
    MAEEncoder,
    Siglip2Encoder,
    WebSSLEncoder,
)
from raexla.models.encoders.recipe import EncoderRecipe
from raexla.models.pretrained import load_pretrained, load_state, read_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class _Family(NamedTuple):
    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    encoder: type[Encoder]


@cache
def _families() -> dict[str, dict[str, _Family]]:
    """Encoder type -> `model_type` in config.json -> classes."""
    import transformers as hf

    siglip = _Family(hf.SiglipVisionConfig, hf.SiglipVisionModel, Siglip2Encoder)
    return {
        "siglip2": {"siglip_vision_model": siglip, "siglip": siglip},
        "dinov2": {
            "dinov2_with_registers": _Family(
                hf.Dinov2WithRegistersConfig, hf.Dinov2WithRegistersModel, Dinov2RegistersEncoder
            ),
            "dinov2": _Family(hf.Dinov2Config, hf.Dinov2Model, Dinov2Encoder),
        },
        "webssl": {"dinov2": _Family(hf.Dinov2Config, hf.Dinov2Model, WebSSLEncoder)},
        "mae": {"vit_mae": _Family(hf.ViTMAEConfig, hf.ViTMAEModel, MAEEncoder)},
    }


def read_encoder_config(recipe: EncoderRecipe) -> PretrainedConfig:
    """The encoder's configuration, read from its folder or hub name; a folder of another class is refused by name."""
    family = _families()[recipe.type]
    accepted = {kind: classes.model.__name__ for kind, classes in family.items()}
    raw = read_config(recipe.path, accepted, f"encoder type {recipe.type!r}")
    config_class = family[raw["model_type"]].config
    fields = raw.get("vision_config") or {} if raw["model_type"] == "siglip" else raw
    config: Any = config_class.from_dict({key: value for key, value in fields.items() if key != "model_type"})
    if family[raw["model_type"]].encoder is Siglip2Encoder:
        config.vision_use_head = False  # the pooling head is never used
    return config


def build_encoder(
    recipe: EncoderRecipe,
    image_size: int | None = None,
    config: PretrainedConfig | None = None,
    state: dict[str, Tensor] | None = None,
) -> Encoder:
    """The encoder's structure with weights that mean nothing yet; under `torch.device("meta")` it takes no memory.

    Args:
        recipe: the encoder's recipe.
        image_size: side of the images that it will be given; its own input size if not given.
        config: its configuration; read from `recipe.path` if not given.
        state: weights under Hugging Face's file names; if given, they are loaded and nothing is read from disk.
    """
    config = read_encoder_config(recipe) if config is None else config
    model_class, encoder_class = _classes(recipe, config)
    model = model_class(config) if state is None else load_state(model_class, state, config)
    return encoder_class(model, recipe, image_size)


def load_encoder(recipe: EncoderRecipe, image_size: int | None = None) -> Encoder:
    """The encoder with its pretrained weights, float32, on the CPU.

    Raises:
        UserError: no such folder, another class, another width than `recipe.channels`, missing weights.
    """
    config = read_encoder_config(recipe)
    model_class, encoder_class = _classes(recipe, config)
    with torch.device("meta"):
        encoder_class(model_class(config), recipe)  # refuses what doesn't fit before gigabytes are read
    return encoder_class(load_pretrained(model_class, recipe.path, config), recipe, image_size)


def _classes(recipe: EncoderRecipe, config: PretrainedConfig) -> tuple[type[PreTrainedModel], type[Encoder]]:
    for config_class, model_class, encoder_class in _families()[recipe.type].values():
        if type(config) is config_class:
            return model_class, encoder_class
    raise TypeError(f"{type(config).__name__} is no configuration of encoder type {recipe.type!r}")
