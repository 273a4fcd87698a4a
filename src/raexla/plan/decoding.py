"""The numbers of a decoder's recipe in closed form, in one of its phases.

MFU counts the decoder and the encoder's tokens; networks that only judge, and what is run again for them, are counted
apart (`Part.judging_flops`).
"""

from typing import Any

from raexla.models.critic import CriticRecipe, EncoderFeaturesRecipe
from raexla.models.critic.features import DINO_BLOCKS, DINO_INPUT, DINO_SIZES
from raexla.models.flops import decoder_work
from raexla.plan.blocks import kept_of
from raexla.plan.counts import Counts, Part
from raexla.plan.latent import Latent, read_tokens
from raexla.plan.sizes import (
    VGG16_PARAMETERS,
    decoder_parameters,
    dino_parameters,
    head_parameters,
    read_sizes,
)
from raexla.runtime import XlaRecipe
from raexla.train.decoder import DecoderTrainingRecipe
from raexla.train.decoder.networks import check_codec
from raexla.train.decoder.recipe import LpipsRecipe
from raexla.train.decoder.work import VGG_MAPS, Sizes, phases_of, step_work

_UNFUSED = XlaRecipe(attention="sdpa")
"""Networks that judge keep everything, scores included, and compute in float32."""


def count_decoder(recipe: DecoderTrainingRecipe, phase: str | None = None) -> Counts:
    """The numbers of a recipe of the stage decoder.

    Args:
        phase: the last one if not given, which does most.

    Raises:
        UserError: a codec that has no decoder to train, a network whose configuration is not known.
    """
    codec = check_codec(recipe)
    drawn = codec.decoder
    assert drawn is not None
    phase = phase or phases_of(recipe)[-1]
    latent = read_tokens(codec.encoder, recipe.transform.size)
    sizes = Sizes(
        latent.work.total,
        decoder_work(drawn, latent.grid, latent.channels).total,
        latent.tokens,
        latent.channels,
        recipe.transform.size,
    )
    rows = recipe.train.global_batch_images
    work = {name: 2.0 * rows * count for name, count in step_work(recipe, sizes)[phase].items()}
    parts = [
        Part(
            "decoder",
            decoder_parameters(drawn, latent.channels),
            True,
            recipe.optim.decoder.ema is not None,
            work["decoder"],
            judging_flops=work.get("again", 0.0),
            gradients=2 if phase == "adversarial" else 1,
        ),
        Part(
            "encoder",
            latent.parameters,
            False,
            False,
            work["encoder"],
            split=False,
        ),
    ]
    if recipe.losses.perceptual is not None:
        lpips = VGG16_PARAMETERS if isinstance(recipe.losses.perceptual, LpipsRecipe) else 0
        parts.append(Part("perceptual loss", lpips, False, False, 0.0, work.get("perceptual", 0.0), split=False))
    if recipe.critic is not None:
        kind = recipe.critic.features
        own = 0 if isinstance(kind, EncoderFeaturesRecipe) else dino_parameters(kind.size)
        heads = head_parameters(recipe.critic, latent.channels)
        parts.append(Part("critic features", own, False, False, 0.0, work.get("features", 0.0)))
        parts.append(Part("critic heads", heads, True, False, 0.0, work.get("heads", 0.0)))
    width, depth, heads, _ = drawn.shape
    grid = drawn.grid or latent.grid
    stream = 2.0 * depth * width * (grid[0] * grid[1] + 1)
    kept = _kept(recipe, latent, phase)
    return Counts(tuple(parts), rows, recipe.train.total_steps, kept, phase, stream, (heads,))


def _kept(recipe: DecoderTrainingRecipe, latent: Latent, phase: str) -> dict[str, float]:
    """Bytes of a picture that the decoder's backward pass reads."""
    drawn = check_codec(recipe).decoder
    assert drawn is not None
    width, depth, heads, mlp = drawn.shape
    rows, columns = drawn.grid or latent.grid
    read, linears = 2 * (8 * width + 2 * mlp), 2 * (6 * width + mlp)
    kept = {"decoder": kept_of(depth, rows * columns + 1, heads, read, linears, 4 * width, recipe.runtime)}
    encoder = read_sizes(check_codec(recipe).encoder.path)
    if recipe.losses.perceptual is not None and phase != "pixels":
        lpips = isinstance(recipe.losses.perceptual, LpipsRecipe)
        maps = sum(count * (recipe.transform.size >> level) ** 2 for level, count in enumerate(VGG_MAPS))
        # of the drawn picture; and what is compared of the real one
        kept["perceptual"] = 4.0 * maps * 1.4 if lpips else _vit_bytes(encoder, latent.tokens)
    if recipe.critic is not None and phase == "adversarial":
        kept["critic"] = _critic_bytes(recipe.critic, latent, encoder)
    return kept


def _critic_bytes(recipe: CriticRecipe, latent: Latent, encoder: Any) -> float:
    kind = recipe.features
    if isinstance(kind, EncoderFeaturesRecipe):
        width, tokens, taps = latent.channels, latent.tokens, len(kind.layers) + 1
        features = _vit_bytes(encoder, tokens)
    else:
        width, depth, heads, patch = DINO_SIZES[kind.size]
        tokens, taps = (DINO_INPUT // patch) ** 2, len(DINO_BLOCKS) + 1
        features = 2 * kept_of(depth, tokens + 1, heads, 2 * 16 * width, 0.0, 0.0, _UNFUSED)
    return features + 4.0 * taps * tokens * 6 * width


def _vit_bytes(config: Any, tokens: int) -> float:
    width = config.hidden_size
    mlp = getattr(config, "intermediate_size", None) or int(width * config.mlp_ratio)
    read = 2 * (8 * width + 2 * mlp)
    return 2 * kept_of(config.num_hidden_layers, tokens, config.num_attention_heads, read, 0.0, 0.0, _UNFUSED)
