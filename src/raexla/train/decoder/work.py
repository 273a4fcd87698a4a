"""Multiply-adds of a step of each phase, the networks that only judge included; MFU leaves those out (`obs/timing.py`).

A forward pass counts once, gradients of trained weights and of what flows on once each. In the adversarial phase the
decoder is gone back through twice (lambda needs the two gradients apart), and the perceptual network twice (once to the
last layer alone).
"""

from itertools import pairwise
from typing import NamedTuple

from raexla.models.codecs import RAECodec
from raexla.models.critic import CriticRecipe, DinoFeaturesRecipe
from raexla.models.critic.features import DINO_BLOCKS, DINO_INPUT, DINO_SIZES
from raexla.models.decoder import ViTDecoder
from raexla.models.flops import Work, decoder_work, encoder_work
from raexla.train.decoder.recipe import DecoderTrainingRecipe, LpipsRecipe

_VGG = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
VGG_MAPS = tuple(sum(widths[1:]) for widths in _VGG)
"""Channels of all activations of a block, each of which halves the side."""


def vgg16_work(side: int) -> int:
    """One picture of `side` x `side` pixels through VGG16's convolutions; each block halves the side."""
    return sum(9 * a * b * (side >> block) ** 2 for block, widths in enumerate(_VGG) for a, b in pairwise(widths))


class Sizes(NamedTuple):
    """What a step's work follows from: nothing of it has to be built."""

    encoding: int
    """Multiply-adds of one image through the encoder."""
    drawing: int
    """Of one picture through the decoder."""
    tokens: int
    """N of the latent."""
    channels: int
    """C of the latent."""
    side: int
    """Of what is drawn, in pixels."""

    @classmethod
    def of(cls, codec: RAECodec, decoder: ViTDecoder) -> "Sizes":
        """Those of networks."""
        drawing = decoder_work(decoder.recipe, codec.grid, codec.channels).total
        tokens = codec.grid[0] * codec.grid[1]
        return cls(encoder_work(codec.encoder).total, drawing, tokens, codec.channels, codec.output_size)


def critic_work(recipe: CriticRecipe, sizes: Sizes) -> Work:
    """One picture through the critic: `augment` (shifting by matrices), `features`, `heads`."""
    kind = recipe.features
    if isinstance(kind, DinoFeaturesRecipe):
        width, depth, _, patch = DINO_SIZES[kind.size]
        tokens, taps = (DINO_INPUT // patch) ** 2, len(DINO_BLOCKS) + 1
        blocks = depth * (12 * (tokens + 1) * width**2 + 2 * (tokens + 1) ** 2 * width)
        resizing = 0 if sizes.side == DINO_INPUT else 3 * sizes.side * DINO_INPUT * (sizes.side + DINO_INPUT)
        features = blocks + tokens * 3 * patch**2 * width + resizing
    else:
        width, tokens, taps = sizes.channels, sizes.tokens, len(kind.layers) + 1
        features = sizes.encoding
    head = tokens * (width**2 * (1 + recipe.kernel) + width)
    return Work(augment=6 * sizes.side**3 if recipe.augment.translation else 0, features=features, heads=taps * head)


def step_work(recipe: DecoderTrainingRecipe, sizes: Sizes) -> dict[str, Work]:
    """Phase -> multiply-adds of a step of one picture, by network; `again` are the decoder's runs that MFU leaves
    out. The Gram loss's own products are left out (1%)."""
    judging = 0
    if recipe.losses.perceptual is not None:
        lpips = isinstance(recipe.losses.perceptual, LpipsRecipe)
        judging = vgg16_work(sizes.side) if lpips else sizes.encoding
    pixels = Work(encoder=sizes.encoding, decoder=3 * sizes.drawing)
    phases = {"pixels": pixels, "reconstruction": Work(pixels | {"perceptual": 3 * judging})}
    if recipe.critic is not None:
        one, updates = critic_work(recipe.critic, sizes), recipe.critic_updates
        seen = one["augment"] + one["features"]
        critic = {
            "again": updates * sizes.drawing,
            "features": updates * 2 * seen,
            "heads": updates * 6 * one["heads"],
        }
        phases["critic"] = Work(phases["reconstruction"] | critic)
        heard = dict(phases["critic"])
        heard["again"] += 2 * sizes.drawing
        heard["features"] += 2 * seen
        heard["heads"] += 2 * one["heads"]
        heard["perceptual"] += judging if recipe.losses.adaptive else 0
        phases["adversarial"] = Work(heard)
    return phases


def phases_of(recipe: DecoderTrainingRecipe) -> tuple[str, ...]:
    """The phases that a recipe's steps go through, in order; the last is the heaviest."""
    first = {name: recipe.first_step(name) for name in ("perceptual", "critic", "adversarial")}  # type: ignore[arg-type]
    ends = {"pixels": first["perceptual"]}
    if recipe.critic is None:
        ends |= {"reconstruction": recipe.train.total_steps}
    else:
        ends |= {"reconstruction": first["critic"], "critic": first["adversarial"]}
        ends |= {"adversarial": recipe.train.total_steps}
    found, before = [], 0
    for name, end in ends.items():
        end = min(end, recipe.train.total_steps)
        if end > before:
            found.append(name)
        before = max(before, end)
    return tuple(found)
