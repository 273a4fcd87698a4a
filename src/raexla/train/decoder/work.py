"""Multiply-adds of a step of each phase, the networks that only judge included; MFU leaves those out (`obs/timing.py`).

A forward pass counts once, gradients of trained weights and of what flows on once each. In the adversarial phase the
decoder is gone back through twice (lambda needs the two gradients apart), and the perceptual network twice (once to the
last layer alone).
"""

from itertools import pairwise

from raexla.models.codecs import RAECodec
from raexla.models.critic import Critic, DinoFeaturesRecipe
from raexla.models.critic.features import DINO_INPUT, DINO_SIZES
from raexla.models.decoder import ViTDecoder
from raexla.models.flops import Work, decoder_work, encoder_work
from raexla.train.decoder.recipe import DecoderTrainingRecipe, LpipsRecipe

_VGG = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))


def vgg16_work(side: int) -> int:
    """One picture of `side` x `side` pixels through VGG16's convolutions; each block halves the side."""
    return sum(9 * a * b * (side >> block) ** 2 for block, widths in enumerate(_VGG) for a, b in pairwise(widths))


def critic_work(critic: Critic, codec: RAECodec) -> Work:
    """One picture through the critic: `augment` (shifting by matrices), `features`, `heads`."""
    kind, side = critic.recipe.features, codec.output_size
    if isinstance(kind, DinoFeaturesRecipe):
        width, depth, _, patch = DINO_SIZES[kind.size]
        tokens = (DINO_INPUT // patch) ** 2
        blocks = depth * (12 * (tokens + 1) * width**2 + 2 * (tokens + 1) ** 2 * width)
        resizing = 0 if side == DINO_INPUT else 3 * side * DINO_INPUT * (side + DINO_INPUT)
        features = blocks + tokens * 3 * patch**2 * width + resizing
    else:
        width, tokens = codec.channels, codec.grid[0] * codec.grid[1]
        features = encoder_work(codec.encoder).total
    head = tokens * (width**2 * (1 + critic.recipe.kernel) + width)
    shifting = 6 * side**3 if critic.recipe.augment.translation else 0
    return Work(augment=shifting, features=features, heads=critic.features.taps * head)


def step_work(
    recipe: DecoderTrainingRecipe, codec: RAECodec, decoder: ViTDecoder, critic: Critic | None
) -> dict[str, Work]:
    """Phase -> multiply-adds of a step of one picture, by part. The Gram loss's own products are left out (1%)."""
    drawing, encoding = (
        decoder_work(decoder.recipe, codec.grid, codec.channels).total,
        encoder_work(codec.encoder).total,
    )
    judging = 0
    if recipe.losses.perceptual is not None:
        lpips = isinstance(recipe.losses.perceptual, LpipsRecipe)
        judging = vgg16_work(codec.output_size) if lpips else encoder_work(codec.encoder).total
    pixels = Work(encoder=encoding, decoder=3 * drawing)
    phases = {"pixels": pixels, "reconstruction": Work(pixels | {"perceptual": 3 * judging})}
    if critic is not None:
        one = critic_work(critic, codec)
        seen = one["augment"] + one["features"]
        update = encoding + drawing + 2 * seen + 6 * one["heads"]
        phases["critic"] = Work(phases["reconstruction"] | {"critic": recipe.critic_updates * update})
        heard = Work(phases["critic"] | {"adversarial": 2 * (drawing + seen + one["heads"])})
        if recipe.losses.adaptive:
            heard["balance"] = judging
        phases["adversarial"] = heard
    return phases
