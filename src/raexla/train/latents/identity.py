"""What a latent depends on: two latents are the same if codec and transform are."""

from typing import Any

from raexla.data.latents import differences
from raexla.data.transforms import AnyTransformRecipe, RandomCropRecipe
from raexla.eval.latent_statistics import open_unnormalised
from raexla.models.codecs import AlignTokCodecRecipe, CodecRecipe, RAECodecRecipe
from raexla.recipe import UserError
from raexla.sampling.codec import OpenCodec, open_codec


def open_before_statistics(recipe: CodecRecipe, where: str = "codec") -> OpenCodec:
    """The codec that makes latents as they are stored: without statistics, and without a trained decoder where it has a
    ViT's.

    Raises:
        UserError: parts that can't be opened.
    """
    if isinstance(recipe, (RAECodecRecipe, AlignTokCodecRecipe)):
        return open_unnormalised(recipe, where)
    return open_codec(recipe, where)


def made_by(opened: OpenCodec, transform: AnyTransformRecipe) -> dict[str, Any]:
    """All that stored latents depend on beside the pictures, as JSON values. Latent statistics are none of it."""
    codec, recipe = opened.codec, opened.recipe
    said = {key: value for key, value in opened.facts.items() if key != "statistics"} | {"image_size": codec.image_size}
    if isinstance(recipe, (RAECodecRecipe, AlignTokCodecRecipe)):
        reading = recipe.encoder.model_dump(mode="json", include={"type", "resize", "sum_last"})
        said["reading"] = reading | {"input_size": codec.encoder.input_size}  # type: ignore[union-attr]
    return {"codec": said, "transform": transform.model_dump(mode="json"), "normalised": False}


def refuse_draws(transform: AnyTransformRecipe) -> None:
    """Refuse a transform that gives another picture each time.

    Raises:
        UserError: it draws.
    """
    if isinstance(transform, RandomCropRecipe):
        raise UserError(
            "transform.type is random_crop: it gives another picture each time, a latent is made once; take squash or "
            "centre_crop, or train from the pictures"
        )


def unlike(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Where latents that were made as `found` says are not those that are `wanted`, a line each."""
    return differences({key: found.get(key) for key in wanted}, wanted)
