"""Perceptual losses: LPIPS on VGG16, and a feature distance on the frozen encoder's own blocks.

LPIPS (Zhang et al. 2018) comes from the `lpips` package, whose linear heads are in its wheel. The VGG16 backbone is
not: its file is named by the user, and without it there is no LPIPS, never a randomly initialised one.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from raexla.nn.weights import read_tensors
from raexla.recipe import UserError

VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


def feature_distance(prediction: Sequence[Tensor], target: Sequence[Tensor], eps: float = 1e-6) -> Tensor:
    """Mean over layers of the mean squared distance between unit feature vectors; a scalar in [0, 4].

    Args:
        prediction, target: features of the two images, one [B, N, C] a layer (`Encoder.features`).
        eps: added to the norm of a feature vector.

    Each layer's vectors are scaled to unit length, as in LPIPS, so that no layer outweighs the others.
    """
    losses = [
        (_unit(p, -1, eps) - _unit(t, -1, eps)).square().sum(-1).mean() for p, t in zip(prediction, target, strict=True)
    ]
    return torch.stack(losses).mean()


class Vgg16Features(nn.Module):
    """The five ReLU activations of VGG16 that LPIPS and Gatys' style loss read; frozen.

    `vgg` is the backbone of the lpips package (`lpips.pretrained_networks.vgg16`, slices 1-5).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, vgg: nn.Module) -> None:
        super().__init__()
        self.vgg = vgg
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """`image` [B, 3, H, W] in [0, 1] -> five maps [B, C, H', W'] in the order of `VGG_LAYERS`."""
        return tuple(self.vgg((image * 2.0 - 1.0 - self.shift) / self.scale))


class LPIPS(nn.Module):
    """LPIPS distance of two images in [0, 1], averaged over the batch; frozen.

    Attributes:
        features: the VGG16 features, to be shared with a Gram loss.
    """

    def __init__(self, features: Vgg16Features, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.features = features
        for index, head in enumerate(heads):
            self.register_buffer(f"head{index}", head.reshape(1, -1, 1, 1).float())
        self.requires_grad_(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean LPIPS of `prediction` and `target` [B, 3, H, W] in [0, 1]; a scalar."""
        return self.distance(self.features(prediction), self.features(target)).mean()

    def distance(self, prediction: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """LPIPS of each pair [B] from VGG features that are already there."""
        total = prediction[0].new_zeros(prediction[0].shape[0])
        for index, (p, t) in enumerate(zip(prediction, target, strict=True)):
            squared = (_unit(p, 1, 1e-10) - _unit(t, 1, 1e-10)).square()
            total = total + (squared * self.get_buffer(f"head{index}")).sum(1).mean((1, 2))
        return total


def load_lpips(backbone: str) -> LPIPS:
    """LPIPS with the package's heads and a VGG16 backbone from a file.

    Args:
        backbone: torchvision's `vgg16-397923af.pth`, or the same keys (`features.0.weight`, ...) in a .safetensors.

    Raises:
        UserError: the file isn't there, or isn't a VGG16.
    """
    import lpips  # slow to import, and only this loss needs it

    state = read_tensors(backbone, "VGG16's ImageNet weights (torchvision's vgg16-397923af.pth)")
    with torch.device("meta"):
        package: Any = lpips.LPIPS(pretrained=False, net="vgg", pnet_rand=True, verbose=False)
    wanted = {name: name.split(".", 1)[1] for name in package.net.state_dict()}  # slice1.0.weight -> 0.weight
    renamed = {}
    for name, official in wanted.items():
        found = state.get(f"features.{official}")
        shape = tuple(package.net.state_dict()[name].shape)
        if found is None or tuple(found.shape) != shape:
            what = "is missing" if found is None else f"has shape {list(found.shape)}, not {list(shape)}"
            raise UserError(f"{backbone}: not the weights of a VGG16: features.{official} {what}")
        renamed[name] = found.float()
    package.net.load_state_dict(renamed, assign=True)
    path = files("lpips") / "weights" / "v0.1" / "vgg.pth"
    heads = torch.load(str(path), map_location="cpu", weights_only=True)
    return LPIPS(Vgg16Features(package.net), [heads[f"lin{index}.model.1.weight"] for index in range(5)])


def _unit(features: Tensor, dim: int, eps: float) -> Tensor:
    squared = features.square().sum(dim, keepdim=True)
    norm = torch.sqrt(squared.clamp_min(1e-30))  # the root's gradient at 0 is infinite
    return features / (norm + eps)
