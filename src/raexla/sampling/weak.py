"""The weaker model of AutoGuidance (Karras et al. 2024): found, checked against the one that it guides, loaded."""

from pathlib import Path

from raexla.checkpoint.artifact import MANIFEST, artifact_kind
from raexla.checkpoint.files import read_json
from raexla.flow.guidance import AutoGuidanceRecipe
from raexla.recipe import UserError
from raexla.runtime import Runtime
from raexla.sampling.base import ImageModel
from raexla.sampling.classes import ClassToImage, load_class_model
from raexla.sampling.codec import LATENT_FACTS
from raexla.sampling.images import SamplingRecipe
from raexla.sampling.model import find_model, load_model


def open_weak(recipe: SamplingRecipe, strong: ImageModel, runtime: Runtime, where: str = "--weak") -> ImageModel | None:
    """The weaker model that a recipe's guidance names, placed on the devices; None for other guidance or scale 1.

    Raises:
        UserError: see `load_weak`.
    """
    if not isinstance(recipe.guidance, AutoGuidanceRecipe) or recipe.guidance.scale == 1:
        return None
    weak = load_weak(recipe.guidance.weak, strong, where)
    runtime.place(weak.network, weak.table())  # the codec is the strong model's
    return weak


def load_weak(name: str, strong: ImageModel, where: str = "--weak") -> ImageModel:
    """The weaker model, on the CPU; it shares the codec of the one that it guides.

    Both must predict velocities of the same latent from the same requests. Size, prompt layout, number of queries and
    time shift may differ.

    Args:
        name: a run directory or an artifact.
        strong: the model that is guided.
        where: the option or dotted path, for messages.

    Raises:
        UserError: no such model, one of another latent or other requests, or the very model that it should guide.
    """
    path = find_model(name, where)
    by_class = strong.asked_for_by == "class"
    kind, wanted = artifact_kind(path, where), "dit" if by_class else "model"
    if kind in ("dit", "model") and kind != wanted:
        asked = {"dit": "numbered classes", "model": "prompts"}
        raise UserError(f"{where}: {path} draws {asked[kind]}, the model that it should guide draws {asked[wanted]}")
    if kind == wanted:
        _check_latent(path / MANIFEST, strong, where)
    opened = strong.opened
    weak = (
        load_class_model(path, where=where, opened=opened) if by_class else load_model(path, where=where, opened=opened)
    )
    if weak.digest == strong.digest:
        raise UserError(
            f"{where}: {path} is the model that it should guide: give one that was trained less or is smaller"
        )
    if isinstance(weak, ClassToImage) and isinstance(strong, ClassToImage):
        ours, theirs = strong.recipe.num_classes, weak.recipe.num_classes
        if ours != theirs:
            raise UserError(f"{where}: {path} has {theirs} classes, the model that it should guide has {ours}")
    return weak


def _check_latent(manifest: Path, strong: ImageModel, where: str) -> None:
    facts = read_json(manifest).get("facts", {})
    differ = [
        f"{fact} {_short(facts.get(fact))}, not {_short(strong.opened.facts[fact])}"
        for fact in LATENT_FACTS
        if facts.get(fact) != strong.opened.facts[fact]
    ]
    if differ:
        raise UserError(
            f"{where}: {manifest.parent} was trained on another latent than the model that it should guide: "
            f"{'; '.join(differ)}. AutoGuidance needs two models on one codec"
        )


def _short(value: object) -> str:
    """Hashes cut to what tells them apart."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == 64 else text
