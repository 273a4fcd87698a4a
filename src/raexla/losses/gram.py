"""Gram (style) loss: the channel correlations of two images' features agree (Gatys et al. 2016; 000, sec. 2).

The paper states neither layers nor normalisation. Here: features of any list of layers (VGG16's relu1_2 .. relu4_3, or
the frozen encoder's blocks), Gram matrix divided by channels x positions, squared error averaged over entries, summed
over layers.
"""

from collections.abc import Sequence

from torch import Tensor


def gram_matrix(features: Tensor) -> Tensor:
    """F F^T / (C N) [B, C, C] of features [B, N, C] or [B, C, H, W], in float32."""
    tokens = features.flatten(2).transpose(1, 2) if features.dim() == 4 else features
    tokens = tokens.float()
    return tokens.transpose(1, 2) @ tokens / (tokens.shape[1] * tokens.shape[2])


def gram_loss(prediction: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean squared difference of Gram matrices; features as in `gram_matrix`; a scalar."""
    losses = [
        (gram_matrix(p) - gram_matrix(t)).square().mean() for p, t in zip(prediction, target, strict=True)
    ]  # one scalar a layer
    return sum(losses[1:], losses[0])
