"""The four encoder families: where transformers keeps the parts, and which final norm each is released with."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.encoders.base import Encoder


class Siglip2Encoder(Encoder):
    """`SiglipVisionModel`: hidden_states[-1], LayerNorm without affine, eps 1e-6 (facts A5: Scale-RAE's tower).

    The post-layernorm's affine and the pooling head are not used.
    """

    mean = std = (0.5, 0.5, 0.5)

    def embed(self, pixels: Tensor) -> tuple[Tensor, int]:
        embeddings: Any = self.model.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return patches + self._positions(embeddings.position_embedding.weight[None]), 0

    def blocks(self) -> nn.ModuleList:
        encoder: Any = self.model.encoder
        return encoder.layers

    def final_norm(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens.float(), (self.channels,), eps=1e-6)


class _ClassTokenEncoder(Encoder):
    """Families with a CLS token whose position table is [1, 1 + N0, C]."""

    def embed(self, pixels: Tensor) -> tuple[Tensor, int]:
        embeddings: Any = self.model.embeddings
        table = embeddings.position_embeddings
        patches = embeddings.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        patches = patches + self._positions(table[:, 1:])
        first = [(embeddings.cls_token + table[:, :1]).expand(len(patches), -1, -1)]
        registers = getattr(embeddings, "register_tokens", None)
        if registers is not None:
            first.append(registers.expand(len(patches), -1, -1))
        return torch.cat([*first, patches], dim=1), 1 + (0 if registers is None else registers.shape[1])

    def blocks(self) -> nn.ModuleList:
        encoder: Any = self.model.encoder
        return encoder.layer


class Dinov2Encoder(_ClassTokenEncoder):
    """`Dinov2Model`, final norm without its affine (RAE, src/stage1/encoders/dinov2.py)."""


class Dinov2RegistersEncoder(_ClassTokenEncoder):
    """`Dinov2WithRegistersModel`; unlike plain DINOv2 its position table is interpolated with antialias."""

    position_mode = "bicubic_antialias"


class WebSSLEncoder(_ClassTokenEncoder):
    """`Dinov2Model` with the affine of its final norm kept (Scale-RAE, dino_encoder.py)."""

    def final_norm(self, tokens: Tensor) -> Tensor:
        norm: Any = self.model.layernorm
        return F.layer_norm(tokens.float(), (self.channels,), norm.weight, norm.bias, self.eps)


class MAEEncoder(_ClassTokenEncoder):
    """`ViTMAEModel` on all patches, none masked; final norm without its affine (RAE, src/stage1/encoders/mae.py)."""

    def blocks(self) -> nn.ModuleList:
        return self.model.layers  # pyright: ignore[reportReturnType]
