"""Feature extractors for the Fréchet distance: torch-fidelity's Inception, or any encoder folder.

Pictures uint8 [n, S, S, 3] -> one vector each. Weights come from the path that the user gives, never from elsewhere.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from raexla.checkpoint.files import read_json, sha256
from raexla.models.encoders import EncoderRecipe, load_encoder
from raexla.nn.weights import read_tensors
from raexla.recipe import UserError
from raexla.runtime import Runtime
from raexla.sampling.codec import encoder_identity

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""torch-fidelity's conversion of the TensorFlow graph that FID is defined by."""
# model_type in config.json -> encoder type; a folder of WebSSL is one of dinov2, told apart by nothing but its norm
_TYPES = {
    "siglip_vision_model": "siglip2",
    "siglip": "siglip2",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "vit_mae": "mae",
}


@dataclass(frozen=True)
class Features:
    """An extractor, placed."""

    name: str
    definition: str
    """What the numbers are, for the protocol."""
    digest: str
    """Hash of the weights."""
    width: int
    of: Callable[[np.ndarray], np.ndarray]
    """uint8 [n, S, S, 3] -> float [n, width]."""

    def protocol(self) -> dict[str, Any]:
        """What a Fréchet distance says of its features."""
        return {
            "features": self.definition,
            "sha256": self.digest,
            "width": self.width,
            "distance": "squared Fréchet distance of originals and reconstructions, covariances over n - 1, float64",
        }


def open_features(path: str, size: int, runtime: Runtime, batch: int, where: str = "--features") -> Features:
    """The extractor that a path means, on the runtime's devices.

    Args:
        path: a file with torch-fidelity's Inception weights, or an encoder's folder.
        size: side of the pictures.
        batch: pictures at a time; fewer are filled up.
        where: what a person has set the path with.

    Raises:
        UserError: nothing there, or other weights.
    """
    module: nn.Module
    if Path(path).is_file():
        module = load_inception(path)
        said = "torch-fidelity's InceptionV3, 2048 features, bilinear resize to 299 as in TensorFlow 1"
        made = ("inception", said, sha256(Path(path)), 2048)
    else:
        encoder = load_encoder(_encoder_recipe(path, where), size)
        module = _MeanToken(encoder)
        said = f"mean over the {encoder.grid[0]} x {encoder.grid[1]} tokens of {type(encoder).__name__}, after its norm"
        made = (f"encoder {Path(path).name}", said, encoder_identity(path), encoder.channels)
    runtime.place(module)
    return Features(*made, _batched(module, runtime, batch))


def load_inception(path: str) -> nn.Module:
    """torch-fidelity's `FeatureExtractorInceptionV3`: uint8 [n, 3, S, S] -> [n, 2048], float32 inside.

    Raises:
        UserError: no such file, or other weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = read_tensors(path, f"torch-fidelity's Inception weights ({INCEPTION_FILE})")
    # the class reads its weights from a file by itself, with pickle; it is handed what was read safely
    own = io.BytesIO()
    torch.save(state, own)
    own.seek(0)
    try:
        network: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=own)
    except RuntimeError as error:  # load_state_dict: missing, unexpected, mis-shaped
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: not torch-fidelity's Inception weights ({INCEPTION_FILE}): {said}") from None
    return _First(network)


class _First(nn.Module):
    """torch-fidelity's extractors give a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels)[0]


class _MeanToken(nn.Module):
    """An encoder's tokens, averaged."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels.float() / 255).float().mean(1)


def _encoder_recipe(path: str, where: str) -> EncoderRecipe:
    config = Path(path) / "config.json"
    if not config.is_file():
        raise UserError(
            f"{where}: {path} is neither a file of Inception weights ({INCEPTION_FILE}) nor an encoder's folder "
            "with config.json"
        )
    kind = read_json(config).get("model_type")
    if kind not in _TYPES:
        raise UserError(f"{where}: {path} holds a model of type {kind}; known are {', '.join(_TYPES)}")
    recipe: EncoderRecipe = TypeAdapter(EncoderRecipe).validate_python({"type": _TYPES[kind], "path": path})
    return recipe


def _batched(module: nn.Module, runtime: Runtime, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """Runs `module` on batches of one shape, compiled once."""

    def run(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return module(pixels[0].permute(0, 3, 1, 2))

    compiled = runtime.compile(run)
    whole = -(-batch // runtime.batch_shards) * runtime.batch_shards

    def of(pixels: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(pixels), whole):
            part = pixels[start : start + whole]
            padded = np.concatenate([part, np.repeat(part[-1:], whole - len(part), axis=0)])
            out.append(runtime.to_host(compiled(runtime.put({"pixels": padded})["pixels"]))[: len(part)])
        return np.concatenate(out)

    return of
