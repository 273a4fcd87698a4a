"""The codec that a name on the command line means: an artifact, a run, or a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raexla.checkpoint.artifact import MANIFEST, artifact_kind
from raexla.checkpoint.files import read_json
from raexla.models.codecs import AlignTokCodecRecipe, CodecRecipe, RAECodecRecipe
from raexla.recipe import ArtifactReference, Recipe, UserError, load_key
from raexla.sampling.classes import CLASS_DESCRIPTION
from raexla.sampling.codec import beside
from raexla.sampling.model import DESCRIPTION, find_model

_DESCRIBED = {"model": DESCRIPTION, "dit": CLASS_DESCRIPTION}
_TRAINED = ("decoder", "aligntok")


class CodecFile(Recipe):
    """A file that names a codec; a stage's recipe is one too."""

    codec: CodecRecipe


def find_codec(name: str, encoder: str | None = None, where: str = "--codec", draws: bool = True) -> CodecRecipe:
    """The recipe of a codec.

    Args:
        name: a run directory; an artifact of kind decoder, aligntok, model or dit; `nano`; or a YAML file with
            `codec:` (or the codec's own keys).
        encoder: replaces the path of the codec's encoder.
        draws: it must have a trained decoder.

    Raises:
        UserError: nothing there, another kind of artifact, or a codec that has no decoder.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        recipe = load_key(path, CodecFile, "codec").codec
    else:
        recipe = _of_artifact(find_model(name, where), where)
    if encoder is not None:
        if not isinstance(recipe, (RAECodecRecipe, AlignTokCodecRecipe)):
            raise UserError(f"--encoder: {name} is a codec of type {recipe.type}, which has no encoder")
        recipe = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"path": encoder})})
    if draws and isinstance(recipe, (RAECodecRecipe, AlignTokCodecRecipe)) and recipe.weights is None:
        raise UserError(
            f"{where}: {name} names no trained decoder: give a decoder's run or artifact, or write codec.weights"
        )
    return recipe


def _of_artifact(path: Path, where: str) -> CodecRecipe:
    kind = artifact_kind(path, where)
    if kind in _DESCRIBED:
        return beside(_codec_of(read_json(path / _DESCRIBED[kind]), path / _DESCRIBED[kind], where), path)
    if kind not in _TRAINED:
        needed = ", ".join((*_TRAINED, *_DESCRIBED))
        raise UserError(f"{where}: {path} is an artifact of kind {kind}; one of these is needed: {needed}")
    meta = read_json(path / MANIFEST).get("meta") or {}
    said = meta if "codec" in meta else meta.get("recipe") or {}
    recipe = beside(_codec_of(said, path / MANIFEST, where), path)
    return recipe.model_copy(update={"weights": ArtifactReference(path=str(path))})


def _codec_of(description: Mapping[str, Any], file: Path, where: str) -> CodecRecipe:
    if not isinstance(description.get("codec"), dict):
        raise UserError(
            f"{where}: {file} does not say which encoder it belongs to; write a YAML file with the whole codec "
            "(codec: {type, encoder: {type, path}, weights: {path}}) and give that"
        )
    try:
        return CodecFile.model_validate({"codec": description["codec"]}).codec
    except ValidationError as error:
        raise UserError(f"{where}: {file} can't be read: {error.errors()[0]['msg']}") from error
