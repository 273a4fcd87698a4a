"""Pixel losses."""

from torch import Tensor


def l1_distances(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error [B] of each pair of images [B, 3, H, W] in [0, 1] (001, app. E: L1 on [0, 1])."""
    return (prediction - target).abs().mean((1, 2, 3))


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of two images; a scalar."""
    return (prediction - target).abs().mean()
