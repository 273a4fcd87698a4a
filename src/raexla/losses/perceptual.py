"""Perceptual losses: LPIPS on VGG16, and a feature distance on the frozen encoder's own blocks.

LPIPS (Zhang et al. 2018) comes from the `lpips` package, whose linear heads are in its wheel. The VGG16 backbone is
not: its file is named by the user, and without it there is no LPIPS, never a randomly initialised one.
"""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from raexla.nn.weights import read_tensors, weights_file
from raexla.recipe import UserError

VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""The activations that LPIPS reads."""


def feature_distance(prediction: Sequence[Tensor], target: Sequence[Tensor], eps: float = 1e-6) -> Tensor:
    """The mean of `feature_distances`; a scalar."""
    return feature_distances(prediction, target, eps).mean()


def feature_distances(prediction: Sequence[Tensor], target: Sequence[Tensor], eps: float = 1e-6) -> Tensor:
    """Mean over layers of the mean squared distance between unit feature vectors; [B], in [0, 4].

    Args:
        prediction, target: features of the two images, one [B, N, C] a layer (`Encoder.features`).
        eps: added to the norm of a feature vector.

    Each layer's vectors are scaled to unit length, as in LPIPS, so that no layer outweighs the others.
    """
    losses = [
        (_unit(p, -1, eps) - _unit(t, -1, eps)).square().sum(-1).mean(1)
        for p, t in zip(prediction, target, strict=True)
    ]
    return torch.stack(losses).mean(0)


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
        maps = self.maps(image, VGG_LAYERS)
        return tuple(maps[layer] for layer in VGG_LAYERS)

    def maps(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The activations of `layers` (`relu1_1` ... `relu5_3`), each [B, C, H', W']; one pass for all of them."""
        hidden, found = (image * 2.0 - 1.0 - self.shift) / self.scale, {}
        for name, module in self._named():
            hidden = module(hidden)
            if name in layers:
                found[name] = hidden
        return found

    def check(self, layers: Sequence[str]) -> None:
        """Refuse names that VGG16 doesn't have.

        Raises:
            UserError: the first of them, and all that there are.
        """
        known = [name for name, _ in self._named() if name]
        for layer in layers:
            if layer not in known:
                raise UserError(f"losses.gram.layers: VGG16 has no {layer!r}; it has {', '.join(known)}")

    def _named(self) -> Iterator[tuple[str, nn.Module]]:
        """The layers in order; activations have names, the others none."""
        block, number = 1, 0
        for index in range(1, 6):
            for module in self.vgg.get_submodule(f"slice{index}").children():
                if isinstance(module, nn.MaxPool2d):
                    block, number = block + 1, 0
                number += isinstance(module, nn.Conv2d)
                yield (f"relu{block}_{number}" if isinstance(module, nn.ReLU) else ""), module


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


def build_lpips() -> LPIPS:
    """The structure (on `meta`), without a file: what `raexla plan` counts and traces."""
    with torch.device("meta"):
        return LPIPS(Vgg16Features(_vgg16()), [torch.empty(width) for width in (64, 128, 256, 512, 512)])


def _vgg16() -> Any:
    """VGG16 in the package's slices, on `meta`."""
    import lpips  # slow to import, and only this loss needs it

    with torch.device("meta"):
        package: Any = lpips.LPIPS(pretrained=False, net="vgg", pnet_rand=True, verbose=False)
    return package.net


def load_lpips(backbone: str) -> LPIPS:
    """LPIPS with the package's heads and a VGG16 backbone from a file or the hub.

    Args:
        backbone: torchvision's `vgg16-397923af.pth`, or the same keys (`features.0.weight`, ...) in a .safetensors, a
            folder's `model.safetensors`, or a hub name: `timm/vgg16.tv_in1k` holds torchvision's weights.

    Raises:
        UserError: nothing there, or no VGG16.
    """
    state = read_tensors(weights_file(backbone), "VGG16's ImageNet weights (torchvision's vgg16-397923af.pth)")
    network = _vgg16()
    wanted = {name: name.split(".", 1)[1] for name in network.state_dict()}  # slice1.0.weight -> 0.weight
    renamed = {}
    for name, official in wanted.items():
        found = state.get(f"features.{official}")
        shape = tuple(network.state_dict()[name].shape)
        if found is None or tuple(found.shape) != shape:
            what = "is missing" if found is None else f"has shape {list(found.shape)}, not {list(shape)}"
            raise UserError(f"{backbone}: not the weights of a VGG16: features.{official} {what}")
        renamed[name] = found.float()
    network.load_state_dict(renamed, assign=True)
    path = files("lpips") / "weights" / "v0.1" / "vgg.pth"
    heads = torch.load(str(path), map_location="cpu", weights_only=True)
    return LPIPS(Vgg16Features(network), [heads[f"lin{index}.model.1.weight"] for index in range(5)])


def _unit(features: Tensor, dim: int, eps: float) -> Tensor:
    squared = features.square().sum(dim, keepdim=True)
    norm = torch.sqrt(squared.clamp_min(1e-30))  # the root's gradient at 0 is infinite
    return features / (norm + eps)
