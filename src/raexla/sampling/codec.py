"""Opening a codec: its encoder, and the decoder and statistics that earlier stages made for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raexla.checkpoint import Artifact, read_artifact
from raexla.checkpoint.artifact import folder_digest
from raexla.models.codecs import (
    AlignTokCodec,
    AlignTokCodecRecipe,
    CodecRecipe,
    LatentStatistics,
    PixelsCodec,
    RAECodec,
    RAECodecRecipe,
    VAECodec,
    build_codec,
)
from raexla.models.decoder import DecoderRecipe
from raexla.recipe import ArtifactReference, UserError

LATENT_FACTS = ("encoder", "grid", "channels", "statistics")
"""By what a latent is recognised; every artifact that was made for one has these facts."""


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """numpy arrays as tensors, by name."""
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


@dataclass(frozen=True)
class OpenCodec:
    """A codec on the CPU with all its weights, and the facts by which later stages recognise it."""

    codec: RAECodec | VAECodec | AlignTokCodec | PixelsCodec
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
    if isinstance(recipe, AlignTokCodecRecipe):
        return _open_aligntok(recipe, where)
    if isinstance(recipe, RAECodecRecipe):
        return _open_rae(recipe, where)
    codec = build_codec(recipe)
    return OpenCodec(codec, recipe, _facts(codec, _identity(recipe), None))


def _identity(recipe: Any) -> str:
    if recipe.type == "pixels":
        return f"pixels/{recipe.patch_size}"
    return f"vae/{encoder_identity(recipe.place)}/{recipe.pack}"


def _facts(codec: Any, encoder: str, statistics: Artifact | None) -> dict[str, Any]:
    values = (encoder, list(codec.grid), codec.channels, statistics.digest if statistics else None)
    return dict(zip(LATENT_FACTS, values, strict=True))


def _open_rae(recipe: RAECodecRecipe, where: str) -> OpenCodec:
    statistics_artifact, statistics = _statistics(recipe.statistics, where)
    decoder_artifact: Artifact | None = None
    if recipe.weights is not None:
        decoder_artifact = read_artifact(recipe.weights, "decoder", f"{where}.weights")
        stored = DecoderRecipe.model_validate(decoder_artifact.facts["decoder"])
        if recipe.decoder is not None and recipe.decoder != stored:
            raise UserError(f"{where}.decoder: {decoder_artifact.path} holds a decoder of other sizes; leave them out")
        recipe = recipe.model_copy(update={"decoder": stored})
    codec = build_codec(recipe, statistics=statistics)
    assert isinstance(codec, RAECodec)
    facts = _facts(codec, encoder_identity(recipe.encoder.path), statistics_artifact)
    if statistics_artifact is not None:
        statistics_artifact.require("encoder", facts["encoder"], f"{where}.statistics")
    if decoder_artifact is not None:
        for fact in LATENT_FACTS:
            decoder_artifact.require(fact, facts[fact], f"{where}.weights")
        assert codec.decoder is not None
        load_weights(codec.decoder, as_tensors(decoder_artifact.weights()), f"{where}.weights: {decoder_artifact.path}")
    return OpenCodec(codec, recipe, facts, decoder_artifact.digest if decoder_artifact else None)


def _open_aligntok(recipe: AlignTokCodecRecipe, where: str) -> OpenCodec:
    """Encoder, adapter and decoder all come from one artifact of kind `aligntok`; its latent is recognised by the
    weights of encoder and adapter, so that a decoder that was refined (003, stage 3) leaves it as it is."""
    if recipe.weights is None:
        raise UserError(f"{where}.weights: a codec of type aligntok needs its trained adapter and decoder")
    artifact = read_artifact(recipe.weights, "aligntok", f"{where}.weights")
    statistics_artifact, statistics = _statistics(recipe.statistics, where)
    codec = build_codec(recipe, load=False, statistics=statistics)
    state = as_tensors(artifact.weights())
    load_weights(codec, state, f"{where}.weights: {artifact.path}", ignore=("statistics.",))
    facts = _facts(codec, aligntok_identity(state), statistics_artifact)
    if statistics_artifact is not None:
        statistics_artifact.require("encoder", facts["encoder"], f"{where}.statistics")
    assert isinstance(codec, AlignTokCodec)
    return OpenCodec(codec, recipe, facts, artifact.digest)


def aligntok_identity(state: Mapping[str, Tensor]) -> str:
    """What says that two AlignTok latents are the same: a hash over the weights of encoder and adapter."""
    digest = sha256()
    for name in sorted(state):
        if name.startswith(("encoder.", "adapter.")):
            digest.update(f"{name} {list(state[name].shape)} {state[name].dtype}\n".encode())
            digest.update(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"aligntok/{digest.hexdigest()}"


def _statistics(reference: ArtifactReference | None, where: str) -> tuple[Artifact | None, LatentStatistics | None]:
    if reference is None:
        return None, None
    artifact = read_artifact(reference, "statistics", f"{where}.statistics")
    arrays = as_tensors(artifact.weights())
    return artifact, LatentStatistics(arrays["mean"], arrays["var"])


def load_weights(module: nn.Module, state: Mapping[str, Tensor], where: str, ignore: tuple[str, ...] = ()) -> None:
    """Load exactly `state` into a module and freeze it; its own tensors whose names begin with one of `ignore` stay.

    Raises:
        UserError: a missing, unexpected or mis-shaped tensor; the first five of each kind are named.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(ignore)}
    shaped = [
        f"{name} {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in state.items()
        if name in own and own[name].shape != value.shape
    ]
    problems = {
        "lacks": sorted(own.keys() - state.keys()),
        "has no place for": sorted(state.keys() - own.keys()),
        "has": shaped,
    }
    said = [
        f"{verb} {', '.join(names[:5])}" + ("" if len(names) < 6 else f" and {len(names) - 5} more")
        for verb, names in problems.items()
        if names
    ]
    if said:
        raise UserError(f"{where} does not hold the weights of its model: it {'; '.join(said)}")
    module.load_state_dict(dict(state), strict=not ignore)
    module.requires_grad_(False)


def beside(recipe: CodecRecipe, folder: Path) -> CodecRecipe:
    """The codec's recipe with parts that stand next to a model's artifact taken from there.

    Shipped artifacts are neighbours (`encoder/`, `statistics/`, `decoder/`, `model/`) and work from any directory;
    their hashes are checked all the same. Everything else keeps its path.
    """
    if not isinstance(recipe, (RAECodecRecipe, AlignTokCodecRecipe)):
        return recipe
    changes: dict[str, Any] = {}
    if (encoder := folder.parent / "encoder").is_dir():
        changes["encoder"] = recipe.encoder.model_copy(update={"path": str(encoder)})
    weights = "decoder" if isinstance(recipe, RAECodecRecipe) else "aligntok"
    for part, kind in (("weights", weights), ("statistics", "statistics")):
        reference = getattr(recipe, part)
        if reference is not None and (neighbour := folder.parent / kind).is_dir():
            changes[part] = reference.model_copy(update={"path": str(neighbour)})
    return recipe.model_copy(update=changes)
