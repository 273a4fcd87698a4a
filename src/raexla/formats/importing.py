"""`raexla ckpt import`: a released file or folder -> an artifact, strictly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from raexla import __version__
from raexla.checkpoint import read_artifact, write_artifact
from raexla.checkpoint.artifact import WEIGHTS
from raexla.checkpoint.files import sha256
from raexla.flow.time import TimeRecipe
from raexla.formats import rae, scale_rae
from raexla.formats.encoder import NamedEncoder, folder_name, name_encoder
from raexla.formats.own import read_own
from raexla.formats.source import Released, config_json, open_released
from raexla.formats.stream import check_types, write_safetensors
from raexla.formats.tokenizer import language_files
from raexla.models.codecs import RAECodecRecipe
from raexla.models.critic.official import dino_layout
from raexla.models.decoder.official import released_layout as decoder_layout
from raexla.models.dit import DiTRecipe
from raexla.models.dit.official import released_layout as dit_layout
from raexla.models.mllm.official import unified_layout
from raexla.models.official import ReleasedLayout
from raexla.recipe import ArtifactReference, UserError
from raexla.sampling.classes import CLASS_DESCRIPTION, ClassToImageRecipe
from raexla.sampling.model import DESCRIPTION, TextToImageRecipe, UnifiedRecipe

NONE = "none"
"""As an option's value: there is no such artifact, and that is meant."""


@dataclass(frozen=True)
class ImportOptions:
    """What a released file doesn't say. Each field is the option of its name."""

    encoder: str | None = None
    encoder_type: str | None = None
    decoder: str | None = None
    statistics: str | None = None
    config: Path | None = None
    state: str | None = None
    size: str | None = None
    heads: int | None = None
    head_heads: int | None = None
    head_depth: int | None = None
    classes: int | None = None
    length: int | None = None


@dataclass
class Import:
    """An artifact about to be written."""

    kind: str
    state: Mapping[str, Tensor]
    layout: ReleasedLayout | None
    """None where the tensors are ours already."""
    facts: dict[str, Any]
    extra: dict[str, bytes] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    """What was read from what."""


def import_released(source: Path, out: Path | None, options: ImportOptions, kind: str | None = None) -> list[str]:
    """Read a released file or folder and write it as an artifact; says what it found.

    Args:
        out: the artifact's directory; None checks only.
        kind: one of `KINDS`; recognised by the files and keys if not given.

    Raises:
        UserError: any missing, unexpected or mis-shaped key (each named), a derived one with other values, or a size
            that has to be told. Nothing is written then.
    """
    if out is not None and out.exists():
        raise UserError(f"--out {out} exists already: remove it or choose another folder")
    released = open_released(source, options.state, options.config)
    kind = kind or detect(released)
    made = KINDS[kind](released, options)
    lines = check_types(made.state, str(source))
    if made.layout is not None:
        report = made.layout.check(made.state)
        report.refuse()
        lines = [*report.lines(), *lines]
    lines += made.lines
    if out is not None and any(value.is_meta for value in made.state.values()):
        raise UserError(f"{source} holds shapes without numbers (meta tensors): --check can look at it, nothing more")
    if out is None:
        return [*lines, f"{source} can be imported as an artifact of kind {made.kind}; nothing was written"]
    state = made.layout.read(made.state) if made.layout is not None else made.state
    meta = {
        "imported": {
            "from": folder_name(source),
            "files": {file.name: sha256(file) for file in released.files},
            **({"state": released.state} if released.state else {}),
        },
        "parents": made.parents,
        "raexla": __version__,
        **made.meta,
    }
    digest = write_artifact(
        out, made.kind, {}, made.facts, meta, made.extra, lambda folder: write_safetensors(folder / WEIGHTS, state)
    )
    return [*lines, f"{out}: artifact of kind {made.kind}, {len(state)} tensors, digest {digest[:16]}"]


def detect(released: Released) -> str:
    """Which kind of release this is, by its config and keys.

    Raises:
        UserError: none that is known.
    """
    keys = released.tensors.keys()
    if (released.config or {}).get("model_type") == scale_rae.MODEL_TYPE or scale_rae.QUERIES in keys:
        return "model"
    for kind, signs in _SIGNS.items():
        if any(sign <= keys for sign in signs):
            return kind
    shown = ", ".join(sorted(keys)[:5])
    raise UserError(
        f"{released.path}: not recognised by its keys ({len(keys)}, such as {shown}); --kind ({', '.join(KINDS)}) "
        "checks it as that kind and names what is missing"
    )


_SIGNS: dict[str, tuple[set[str], ...]] = {
    "decoder": ({"decoder_embed.weight"}, {"decoder_pred.weight"}, {"trainable_cls_token"}),
    "statistics": ({"mean", "var"}, {"running_mean", "running_var"}),
    "dit": ({"y_embedder.embedding_table.weight"}, {"t_embedder.mlp.0.weight", "final_layer.linear.weight"}),
    "dino": ({"patch_embed.proj.weight", "cls_token"},),
}


def _artifact(path: str | None, kind: str, parents: dict[str, str]) -> ArtifactReference | None:
    """The artifact of an option (`none`: there is none); its digest is noted among the parents."""
    if path is None or path == NONE:
        return None
    reference = ArtifactReference(path=path)
    parents[kind] = read_artifact(reference, kind, f"--{kind}").digest
    return reference


def _named(encoder: NamedEncoder, statistics: str | None) -> dict[str, Any]:
    return {
        "encoder": encoder.identity,
        "grid": list(encoder.grid),
        "channels": encoder.channels,
        "statistics": statistics,
    }


def _channels_fit(encoder: NamedEncoder, channels: int | None, what: str) -> None:
    if channels is not None and channels != encoder.channels:
        raise UserError(
            f"{what} is for a latent with {channels} channels, but --encoder {encoder.recipe.path} gives "
            f"{encoder.channels}: name the encoder that it was trained on"
        )


def _codec(encoder: NamedEncoder, options: ImportOptions, parents: dict[str, str]) -> RAECodecRecipe:
    return RAECodecRecipe(
        type="rae",
        encoder=encoder.recipe,
        weights=_artifact(options.decoder, "decoder", parents),
        statistics=_artifact(options.statistics, "statistics", parents),
    )


def _decoder(released: Released, options: ImportOptions) -> Import:
    tensors = released.tensors
    parents: dict[str, str] = {}
    recipe, origin = rae.decoder_recipe(tensors, released.config, options.size)
    tokens = rae.decoder_tokens(tensors, released.config, recipe.patch_size)
    embed = tensors.get("decoder_embed.weight")
    channels = int(embed.shape[1]) if embed is not None else None
    wanted = f"a decoder needs to know its encoder ({channels or 'unknown'} channels, {tokens or 'unknown'} tokens)"
    encoder = name_encoder(options.encoder, options.encoder_type, tokens, wanted)
    _channels_fit(encoder, channels, "the decoder")
    codec = _codec(encoder, replace(options, decoder=None), parents)
    facts = {**_named(encoder, parents.get("statistics")), "decoder": recipe.model_dump(mode="json")}
    width, depth, heads, mlp = recipe.shape
    size = f"{width} wide, {depth} deep, {heads} heads, MLP {mlp}, patch {recipe.patch_size}, eps {recipe.norm_eps:g}"
    layout = decoder_layout(recipe, encoder.grid, encoder.channels)
    lines = [f"sizes from {origin}: {size}", *encoder.lines]
    return Import("decoder", tensors, layout, facts, parents=parents, meta=_said(codec), lines=lines)


def _statistics(released: Released, options: ImportOptions) -> Import:
    signs = _SIGNS["statistics"]
    if released.tensors.keys() not in [set(sign) for sign in signs]:
        found = ", ".join(sorted(released.tensors)[:8])
        raise UserError(
            f"{released.path}: statistics are mean and var (or running_mean and running_var); found {found}"
        )
    state = rae.statistics_tensors(released.tensors)
    tokens, channels = state["mean"].shape
    wanted = f"statistics need to know their encoder ({channels} channels, {tokens} tokens)"
    encoder = name_encoder(options.encoder, options.encoder_type, tokens if tokens > 1 else None, wanted)
    _channels_fit(encoder, channels, "the file")
    facts = {key: value for key, value in _named(encoder, None).items() if key != "statistics"}
    codec = _codec(encoder, ImportOptions(), {})
    lines = [f"mean and variance of {tokens} tokens x {channels} channels; nothing missing, nothing unexpected"]
    return Import("statistics", state, None, facts, meta=_said(codec), lines=[*lines, *encoder.lines])


def _said(codec: RAECodecRecipe) -> dict[str, Any]:
    """What a decoder's or statistics' manifest says about the codec that they belong to."""
    return {"codec": codec.model_dump(mode="json", exclude_none=True)}


def _shift_line(shift: float, flow: TimeRecipe, encoder: NamedEncoder) -> str:
    numbers = f"{encoder.grid[0] * encoder.grid[1]} x {encoder.channels}"
    return f"time shift {shift:.4g} " + (f"(sqrt({numbers} / {flow.base_dim}))" if flow.shift is None else "(as given)")


def _no_decoder(options: ImportOptions) -> list[str]:
    if options.decoder is not None:
        return []
    return ["no --decoder: the artifact names none, so that it can be trained on but draws no pictures"]


def _dit(released: Released, options: ImportOptions) -> Import:
    tensors = released.tensors
    lines: list[str] = []
    own = read_own(released.config, "dit", DiTRecipe)
    asked = (options.classes, options.heads, options.head_heads, options.head_depth)
    if own is not None and not any(asked):
        dit, channels = own, rae.dit_channels(tensors)
    else:
        dit, channels, lines = rae.dit_recipe(tensors, *asked)
    positions = tensors.get("pos_embed")
    tokens = None if positions is None else int(positions.shape[1]) * dit.patch_size**2
    wanted = f"a DiT needs to know its encoder ({channels} channels, {tokens or 'unknown'} tokens)"
    encoder = name_encoder(options.encoder, options.encoder_type, tokens, wanted)
    _channels_fit(encoder, channels, "the DiT")
    if options.statistics is None:
        raise UserError(
            "RAE's DiTs model a latent normalised by its statistics: import its stat.pt and give the artifact by "
            f"--statistics (or --statistics {NONE}, if this one was trained without)"
        )
    parents: dict[str, str] = {}
    codec = _codec(encoder, options, parents)
    flow = read_own(released.config, "flow", TimeRecipe) or TimeRecipe(largest=0.999)
    conditioning = dit.conditioning
    recipe = ClassToImageRecipe(dit=dit, codec=codec, flow=flow, num_classes=getattr(conditioning, "num_classes", 0))
    shift = flow.factor(encoder.grid[0] * encoder.grid[1], encoder.channels)
    lines += [_shift_line(shift, flow, encoder)]
    return Import(
        "dit",
        tensors,
        dit_layout(dit, encoder.grid, encoder.channels, "rae"),
        {**_named(encoder, parents.get("statistics")), "shift": shift},
        {CLASS_DESCRIPTION: recipe.model_dump_json(indent=1).encode()},
        parents,
        lines=[*lines, *encoder.lines, *_no_decoder(options)],
    )


def _model(released: Released, options: ImportOptions) -> Import:
    tensors, config = released.tensors, released.config
    if config is None:
        raise UserError(f"{released.path}: there is no config.json beside these weights; give it by --config")
    qwen, dit = scale_rae.qwen_config(config), scale_rae.dit_recipe(config)
    llm = scale_rae.llm_recipe(config, tensors, str(released.folder))
    wanted = f"the model was trained on the encoder that config.json calls {scale_rae.tower(config)!r}"
    encoder = name_encoder(options.encoder, options.encoder_type, llm.queries, wanted)
    _channels_fit(encoder, scale_rae.dit_channels(config, tensors), "the DiT")
    parents: dict[str, str] = {}
    if config.get("diffusion_norm_stats_path") and options.statistics is None:
        raise UserError(
            f"config.json names latent statistics ({config['diffusion_norm_stats_path']}): import that file with "
            "`raexla ckpt import` and give the artifact by --statistics"
        )
    codec = _codec(encoder, options, parents)
    chat, flow = scale_rae.chat_recipe(config, options.length), scale_rae.time_recipe(config)
    recipe = TextToImageRecipe(codec=codec, model=UnifiedRecipe(llm=llm, dit=dit), chat=chat, flow=flow)
    shift = flow.factor(encoder.grid[0] * encoder.grid[1], encoder.channels)
    files = language_files(released.folder, qwen.vocab_size)
    files["config.json"] = config_json(qwen.to_dict())
    files[DESCRIPTION] = recipe.model_dump_json(indent=1).encode()
    lines = [_shift_line(shift, flow, encoder)]
    return Import(
        "model",
        tensors,
        unified_layout(llm, qwen, dit, encoder.grid, encoder.channels),
        {**_named(encoder, parents.get("statistics")), "shift": shift},
        files,
        parents,
        {"released_config": dict(config)},
        [*lines, *encoder.lines, *_no_decoder(options)],
    )


def _dino(released: Released, options: ImportOptions) -> Import:
    del options
    if "patch_embed.proj.weight" not in released.tensors:
        raise UserError(f"{released.path}: not a DINO ViT:\n  missing: patch_embed.proj.weight")
    recipe = rae.dino_recipe(released.tensors, str(released.path))
    return Import("dino", released.tensors, dino_layout(recipe), {"size": recipe.size})


KINDS: dict[str, Callable[[Released, ImportOptions], Import]] = {
    "model": _model,
    "decoder": _decoder,
    "statistics": _statistics,
    "dit": _dit,
    "dino": _dino,
}
"""What can be imported: kind of artifact -> how."""
