"""From a recipe to an encoder, in two steps: `build_encoder` (structure, possible on `meta`) and `load_encoder`."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTMAEConfig,
    ViTMAEModel,
)

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

_Family = tuple[type[PretrainedConfig], type[PreTrainedModel], type[Encoder]]

_SIGLIP: _Family = (SiglipVisionConfig, SiglipVisionModel, Siglip2Encoder)
_FAMILIES: dict[str, dict[str, _Family]] = {
    "siglip2": {"siglip_vision_model": _SIGLIP, "siglip": _SIGLIP},
    "dinov2": {
        "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel, Dinov2RegistersEncoder),
        "dinov2": (Dinov2Config, Dinov2Model, Dinov2Encoder),
    },
    "webssl": {"dinov2": (Dinov2Config, Dinov2Model, WebSSLEncoder)},
    "mae": {"vit_mae": (ViTMAEConfig, ViTMAEModel, MAEEncoder)},
}  # encoder type -> model_type in config.json -> (config, transformers class, encoder)


def read_encoder_config(recipe: EncoderRecipe) -> PretrainedConfig:
    """The encoder's configuration, read from its folder or hub name; a folder of another class is refused by name."""
    family = _FAMILIES[recipe.type]
    accepted = {kind: classes[1].__name__ for kind, classes in family.items()}
    raw = read_config(recipe.path, accepted, f"encoder type {recipe.type!r}")
    config_class = family[raw["model_type"]][0]
    fields = raw.get("vision_config") or {} if raw["model_type"] == "siglip" else raw
    config: Any = config_class.from_dict({key: value for key, value in fields.items() if key != "model_type"})
    if config_class is SiglipVisionConfig:
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
    for config_class, model_class, encoder_class in _FAMILIES[recipe.type].values():
        if type(config) is config_class:
            return model_class, encoder_class
    raise TypeError(f"{type(config).__name__} is no configuration of encoder type {recipe.type!r}")
