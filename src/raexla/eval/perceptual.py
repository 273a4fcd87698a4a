"""LPIPS as a measure of reconstructions, on the runtime's devices, with a backbone from a file that the user names."""

from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raexla.checkpoint.files import sha256
from raexla.eval.reconstruct import Measure
from raexla.losses import load_lpips
from raexla.nn.weights import weights_file
from raexla.recipe import UserError
from raexla.runtime import Runtime

SMALLEST = 16  # four poolings


def lpips_measure(backbone: str, size: int, runtime: Runtime, batch_images: int) -> Measure:
    """LPIPS on VGG16 with the lpips package's linear heads.

    Args:
        backbone: where VGG16's weights are, as `load_lpips` takes it.
        size: side of the pictures.
        batch_images: pictures at a time; fewer are filled up, so that one shape is compiled.

    Raises:
        UserError: the file isn't there, or isn't a VGG16 (never a random one); pictures too small for it.
    """
    if size < SMALLEST:
        raise UserError(f"--lpips: VGG16 needs pictures of {SMALLEST} pixels, this codec draws {size}")
    backbone = weights_file(backbone)
    network = load_lpips(backbone)
    runtime.place(network)
    whole = -(-batch_images // runtime.batch_shards) * runtime.batch_shards

    def distance(first: Tensor, second: Tensor) -> Tensor:
        with torch.no_grad():
            return network.distance(network.features(first[0]), network.features(second[0]))

    compiled = runtime.compile(distance)

    def of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(first), whole):
            pair = [array[start : start + whole].astype(np.float32) for array in (first, second)]
            missing = whole - len(pair[0])
            padded = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in pair]
            placed = runtime.put({"first": padded[0], "second": padded[1]})
            out.append(runtime.to_host(compiled(placed["first"], placed["second"]))[: whole - missing])
        return np.concatenate(out).astype(np.float64)

    definition = (
        f"Zhang et al. 2018: VGG16 with the linear heads of lpips {metadata.version('lpips')}, pictures at their own "
        f"size, backbone {Path(backbone).name} sha256 {sha256(Path(backbone))}"
    )
    return Measure("lpips", "", 4, definition, of)
