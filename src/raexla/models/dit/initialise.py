"""The official initialisation, with an explicit generator."""

import math

import torch
from torch import nn

from raexla.models.dit.model import LightningDiT
from raexla.nn.modulate import AdaLN
from raexla.nn.norms import RMSNorm
from raexla.nn.tables import reset_tables


def _xavier(linear: nn.Linear, generator: torch.Generator | None) -> None:
    nn.init.xavier_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)


def _torch_default(linear: nn.Linear, generator: torch.Generator | None) -> None:
    bound = 1 / math.sqrt(linear.in_features)
    nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
    nn.init.uniform_(linear.bias, -bound, bound, generator=generator)


@torch.no_grad()
def init_weights(model: LightningDiT, generator: torch.Generator | None = None) -> None:
    """Initialise in place, and fill the derived tables.

    Linears Xavier uniform with zero bias (PyTorch's own default under the `rae` head, as in RAE's DiT-DH), patch
    embeddings Xavier, time MLP and labels N(0, 0.02), null condition zero; modulations and the last linear zero, so
    that a new model predicts zero. The generator's device must be the parameters'.
    """
    rae = model.recipe.head is not None and model.recipe.head.wiring == "rae"
    for module in model.modules():
        if isinstance(module, nn.Linear):
            (_torch_default if rae else _xavier)(module, generator)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
    _xavier(model.x_embedder.proj, generator)
    if model.head is not None:
        _xavier(model.head.x_embedder.proj, generator)
    for linear in model.t_embedder.mlp:
        if isinstance(linear, nn.Linear):
            nn.init.normal_(linear.weight, std=0.02, generator=generator)
    null = getattr(model.y_embedder, "dropout_embedding", None)
    if null is not None:
        nn.init.zeros_(null)
    for linear in [m.linear for m in model.modules() if isinstance(m, AdaLN)] + [model.final_layer.linear]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    model.t_embedder.reset_frequencies()
    reset_tables(model)
