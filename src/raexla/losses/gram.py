"""Gram (style) loss: the channel correlations of two images' features agree (Gatys et al. 2015; 000, sec. 2).

Paper 000 cites Gatys et al. and states neither layers nor normalisation; no released code has this loss. Here: features
of any list of layers (VGG16's ReLUs, or the frozen encoder's blocks), and two normalisations. With F [C, N] the
features of a layer and A those of the original:

    mean   (default)  sum over layers of mean_ij (F F^T - A A^T)^2 / (C N)^2            (Johnson et al. 2016)
    gatys             mean over layers of sum_ij (F F^T - A A^T)^2 / (4 C^2 N^2)        (Gatys et al., eqs. 4 and 5)
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

GramNormalisation = Literal["mean", "gatys"]


def gram_matrix(features: Tensor) -> Tensor:
    """F F^T / (C N) [B, C, C] of features [B, N, C] or [B, C, H, W], in float32."""
    tokens = features.flatten(2).transpose(1, 2) if features.dim() == 4 else features
    tokens = tokens.float()
    return tokens.transpose(1, 2) @ tokens / (tokens.shape[1] * tokens.shape[2])


def gram_losses(
    prediction: Sequence[Tensor], target: Sequence[Tensor], normalise: GramNormalisation = "mean"
) -> Tensor:
    """The Gram loss [B] of each pair of images; features as in `gram_matrix`, one tensor a layer."""
    squares = [(gram_matrix(p) - gram_matrix(t)).square() for p, t in zip(prediction, target, strict=True)]
    if normalise == "mean":
        return torch.stack([square.mean((1, 2)) for square in squares]).sum(0)
    return torch.stack([0.25 * square.sum((1, 2)) for square in squares]).mean(0)


def gram_loss(prediction: Sequence[Tensor], target: Sequence[Tensor], normalise: GramNormalisation = "mean") -> Tensor:
    """The mean of `gram_losses`; a scalar."""
    return gram_losses(prediction, target, normalise).mean()
