"""Opening a codec: its encoder, and the decoder and statistics that earlier stages made for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raexla.checkpoint import Artifact, read_artifact
from raexla.checkpoint.artifact import folder_digest
from raexla.models.codecs import CodecRecipe, LatentStatistics, PixelsCodec, RAECodec, RAECodecRecipe, build_codec
from raexla.models.codecs.vae import VAECodec
from raexla.models.decoder import DecoderRecipe
from raexla.recipe import UserError


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """numpy arrays as tensors, by name."""
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


@dataclass(frozen=True)
class OpenCodec:
    """A codec on the CPU with all its weights, and the facts by which later stages recognise it."""

    codec: RAECodec | VAECodec | PixelsCodec
    recipe: CodecRecipe
    facts: dict[str, Any]
    """encoder, tokens (h, w), channels, statistics: what an artifact trained on this latent must have been made for."""
    decoder: str | None = None
    """Digest of the decoder artifact, if there is one."""


def encoder_identity(path: str) -> str:
    """What says that two encoders are the same: the hash of a local folder, else the hub name."""
    return folder_digest(Path(path)) if Path(path).is_dir() else path


def open_codec(recipe: CodecRecipe, where: str = "codec") -> OpenCodec:
    """Build a codec and load everything that its recipe refers to.

    A decoder's sizes may be left out of the recipe: its artifact knows them.

    Raises:
        UserError: a missing or damaged artifact, or one that was made for another encoder, grid or statistics.
    """
    if not isinstance(recipe, RAECodecRecipe):
        codec = build_codec(recipe)
        identity = recipe.path if recipe.type == "vae" else f"pixels/{recipe.patch_size}"
        facts = {"encoder": identity, "grid": list(codec.grid), "channels": codec.channels, "statistics": None}
        return OpenCodec(codec, recipe, facts)
    statistics_artifact = statistics = None
    if recipe.statistics is not None:
        statistics_artifact = read_artifact(recipe.statistics, "statistics", f"{where}.statistics")
        arrays = as_tensors(statistics_artifact.weights())
        statistics = LatentStatistics(arrays["mean"], arrays["var"])
    decoder_artifact: Artifact | None = None
    if recipe.weights is not None:
        decoder_artifact = read_artifact(recipe.weights, "decoder", f"{where}.weights")
        stored = DecoderRecipe.model_validate(decoder_artifact.facts["decoder"])
        if recipe.decoder is not None and recipe.decoder != stored:
            raise UserError(f"{where}.decoder: {decoder_artifact.path} holds a decoder of other sizes; leave them out")
        recipe = recipe.model_copy(update={"decoder": stored})
    codec = build_codec(recipe, statistics=statistics)
    assert isinstance(codec, RAECodec)
    facts = {
        "encoder": encoder_identity(recipe.encoder.path),
        "grid": list(codec.grid),
        "channels": codec.channels,
        "statistics": statistics_artifact.digest if statistics_artifact else None,
    }
    if statistics_artifact is not None:
        statistics_artifact.require("encoder", facts["encoder"], f"{where}.statistics")
    if decoder_artifact is not None:
        for fact in ("encoder", "grid", "channels", "statistics"):
            decoder_artifact.require(fact, facts[fact], f"{where}.weights")
        assert codec.decoder is not None
        codec.decoder.load_state_dict(as_tensors(decoder_artifact.weights()))
        codec.decoder.requires_grad_(False)
    return OpenCodec(codec, recipe, facts, decoder_artifact.digest if decoder_artifact else None)
