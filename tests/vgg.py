"""A VGG16's convolutions under torchvision's names, with seeded weights: the real class, no download."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

_SHAPES = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
_SHAPES |= {17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}


def save_vgg16(path: Path) -> str:
    """Write `features.N.weight` and `.bias` of all thirteen convolutions to a .safetensors file."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for index, (out, inputs) in _SHAPES.items():
        scale = math.sqrt(2 / (9 * inputs))
        state[f"features.{index}.weight"] = torch.randn(out, inputs, 3, 3, generator=generator) * scale
        state[f"features.{index}.bias"] = torch.randn(out, generator=generator) * 0.05
    save_file(state, path)
    return str(path)
