"""A decoder with its encoder and statistics as diffusers' `AutoencoderRAE`.

That class builds its encoder from a few numbers, and fewer encoders fit it than fit us. So nothing is written before
both have encoded and decoded the same picture alike.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from raexla.checkpoint import Artifact
from raexla.formats.encoder import name_encoder
from raexla.models.codecs import RAECodec, RAECodecRecipe
from raexla.models.decoder.official import DERIVED
from raexla.models.decoder.official import released_layout as decoder_layout
from raexla.models.encoders import EncoderRecipe
from raexla.recipe import ArtifactReference, UserError
from raexla.sampling.codec import open_codec

if TYPE_CHECKING:
    from raexla.formats.exporting import ExportOptions

TOLERANCE = 1e-3
"""Largest difference between the two, in units of the reference's root mean square."""
HEAD_CHANNELS = 64
_LATENT_EPS = 1e-5
_BASE = (16, 16)
# the released decoders' attention -> diffusers'
_ATTENTION = {
    ".attention.attention.query.": ".attention.to_q.",
    ".attention.attention.key.": ".attention.to_k.",
    ".attention.attention.value.": ".attention.to_v.",
    ".attention.output.dense.": ".attention.to_out.0.",
}


def write_diffusers(artifact: Artifact, folder: Path, options: "ExportOptions") -> list[str]:
    """Write `config.json` and `diffusion_pytorch_model.safetensors`; says how close the two came.

    Raises:
        UserError: the installed diffusers has no such class, or the class cannot be this codec.
    """
    try:
        from diffusers import AutoencoderRAE
    except ImportError as error:
        raise UserError(
            f"the installed diffusers has no AutoencoderRAE ({error}): it came with diffusers 0.38"
        ) from error
    import diffusers

    codec = _open(artifact, options)
    config = _config(codec)
    try:
        model: Any = AutoencoderRAE(**config).eval()
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"diffusers {diffusers.__version__} can't build AutoencoderRAE for an encoder of type "
            f"{config['encoder_type']} with the installed transformers ({str(error).splitlines()[0]})"
        ) from error
    _load(model, codec)
    latent, image = _compare(model, codec)
    model.save_pretrained(folder)
    lines = [f"AutoencoderRAE of diffusers {diffusers.__version__}: {len(model.state_dict())} tensors"]
    return [*lines, f"the same picture through both: latents differ by {latent:.2g} rms, images by {image:.2g} rms"]


def _open(artifact: Artifact, options: "ExportOptions") -> RAECodec:
    """The whole codec: the encoder by option or by what the artifact's manifest says, statistics likewise."""
    said = artifact.meta.get("codec") or (artifact.meta.get("recipe") or {}).get("codec") or {}
    statistics = options.statistics or (said.get("statistics") or {}).get("path")
    if artifact.facts["statistics"] is not None and statistics is None:
        raise UserError(
            "this decoder was trained with latent statistics, which diffusers' class holds: give --statistics"
        )
    encoder = said.get("encoder") or {}
    path = options.encoder or encoder.get("path")
    if encoder and options.encoder_type in (None, encoder["type"]):
        recipe = _encoder_recipe({**encoder, "path": path})
    else:
        rows, columns = artifact.facts["grid"]
        wanted = f"diffusers' class holds the encoder, too ({artifact.facts['encoder']})"
        recipe = name_encoder(path, options.encoder_type, rows * columns, wanted).recipe
    reference = None if statistics is None else ArtifactReference(path=statistics)
    weights = ArtifactReference(path=str(artifact.path))
    opened = open_codec(
        RAECodecRecipe(type="rae", encoder=recipe, weights=weights, statistics=reference), "ckpt export"
    )
    assert isinstance(opened.codec, RAECodec)
    return opened.codec.eval()


def _encoder_recipe(values: dict[str, Any]) -> EncoderRecipe:
    try:
        recipe: EncoderRecipe = TypeAdapter(EncoderRecipe).validate_python(values)
    except ValidationError as error:
        raise UserError(
            f"the artifact's encoder can't be read ({str(error).splitlines()[0]}): give --encoder"
        ) from error
    return recipe


def _config(codec: RAECodec) -> dict[str, Any]:
    """The arguments of `AutoencoderRAE`. Raises UserError for what it has no argument for."""
    encoder, decoder = codec.encoder, codec.decoder
    assert decoder is not None
    config: Any = encoder.model.config
    head_channels = config.hidden_size // config.num_attention_heads
    recipe, own = encoder.recipe, decoder.recipe
    width, depth, heads, mlp = own.shape
    drawn = f"{decoder.grid[0]} x {decoder.grid[1]}"
    obstacles = {
        f"encoders of type {recipe.type}": recipe.type not in ("dinov2", "siglip2", "mae"),
        "DINOv2 without registers": recipe.type == "dinov2" and not encoder.has_registers,
        f"encoder heads of {head_channels} channels (only {HEAD_CHANNELS})": head_channels != HEAD_CHANNELS,
        "the sum of several blocks": recipe.sum_last > 1,
        f"{recipe.resize} resizing": recipe.resize != "bicubic" and encoder.image_size != encoder.input_size,
        "decoders that draw another grid than their latent's": decoder.grid != decoder.latent_grid,
        f"decoder positions for {drawn} (it stretches every grid to {_BASE[0]} x {_BASE[1]})": decoder.grid != _BASE,
        "decoders without biases of queries, keys and values": not own.qkv_bias,
        f"decoder norms with epsilon {own.norm_eps}": own.norm_eps != 1e-12,
    }
    if named := [what for what, found in obstacles.items() if found]:
        raise UserError(f"diffusers' AutoencoderRAE has no {', no '.join(named)}: this codec can't be written as one")
    statistics = codec.statistics
    values: dict[str, Any] = {"latents_mean": None, "latents_std": None}
    if statistics is not None:
        mean, std = statistics.mean, torch.sqrt(statistics.var + statistics.eps) - _LATENT_EPS
        values = {"latents_mean": _on_grid(mean, codec), "latents_std": _on_grid(std, codec)}
    return {
        "encoder_type": recipe.type,
        "encoder_hidden_size": encoder.channels,
        "encoder_patch_size": encoder.patch_size,
        "encoder_num_hidden_layers": encoder.depth,
        "encoder_input_size": encoder.input_size,
        "encoder_norm_mean": list(encoder.mean),
        "encoder_norm_std": list(encoder.std),
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": depth,
        "decoder_num_attention_heads": heads,
        "decoder_intermediate_size": mlp,
        "patch_size": own.patch_size,
        **values,
    }


def _on_grid(values: Tensor, codec: RAECodec) -> Tensor:
    """[N, C] -> [C, h, w], [1, C] -> [C, 1, 1]."""
    shape = codec.grid if len(values) > 1 else (1, 1)
    return values.T.reshape(codec.channels, *shape).contiguous()


def _load(model: Any, codec: RAECodec) -> None:
    """Give diffusers' model our weights, strictly."""
    decoder = codec.decoder
    assert decoder is not None
    released = decoder_layout(decoder.recipe, codec.grid, codec.channels).write(decoder.state_dict())
    released.pop(DERIVED)
    state = {f"decoder.{_renamed(key)}": value for key, value in released.items()}
    affine = ("layernorm.", "post_layernorm.")  # of the final norm, which RAE leaves out
    ours = codec.encoder.model.state_dict()
    state |= {f"encoder.{key}": value for key, value in ours.items() if not key.startswith(affine)}
    wanted = model.state_dict()
    state |= {key: wanted[key] for key in ("encoder_mean", "encoder_std", "_latents_mean", "_latents_std")}
    problems = [f"missing: {key}" for key in sorted(wanted.keys() - state.keys())]
    problems += [f"unexpected: {key}" for key in sorted(state.keys() - wanted.keys())]
    problems += [
        f"wrong shape: {key}: {list(value.shape)}, diffusers builds {list(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and wanted[key].shape != value.shape
    ]
    if problems:
        what = "diffusers' AutoencoderRAE builds another encoder than this one, whose sizes it has no arguments for:"
        raise UserError("\n  ".join([what, *problems]))
    model.load_state_dict(state)


def _renamed(key: str) -> str:
    for theirs, ours in _ATTENTION.items():
        key = key.replace(theirs, ours)
    return key


def _compare(model: Any, codec: RAECodec) -> tuple[float, float]:
    """Largest differences of latents and images of one picture, each over the rms of ours."""
    draw = torch.rand(1, 3, codec.image_size, codec.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latent = codec.encode(draw)
        theirs = model.encode(draw).latent
        image = codec.decode(latent)
        drawn = model.decode(latent.transpose(1, 2).reshape(theirs.shape)).sample
    differences = _difference(theirs.flatten(2).transpose(1, 2), latent), _difference(drawn, image)
    if not max(differences) <= TOLERANCE:
        raise UserError(
            f"diffusers' AutoencoderRAE is not the same function: of one picture its latents differ by "
            f"{differences[0]:.2g} rms and its images by {differences[1]:.2g} rms (at most {TOLERANCE:g})"
        )
    return differences


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.square().mean().sqrt())
