"""`raexla ckpt export`: an artifact -> a folder that the official layout's reader (or diffusers) takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from raexla.checkpoint import Artifact, read_artifact
from raexla.checkpoint.artifact import WEIGHTS, artifact_kind
from raexla.checkpoint.files import directory_when_complete, sha256
from raexla.formats import scale_rae
from raexla.formats.card import model_card
from raexla.formats.own import write_own
from raexla.formats.source import config_json
from raexla.formats.stream import write_sharded
from raexla.models.codecs import RAECodecRecipe
from raexla.models.critic import DinoFeaturesRecipe
from raexla.models.critic.official import dino_layout
from raexla.models.decoder import DecoderRecipe
from raexla.models.decoder.official import released_layout as decoder_layout
from raexla.models.dit.official import released_layout as dit_layout
from raexla.models.mllm.build import read_llm_config
from raexla.models.mllm.official import unified_layout
from raexla.models.official import ReleasedLayout
from raexla.recipe import ArtifactReference, UserError
from raexla.sampling.classes import CLASS_DESCRIPTION, ClassToImageRecipe
from raexla.sampling.codec import beside
from raexla.sampling.model import DESCRIPTION, LANGUAGE_FILES, TextToImageRecipe

Format = Literal["hf", "diffusers"]
STATISTICS_FILE = "norm_stats.pt"
_GIB = 2**30


@dataclass(frozen=True)
class ExportOptions:
    """What an artifact doesn't say. Each field is the option of its name."""

    encoder: str | None = None
    encoder_type: str | None = None
    statistics: str | None = None
    shard_gib: float = 5.0
    licence: str | None = None


def export_artifact(source: Path, out: Path, form: Format, options: ExportOptions) -> list[str]:
    """Write the artifact at `source` (or of the run there) as a folder in another layout, with a model card.

    Raises:
        UserError: a kind or a model that the layout has no words for; nothing is written then.
    """
    source = source / "artifact" if (source / "artifact").is_dir() else source
    kind = artifact_kind(source, "ckpt export")
    if out.exists():
        raise UserError(f"--out {out} exists already: remove it or choose another folder")
    if form == "diffusers" and kind != "decoder":
        raise UserError(
            f"{source} is an artifact of kind {kind}: diffusers has a class for autoencoders only (AutoencoderRAE), so "
            "--format diffusers takes a decoder; --format hf writes the official layout"
        )
    if kind not in WRITERS:
        hint = "a Hugging Face folder already" if kind in ("encoder", "language") else "of no released layout"
        raise UserError(
            f"{source} is an artifact of kind {kind}, which is {hint}; {', '.join(WRITERS)} can be exported"
        )
    artifact = read_artifact(ArtifactReference(path=str(source)), kind, "ckpt export")
    with directory_when_complete(out) as folder:
        if form == "diffusers":
            from raexla.formats.diffusers import write_diffusers

            lines = write_diffusers(artifact, folder, options)
        else:
            lines = WRITERS[kind](artifact, folder, options)
        files = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        card = model_card(artifact, form, files, out.name, options.licence)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return [*lines, f"{out}: {', '.join(sorted([*files, 'README.md']))}"]


def artifact_tensors(artifact: Artifact) -> dict[str, Tensor]:
    """The weights as views of the file."""
    with safe_open(artifact.path / WEIGHTS, "pt") as handle:  # type: ignore[no-untyped-call]
        return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118


def _released(artifact: Artifact, layout: ReleasedLayout) -> dict[str, Tensor]:
    """The official state dict. Raises UserError if the artifact does not hold the tensors that its recipe builds."""
    ours = artifact_tensors(artifact)
    wanted = {entry.ours for entry in layout.entries.values()} | layout.made.keys()
    if wanted != ours.keys():
        lines = [f"missing: {name}" for name in sorted(wanted - ours.keys())]
        lines += [f"unexpected: {name}" for name in sorted(ours.keys() - wanted)]
        raise UserError("\n  ".join([f"{artifact.path} does not hold {layout.name}:", *lines]))
    return layout.write(ours)


def _latent(artifact: Artifact) -> tuple[tuple[int, int], int]:
    rows, columns = artifact.facts["grid"]
    return (int(rows), int(columns)), int(artifact.facts["channels"])


def _said(released: Mapping[str, Tensor], layout: ReleasedLayout) -> str:
    numbers = sum(value.numel() for value in released.values())
    return f"{layout.name}: {len(released)} tensors, {numbers:,} numbers"


def decoder_config(recipe: DecoderRecipe, grid: tuple[int, int], channels: int) -> dict[str, Any]:
    """The `config.json` (ViTMAEConfig) beside an official decoder.

    Raises:
        UserError: it draws another grid than its latent's, which that file cannot say.
    """
    if (recipe.grid or grid) != grid or (recipe.position_grid or grid) != grid or grid[0] != grid[1]:
        raise UserError(
            f"this decoder draws {recipe.grid or grid} tokens with positions for {recipe.position_grid or grid} from a "
            f"latent of {grid}; the official config.json has one square grid for all three"
        )
    width, depth, heads, mlp = recipe.shape
    return {
        "architectures": ["GeneralDecoder"],
        "model_type": "vit_mae",
        "hidden_size": channels,
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": depth,
        "decoder_num_attention_heads": heads,
        "decoder_intermediate_size": mlp,
        "patch_size": recipe.patch_size,
        "image_size": grid[0] * recipe.patch_size,
        "num_channels": 3,
        "hidden_act": "gelu",
        "qkv_bias": recipe.qkv_bias,
        "layer_norm_eps": recipe.norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _decoder(artifact: Artifact, folder: Path, options: ExportOptions) -> list[str]:
    del options
    recipe = DecoderRecipe.model_validate(artifact.facts["decoder"])
    grid, channels = _latent(artifact)
    (folder / "config.json").write_bytes(config_json(decoder_config(recipe, grid, channels)))
    layout = decoder_layout(recipe, grid, channels)
    released = _released(artifact, layout)
    torch.save(released, folder / "model.pt")
    return [_said(released, layout)]


def _statistics(artifact: Artifact, folder: Path, options: ExportOptions) -> list[str]:
    del options
    grid, channels = _latent(artifact)
    tensors = artifact_tensors(artifact)
    shape = (channels, *grid) if tensors["mean"].shape[0] == grid[0] * grid[1] else (channels, 1, 1)
    torch.save({name: tensors[name].T.reshape(shape).contiguous() for name in ("mean", "var")}, folder / "stat.pt")
    return [f"mean and variance [channels, rows, columns] = {list(shape)}"]


def _dit(artifact: Artifact, folder: Path, options: ExportOptions) -> list[str]:
    del options
    recipe = _described(ClassToImageRecipe, artifact.path / CLASS_DESCRIPTION)
    head = recipe.dit.head
    if (head is not None and head.wiring != "rae") or recipe.dit.outer_silu != (head is not None):
        raise UserError(
            "RAE's DiTs have a head wired as 'rae' and SiLU around time + class, or no head and no such SiLU: "
            "this one can't be written as one"
        )
    layout = dit_layout(recipe.dit, *_latent(artifact), "rae")
    released = _released(artifact, layout)
    torch.save(released, folder / "stage2_model.pt")
    (folder / "config.json").write_bytes(config_json(write_own(dit=recipe.dit, flow=recipe.flow)))
    return [_said(released, layout)]


def _dino(artifact: Artifact, folder: Path, options: ExportOptions) -> list[str]:
    del options
    size, patch = str(artifact.facts["size"]).split("_")
    layout = dino_layout(DinoFeaturesRecipe(type="dino", size=artifact.facts["size"], path=""))
    released = _released(artifact, layout)
    name = {"S": "small", "B": "base"}[size]
    torch.save(released, folder / f"dino_vit_{name}_patch{patch}_224.pth")
    return [_said(released, layout)]


def _model(artifact: Artifact, folder: Path, options: ExportOptions) -> list[str]:
    recipe = _described(TextToImageRecipe, artifact.path / DESCRIPTION)
    codec = recipe.codec
    if not isinstance(codec, RAECodecRecipe):
        raise UserError(f"this model's codec is a {codec.type}; Scale-RAE's layout is written for RAE codecs only")
    grid, channels = _latent(artifact)
    qwen = read_llm_config(str(artifact.path))
    layout = unified_layout(recipe.model.llm, qwen, recipe.model.dit, grid, channels)
    released = _released(artifact, layout)
    statistics = None
    if codec.statistics is not None:
        found = beside(codec, artifact.path)
        assert isinstance(found, RAECodecRecipe)
        assert found.statistics is not None
        tensors = artifact_tensors(read_artifact(found.statistics, "statistics", "codec.statistics"))
        torch.save({f"running_{name}": tensors[name][None] for name in ("mean", "var")}, folder / STATISTICS_FILE)
        statistics = STATISTICS_FILE
    config = scale_rae.released_config(
        artifact.meta.get("released_config", {}),
        qwen,
        recipe.model.dit,
        recipe.flow,
        recipe.chat,
        encoder=options.encoder or codec.encoder.path,
        channels=channels,
        queries=recipe.model.llm.queries,
        statistics=statistics,
    )
    (folder / "config.json").write_bytes(config_json(config))
    for name in LANGUAGE_FILES:
        if name != "config.json" and (artifact.path / name).is_file():
            (folder / name).write_bytes((artifact.path / name).read_bytes())
    write_sharded(folder, released, int(options.shard_gib * _GIB))
    return [_said(released, layout)]


def _described(kind: Any, file: Path) -> Any:
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UserError(f"{file} can't be read: {str(error).splitlines()[0]}") from error


WRITERS: dict[str, Callable[[Artifact, Path, ExportOptions], list[str]]] = {
    "model": _model,
    "decoder": _decoder,
    "statistics": _statistics,
    "dit": _dit,
    "dino": _dino,
}
"""Kind of artifact -> what writes its official layout into a folder."""
