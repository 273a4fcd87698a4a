"""Pixel losses."""

from torch import Tensor


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of two images [B, 3, H, W] in [0, 1]; a scalar (001, app. E: L1 on [0, 1])."""
    return (prediction - target).abs().mean()
