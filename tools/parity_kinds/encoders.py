"""The frozen encoders: config and weights as Hugging Face's classes have them."""

import re
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2WithRegistersConfig,
    PretrainedConfig,
    SiglipVisionConfig,
    ViTMAEConfig,
)

from parity_kinds.base import Runner, planes
from parity_kinds.case import Case
from raexla.models.encoders import (
    Dinov2Recipe,
    Encoder,
    EncoderRecipe,
    MAERecipe,
    Siglip2Recipe,
    WebSSLRecipe,
    build_encoder,
)
from raexla.recipe import UserError


class _Features(Runner):
    """Tokens, hidden states and embeddings of one encoder at whatever input sizes the fixture has."""

    config_class: type[PretrainedConfig]
    recipe_class: type[Any]
    type: str

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.encoders: dict[int, Encoder] = {}
        for name in self.inputs:
            if name.startswith("pixel_values"):
                *_, rows, columns = case.shape(f"input/{name}")
                if rows != columns:
                    raise UserError(f"input/{name} is {rows} x {columns} pixels; encoders here take squares")
                self.encoders[rows] = self.build(rows)
        self.modules = list(self.encoders.values())

    def hf_config(self) -> PretrainedConfig:
        """The Hugging Face configuration."""
        return self.config_class(**self.case.config.values())

    def build(self, size: int, image_size: int | None = None) -> Encoder:
        """Our encoder for inputs of `size` pixels, given images of `image_size`."""
        recipe: EncoderRecipe = self.recipe_class(type=self.type, path=self.case.name, input_size=size)
        return build_encoder(recipe, image_size, self.hf_config(), self.case.part("weight"))

    def find(self, suffix: str) -> tuple[Tensor, Encoder] | None:
        """Pixels `pixel_values<suffix>` and the encoder of their size."""
        pixels = self.inputs.get(f"pixel_values{suffix}")
        return None if pixels is None else (pixels, self.encoders[pixels.shape[-1]])

    def hidden(self, suffix: str, layer: int) -> Tensor | None:
        """All tokens [B, P + N, C] after block `layer` (0: embeddings, -1: last), no final norm."""
        if (found := self.find(suffix)) is None:
            return None
        pixels, encoder = found
        layer = layer if layer >= 0 else encoder.depth
        if layer > encoder.depth:
            return None
        if layer == 0:
            return self.once((suffix, 0), lambda: encoder.embed(pixels)[0])
        before = self.hidden(suffix, layer - 1)
        assert before is not None
        return self.once((suffix, layer), lambda: encoder.blocks()[layer - 1](before, None))

    def output(self, name: str) -> Tensor | None:
        if name == "features_rae_siglip2":
            name = "features"
        if found := re.fullmatch(r"features((?:_\d+)?)", name):
            given = self.find(found[1])
            return None if given is None else self.once(("features", found[1]), lambda: given[1].tokens(given[0]))
        if found := re.fullmatch(r"(?:hidden_)?embeddings((?:_\d+)?)", name):
            return self.hidden(found[1], 0)
        if found := re.fullmatch(r"hidden_after_layer_(\d+)", name):
            return self.hidden("", int(found[1]) + 1)
        if name == "hidden_last_raw":
            return self.hidden("", -1)
        if found := re.fullmatch(r"last_hidden_state(?:_affine)?((?:_\d+)?)", name):
            last, given = self.hidden(found[1], -1), self.find(found[1])
            if last is not None and given is not None:
                norm: Any = getattr(given[1].model, "layernorm", None)
                return None if norm is None else norm(last)
        return None


class Siglip(_Features):
    """`siglip_features`."""

    config_class, recipe_class, type = SiglipVisionConfig, Siglip2Recipe, "siglip2"

    def hf_config(self) -> PretrainedConfig:
        return SiglipVisionConfig(**self.case.config.values(without=("vision_use_head",)), vision_use_head=False)


class WebSSL(_Features):
    """`webssl_features`."""

    config_class, recipe_class, type = Dinov2Config, WebSSLRecipe, "webssl"


class MAE(_Features):
    """`mae_features`: every patch is seen, none is masked."""

    config_class, recipe_class, type = ViTMAEConfig, MAERecipe, "mae"


class Dinov2(_Features):
    """`dinov2_features`, with registers or without; also RAE's whole `encode` of an image in [0, 1]."""

    recipe_class, type = Dinov2Recipe, "dinov2"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.image_encoder: Encoder | None = None
        if self.has("image01") and "output/rae_encode" in case.tensors:
            side = case.shape("output/rae_encode")[-1] * case.config.need("patch_size")
            self.image_encoder = self.build(side, case.shape("input/image01")[-1])
            self.modules.append(self.image_encoder)

    def hf_config(self) -> PretrainedConfig:
        values = self.case.config.values()
        registers = "num_register_tokens" in values
        return Dinov2WithRegistersConfig(**values) if registers else Dinov2Config(**values)

    def output(self, name: str) -> Tensor | None:
        if name == "rae_encode" and self.image_encoder is not None:
            with torch.no_grad():
                return planes(self.image_encoder(self.inputs["image01"]), self.image_encoder.grid)
        return super().output(name)
