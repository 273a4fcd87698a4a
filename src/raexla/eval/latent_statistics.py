"""What `raexla stats` does: mean and variance of a codec's latent over a stated number of pictures, as an artifact.

Paper 001 diffuses normalised latents; the code that was released with it keeps running averages in which the last ten
batches outweigh all others. These are exact up to float64 rounding, whatever the order, batch size and number of
processes (the bound stands in `moments`).
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raexla.checkpoint import read_artifact, write_artifact
from raexla.checkpoint.artifact import MANIFEST, artifact_kind
from raexla.data import CentreCropRecipe, SquashRecipe, build_transform
from raexla.eval.moments import Moments
from raexla.eval.pictures import Picture, PictureSource, read_pictures
from raexla.models.codecs import AlignTokCodecRecipe, CodecRecipe, RAECodec, RAECodecRecipe
from raexla.models.decoder import DecoderRecipe
from raexla.recipe import BadDataError, Recipe, UserError
from raexla.runtime import Runtime
from raexla.sampling.codec import OpenCodec, open_codec
from raexla.sampling.draw import may_replace, versions

MAX_BAD_FRACTION = 0.05
_WORDS = 8  # of 32 bits, in a SHA-256

Ticks = Callable[[str, int], Callable[[int], Any]]


class StatisticsRecipe(Recipe):
    """Over which pictures, and of what."""

    images: int = Field(ge=2)
    """Pictures, evenly spread over all sources."""
    per: Literal["token", "channel"] = "token"
    """Of each channel at each token [N, C], as RAE does, or of each channel over all tokens [1, C]."""
    transform: Literal["centre_crop", "squash"] = "centre_crop"
    """How pictures become squares."""
    batch_images: int = Field(default=64, ge=1)
    """Images at a time, on all processes together."""


@dataclass(frozen=True)
class Statistics:
    """What was found."""

    moments: Moments
    facts: dict[str, Any]
    protocol: dict[str, Any]
    digest: str
    """Of the artifact; empty on processes that don't write it."""

    def lines(self, out: Path) -> list[str]:
        """For the user."""
        grid, channels = self.facts["grid"], self.facts["channels"]
        deviation = np.sqrt(self.moments.variance)
        low, middle, high = np.quantile(deviation, [0, 0.5, 1])
        each = "each token and channel" if self.facts["per"] == "token" else "each channel over all tokens"
        refused = f", {self.protocol['refused']} refused" if self.protocol["refused"] else ""
        return [
            f"{self.protocol['images']} images{refused}; {grid[0]} x {grid[1]} tokens x {channels} channels, "
            f"of {each}: mean {self.moments.mean.min():.4g} to {self.moments.mean.max():.4g}, "
            f"standard deviation {low:.4g} to {high:.4g}, median {middle:.4g}",
            f"{out}: for recipes, codec.statistics: {{path: {out}}}; {out / MANIFEST}: its protocol",
        ]


def open_unnormalised(recipe: CodecRecipe, where: str = "--codec") -> OpenCodec:
    """The codec without statistics, and without a trained decoder where it has a ViT's (its size still counts).

    Raises:
        UserError: a codec that takes no statistics, or parts that can't be opened.
    """
    if not isinstance(recipe, (RAECodecRecipe, AlignTokCodecRecipe)):
        raise UserError(
            f"{where}: a codec of type {recipe.type} takes no statistics; those of type rae and aligntok do"
        )
    if isinstance(recipe, AlignTokCodecRecipe):
        return open_codec(recipe.model_copy(update={"statistics": None}), where)
    decoder = recipe.decoder
    if decoder is None and recipe.weights is not None:
        artifact = read_artifact(recipe.weights, "decoder", f"{where}.weights")
        decoder = DecoderRecipe.model_validate(artifact.facts["decoder"])
    opened = open_codec(recipe.model_copy(update={"statistics": None, "weights": None, "decoder": decoder}), where)
    assert isinstance(opened.codec, RAECodec)
    opened.codec.decoder = None
    return opened


def may_write(out: Path) -> None:
    """Refuse an output folder that holds something else than statistics.

    Raises:
        UserError: a file, other files, or an artifact of another kind.
    """
    may_replace(out, MANIFEST)
    if (out / MANIFEST).is_file() and (kind := artifact_kind(out, "--out")) != "statistics":
        raise UserError(f"--out: {out} is an artifact of kind {kind}; choose another folder")


class StatisticsRun:
    """Takes pictures through an opened, placed codec and adds up.

    Args:
        name: what the user called the codec.
    """

    def __init__(
        self, opened: OpenCodec, name: str, runtime: Runtime, recipe: StatisticsRecipe, dtype: str = "float32"
    ) -> None:
        self._opened, self._name, self._runtime, self._recipe, self._dtype = opened, name, runtime, recipe, dtype
        shards = runtime.batch_shards * runtime.process_count
        self.batch = -(-recipe.batch_images // shards) * shards
        size = opened.codec.image_size
        made = CentreCropRecipe(type="centre_crop", size=size) if recipe.transform == "centre_crop" else None
        self._transform_facts = made or SquashRecipe(size=size)
        self._transform = build_transform(self._transform_facts)
        self._encode = runtime.compile(self._encoded)

    def _encoded(self, pixels: Tensor) -> Tensor:
        image = pixels[0].permute(0, 3, 1, 2).float() / 255.0
        with torch.no_grad(), self._runtime.autocast():
            return self._opened.codec.encode(image).float()

    def run(self, sources: Sequence[PictureSource], out: Path, ticks: Ticks) -> Statistics:
        """Add up and write the artifact (the first process does).

        Raises:
            UserError: fewer pictures than asked for; the storage.
            BadDataError: more than 5% of the pictures can't be used; nothing is written.
        """
        began, recipe, runtime = time.time(), self._recipe, self._runtime
        total = sum(source.count for source in sources)
        if recipe.images > total:
            raise UserError(
                f"--images {recipe.images}, but there are {total} pictures in all; give more, or ask for fewer"
            )
        grid, channels = self._opened.codec.grid, self._opened.codec.channels
        moments, words = Moments.empty((grid[0] * grid[1], channels)), np.zeros(_WORDS, np.float64)
        refused: list[str] = []
        pictures = self._pictures(sources, total)
        tick = ticks("latent statistics", recipe.images)
        for start in range(0, recipe.images, self.batch):
            mine = len(self._share(start))
            latent, hashes = self._one_batch(list(islice(pictures, mine)), refused)
            if not np.isfinite(latent).all():
                raise UserError("the encoder gives latents that are not finite: try --dtype float32")
            moments = moments.merge(Moments.of(latent))
            words = (words + hashes.astype(np.float64).sum(0)) % 2.0**32
            tick(min(self.batch, recipe.images - start))
        whole = moments.over_processes(self._add)
        reference = "".join(f"{int(word):08x}" for word in self._add(words) % 2.0**32)
        bad = recipe.images - whole.count
        if bad > MAX_BAD_FRACTION * recipe.images:
            named = "; ".join(refused[:5]) or "they are named by other processes"
            raise BadDataError(
                f"{bad} of {recipe.images} pictures can't be used, {bad / recipe.images:.1%}, more than the "
                f"{MAX_BAD_FRACTION:.0%} that are put up with; nothing is written: {named}"
            )
        found = whole.per_channel() if recipe.per == "channel" else whole
        facts = {key: value for key, value in self._opened.facts.items() if key != "statistics"}
        facts |= {"per": recipe.per, "images": whole.count}
        protocol = self._protocol(reference, whole.count, bad)
        digest = ""
        if runtime.process_index == 0:
            arrays = {"mean": found.mean.astype(np.float32), "var": found.variance.astype(np.float32)}
            meta = {
                "codec": self._opened.recipe.model_dump(mode="json", exclude={"decoder", "weights"}),
                "named": self._name,
                "sources": [{"name": source.name, "path": source.path, "count": source.count} for source in sources],
                "protocol": protocol,
                "refused": refused,
                "versions": versions(),
                "seconds": round(time.time() - began, 3),
            }
            digest = write_artifact(out, "statistics", arrays, facts, meta)
        runtime.barrier()
        return Statistics(found, facts, protocol, digest)

    def _share(self, start: int) -> range:
        """The pictures, by number, that this process takes of the batch that begins at `start`."""
        share = self.batch // self._runtime.process_count
        first = start + self._runtime.process_index * share
        return range(min(first, self._recipe.images), min(first + share, self._recipe.images))

    def _pictures(self, sources: Sequence[PictureSource], total: int) -> Iterator[Picture]:
        """This process's pictures in order: number i of n is the one at i total // n of all."""
        places = [(source, number) for source in sources for number in range(source.count)]
        numbers = [number for start in range(0, self._recipe.images, self.batch) for number in self._share(start)]
        mine = [places[number * total // self._recipe.images] for number in numbers]

        def name_of(number: int) -> str:
            source, place = mine[number]
            return f"{source.name}/{source.name_of(place)}"

        def load(number: int) -> np.ndarray:
            source, place = mine[number]
            return source.load(place)

        rng = np.random.default_rng(0)  # neither transform draws
        chosen = PictureSource("chosen", "", len(mine), name_of, load)
        return read_pictures(chosen, [lambda pixels: self._transform(pixels, rng)])

    def _one_batch(self, pictures: Sequence[Picture], refused: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Latents [n, N, C] and hashes [n, 8] of the good pictures of this batch that this host sees."""
        size, share = self._opened.codec.image_size, self.batch // self._runtime.process_count
        arrays: dict[str, np.ndarray] = {
            "pixels": np.zeros((share, size, size, 3), np.uint8),
            "good": np.zeros(share, np.int32),
            "hashes": np.zeros((share, _WORDS), np.int32),
        }
        for row, picture in enumerate(pictures):
            if picture.refused is not None:
                refused.append(f"{picture.name}: {picture.refused}")
                continue
            (pixels,) = picture.pixels
            arrays["pixels"][row], arrays["good"][row] = pixels, 1
            digest = hashlib.sha256(picture.name.encode() + b"\0" + pixels.tobytes()).digest()
            arrays["hashes"][row] = np.frombuffer(digest, dtype=">i4")
        placed = self._runtime.put(arrays)
        latent = self._runtime.to_host(self._encode(placed["pixels"]))
        good = self._runtime.to_host(placed["good"])[0] > 0
        return latent[good], self._runtime.to_host(placed["hashes"])[0][good].astype(np.uint32)

    def _add(self, array: np.ndarray) -> np.ndarray:
        return self._runtime.sum_over_processes(torch.from_numpy(np.ascontiguousarray(array))).numpy()

    def _protocol(self, reference: str, images: int, refused: int) -> dict[str, Any]:
        return {
            "reference_sha256_sum": reference,
            "images": images,
            "refused": refused,
            "chosen": "evenly spread over all sources, in their order",
            "transform": self._transform_facts.model_dump(mode="json"),
            "image_size": self._opened.codec.image_size,
            "accumulation": "float64, Chan et al. 1979; variance over n",
            "dtype": self._dtype,
            "runtime": self._runtime.type,
            "devices": self._runtime.device_count,
            "processes": self._runtime.process_count,
            "batch_images": self.batch,
        }
