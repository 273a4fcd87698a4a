"""Measures a trained decoder: the functions of `raexla reconstruct` on held-out pictures, with clean and with noised
latents, and the scorer of the nano benchmark on what comes back. On the eager runtime only."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablation.variants import ENCODER
from raexla.data.nano.samples import prompts
from raexla.eval.features import open_features
from raexla.eval.nano import PROMPT_SEED, prompt_set_hash
from raexla.eval.pictures import PictureSource, open_pictures, read_pictures
from raexla.eval.reconstruct import MEASURES, Measure, Reconstructor
from raexla.eval.reconstructions import ReconstructionRun, ReconstructRecipe
from raexla.eval.scenes import evaluate
from raexla.losses.perceptual import feature_distances
from raexla.runtime import EagerRecipe, open_runtime
from raexla.sampling.codec import open_codec
from raexla.sampling.named_codec import find_codec

PICTURES = 1000
"""Held-out pictures of each set."""
SIGMAS = (0.2, 0.4)
"""Spread of the noise on the encoder's tokens, which are layer-normalised: about 1 themselves."""
LAYERS = (1, 2, 3)
PROMPTS_PER_TASK = 50
NOISE_SEED = 20_26
SHOWN = {"scenes": 8, "words": 4, "text": 4}
_BATCH = 100


class NoisedCodec:
    """A codec whose latents get noise of a fixed spread, the same from one decoder to the next."""

    def __init__(self, codec: Any, sigma: float) -> None:
        self._codec, self._sigma = codec, sigma
        self._generator = torch.Generator().manual_seed(NOISE_SEED)
        self.image_size, self.output_size, self.decode = codec.image_size, codec.output_size, codec.decode

    def encode(self, image: Tensor) -> Tensor:
        """Latent [B, N, C] of `image` [B, 3, H, W]; the noise goes on by one batch at each call."""
        latent: Tensor = self._codec.encode(image)
        return latent + self._sigma * torch.randn(latent.shape, generator=self._generator)


class Scorer:
    """Scores one decoder after the other on the same pictures.

    Args:
        folders: set -> folder of shards with its pictures.

    Raises:
        UserError: a folder or the encoder isn't there.
    """

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._runtime = open_runtime(EagerRecipe(type="eager", device="cpu"))
        self._sources = {name: replace(open_pictures([path], PICTURES)[0], name=name) for name, path in folders.items()}
        self._features = open_features(ENCODER, 32, self._runtime, _BATCH)
        self._prompts = prompts(PROMPTS_PER_TASK, PROMPT_SEED)

    def score(
        self, artifact: Path, sets: tuple[str, ...], noised: bool
    ) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
        """What a decoder's artifact is worth.

        Returns:
            By what was decoded (`scenes`, `scenes, noise 0.4`, ...): `psnr` in dB, `ssim`, `rfid` (on the nano
            encoder's features), `perceptual`, `right` (of scenes: the nano benchmark's overall score of reconstructed
            renders) and `protocol`; and reconstructions to look at, uint8 [n, 32, 32, 3], by the same names.
        """
        opened = open_codec(find_codec(str(artifact)))
        codec: Any = opened.codec
        self._runtime.place(codec)
        distance = Measure("perceptual", "", 4, _DEFINITION, partial(_perceptual, codec.encoder))
        recipe = ReconstructRecipe(transform="squash", batch_images=_BATCH, shown=1, pictures=False)
        scores: dict[str, dict[str, Any]] = {}
        shown: dict[str, np.ndarray] = {}
        for sigma in (0.0, *SIGMAS) if noised else (0.0,):
            used = replace(opened, codec=NoisedCodec(codec, sigma) if sigma else codec)
            run = ReconstructionRun(
                used, "ablation", self._runtime, recipe, measures=(*MEASURES, distance), features=self._features
            )
            with tempfile.TemporaryDirectory() as folder:
                found = run.run([self._sources[name] for name in sets], Path(folder) / "out", lambda *_: lambda _: None)
            for line in found["sources"]:
                name = f"{line['name']}, noise {sigma:g}" if sigma else line["name"]
                stamp = {key: value for key, value in line["protocol"].items() if key != "codec_digest"}
                values = {key: line[key]["mean"] for key in ("psnr", "ssim", "perceptual")} | {"rfid": line["rfid"]}
                scores[name] = values | {"protocol": stamp | {"noise": sigma, "noise_seed": NOISE_SEED}}
                shown[name] = self._again(codec, sigma, self.originals(line["name"]))
                if line["name"] == "scenes":
                    scores[name]["right"] = self._right(codec, sigma)
                    scores[name]["protocol"]["prompt_set_sha256"] = prompt_set_hash(self._prompts)
        return scores, shown

    def originals(self, name: str) -> np.ndarray:
        """The pictures of a set that sheets show."""
        source: PictureSource = replace(self._sources[name], count=SHOWN[name])
        return np.stack([picture.pixels[0] for picture in read_pictures(source, [lambda pixels: pixels])])

    def _again(self, codec: Any, sigma: float, pixels: np.ndarray) -> np.ndarray:
        used = NoisedCodec(codec, sigma) if sigma else codec
        return Reconstructor(used, self._runtime, _BATCH)(pixels)

    def _right(self, codec: Any, sigma: float) -> float:
        again = self._again(codec, sigma, np.stack([item.image for item in self._prompts]))
        return evaluate(list(again), [item.spec for item in self._prompts], shuffles=1)["overall"].score


_DEFINITION = (
    f"mean squared distance of unit feature vectors of the nano encoder's blocks {', '.join(map(str, LAYERS))}: the "
    "perceptual loss that is trained on (raexla.losses.feature_distances), no LPIPS"
)


def _perceptual(encoder: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        maps = [encoder.features(torch.from_numpy(pixels).float(), list(LAYERS)) for pixels in (first, second)]
        found: np.ndarray = feature_distances(maps[1], maps[0]).double().numpy()
    return found
