"""The adaptive weight that keeps the adversarial gradient as large as the reconstruction gradient."""

import torch
from torch import Tensor


def adaptive_weight(
    reconstruction_gradient: Tensor, adversarial_gradient: Tensor, limit: float = 1e4, eps: float = 1e-6
) -> Tensor:
    """lambda = ||g_rec|| / (||g_adv|| + eps), clamped to [0, limit]; a detached scalar (001, eq. of sec. 3; VQGAN).

    Both gradients are those at the decoder's last layer (`ViTDecoder.head.weight`), taken with
    `torch.autograd.grad(loss, weight, retain_graph=True)` over the *global* batch.
    """
    ratio = _norm(reconstruction_gradient) / (_norm(adversarial_gradient) + eps)
    return ratio.clamp(0.0, limit).detach()


def _norm(gradient: Tensor) -> Tensor:
    return torch.sqrt(gradient.float().square().sum())
