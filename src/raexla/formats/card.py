"""The README of an exported folder, written from the artifact's manifest: only what is known stands in it."""

from collections.abc import Mapping
from typing import Any

from raexla.checkpoint import Artifact

_WHAT = {
    "model": "A text-to-image model on representation latents, in the layout of Scale-RAE's Hugging Face folders",
    "decoder": "A decoder from representation latents to images, in the layout of the released RAE decoders",
    "statistics": "Mean and variance of a representation latent, in the layout of RAE's `stat.pt`",
    "dit": "A class-conditional diffusion transformer on representation latents, in the layout of RAE's DiTs",
    "dino": "A frozen DINO vision transformer for the critic, in the layout of DINO's own files",
}
_TAGS = {"model": "text-to-image", "dit": "unconditional-image-generation", "decoder": "image-to-image"}
_NO_LICENCE = "not stated in the artifact; say it before you publish these weights"


def model_card(artifact: Artifact, form: str, files: Mapping[str, str], name: str, licence: str | None = None) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    Args:
        form: `hf` or `diffusers`.
        files: the exported files' names and sha256.
        name: of the folder.
        licence: of these weights.
    """
    what = _WHAT[artifact.kind]
    if form == "diffusers":
        what = "An autoencoder of a frozen encoder and a trained decoder, as diffusers' `AutoencoderRAE`"
    front = ["library_name: " + ("diffusers" if form == "diffusers" else "raexla")]
    front += [f"pipeline_tag: {_TAGS[artifact.kind]}"] if artifact.kind in _TAGS else []
    front += [f"license: {licence}"] if licence else []
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {name}",
        f"{what}.",
        _table("What it was made for", _facts(artifact)),
        _table("Where it comes from", _origin(artifact)),
        _scores(artifact.meta),
        "## How to load it\n\n" + _loading(artifact.kind, form, name),
        _table("Files (sha256)", dict(files)),
        f"Licence: {licence or _NO_LICENCE}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(artifact: Artifact) -> dict[str, Any]:
    facts = dict(artifact.facts)
    shown: dict[str, Any] = {}
    codec = artifact.meta.get("codec") or (artifact.meta.get("recipe") or {}).get("codec") or {}
    path = (codec.get("encoder") or {}).get("path")
    if "encoder" in facts:
        shown["encoder"] = f"{path} ({facts['encoder']})" if path and path != facts["encoder"] else facts["encoder"]
    if "grid" in facts:
        shown["token grid"] = f"{facts['grid'][0]} x {facts['grid'][1]}"
    if "channels" in facts:
        shown["latent channels"] = facts["channels"]
    if "statistics" in facts:
        shown["latent statistics"] = facts["statistics"] or "none: the latent is not normalised"
    if "shift" in facts:
        shown["time shift"] = f"{facts['shift']:.6g}"
    if "size" in facts:
        shown["size"] = facts["size"]
    for key, value in (facts.get("decoder") or {}).items():
        if value is not None:
            shown[f"decoder {key}"] = value
    return shown


def _origin(artifact: Artifact) -> dict[str, Any]:
    meta = artifact.meta
    imported = meta.get("imported") or {}
    rows: dict[str, Any] = {"artifact": artifact.digest}
    if imported:
        rows["imported from"] = imported.get("from")
        rows |= {f"released file {name}": value for name, value in imported.get("files", {}).items()}
    for key, title in (("recipe_sha256", "recipe"), ("step", "training steps"), ("raexla", "raexla")):
        if key in meta:
            rows[title] = meta[key]
    recipe = meta.get("recipe")
    if isinstance(recipe, Mapping):
        rows |= {"stage": recipe.get("stage"), "seed": (recipe.get("run") or {}).get("seed")}
        if isinstance(recipe.get("init"), Mapping):
            rows["trained from"] = recipe["init"].get("path")
    rows |= {f"parent {kind}": value for kind, value in (meta.get("parents") or {}).items()}
    versions = meta.get("versions")
    if isinstance(versions, Mapping):
        rows["versions"] = ", ".join(f"{key} {value}" for key, value in versions.items() if value)
    return {key: value for key, value in rows.items() if value is not None}


def _scores(meta: Mapping[str, Any]) -> str:
    scores = meta.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        return "No scores stand in the artifact."
    return _table("Scores", scores)


def _table(title: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _loading(kind: str, form: str, name: str) -> str:
    if form == "diffusers":
        code = f'from diffusers import AutoencoderRAE\n\nautoencoder = AutoencoderRAE.from_pretrained("{name}").eval()'
        return (
            f"```python\n{code}\nlatent = autoencoder.encode(image).latent  # image [B, 3, H, W] in [0, 1]\n"
            "image = autoencoder.decode(latent).sample\n```"
        )
    options = {
        "model": " --encoder ENCODER --decoder DECODER_ARTIFACT",
        "decoder": " --encoder ENCODER",
        "statistics": " --encoder ENCODER",
        "dit": " --encoder ENCODER --decoder DECODER_ARTIFACT --statistics STATISTICS_ARTIFACT",
        "dino": "",
    }[kind]
    official = {
        "model": "Scale-RAE's own code loads the folder by its path (`ScaleRAEQwenForCausalLM.from_pretrained`).",
        "decoder": "Scale-RAE reads `config.json` and `model.pt`; RAE takes the latter as `pretrained_decoder_path`.",
        "statistics": "RAE takes `stat.pt` as its `normalization_stat_path`.",
        "dit": "RAE takes `stage2_model.pt` as the `ckpt` of its stage 2.",
        "dino": "RAE takes the file as the path of its discriminator's DINO weights.",
    }[kind]
    return f"```\nraexla ckpt import {name}{options} --out ARTIFACT\n```\n\n{official}"
