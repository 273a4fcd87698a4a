"""The networks of a decoder's training, with their weights; `raexla plan` makes its own, without."""

from dataclasses import dataclass
from typing import Any

import torch

from raexla.losses import LPIPS, load_lpips
from raexla.models.codecs import RAECodec, RAECodecRecipe
from raexla.models.critic import (
    Critic,
    CriticRecipe,
    DinoFeatures,
    EncoderFeatures,
    EncoderFeaturesRecipe,
    load_dino,
)
from raexla.models.critic import init_weights as init_critic
from raexla.models.decoder import ViTDecoder
from raexla.models.decoder import init_weights as init_decoder
from raexla.recipe import UserError
from raexla.sampling.codec import OpenCodec, open_codec
from raexla.train.decoder.recipe import DecoderTrainingRecipe, LpipsRecipe


@dataclass(frozen=True)
class Networks:
    """What is trained, and what it is trained against; not placed yet."""

    opened: OpenCodec
    lpips: LPIPS | None
    critic: Critic | None

    @property
    def codec(self) -> RAECodec:
        """The codec with the decoder that is trained."""
        assert isinstance(self.opened.codec, RAECodec)
        return self.opened.codec

    @property
    def decoder(self) -> ViTDecoder:
        """The decoder."""
        assert self.codec.decoder is not None
        return self.codec.decoder


def check_codec(recipe: DecoderTrainingRecipe) -> RAECodecRecipe:
    """The codec's recipe.

    Raises:
        UserError: another codec than rae, or none that has a decoder's sizes.
    """
    if not isinstance(recipe.codec, RAECodecRecipe) or recipe.codec.decoder is None:
        raise UserError("codec: the stage decoder trains a codec of type rae; give it a decoder's sizes")
    return recipe.codec


def load_networks(recipe: DecoderTrainingRecipe) -> Networks:
    """On the CPU, pretrained ones with their weights; decoder and critic's heads fresh, unless the codec has weights.

    Raises:
        UserError: weights that are missing, parts that don't fit.
    """
    generator = torch.Generator().manual_seed(recipe.run.seed)
    codec = check_codec(recipe)
    opened = open_codec(codec)
    bare = Networks(opened, None, None)
    if codec.weights is None:
        init_decoder(bare.decoder, generator)
    kind = recipe.losses.perceptual
    lpips = load_lpips(kind.backbone) if isinstance(kind, LpipsRecipe) else None
    critic = None
    if recipe.critic is not None:
        dino = recipe.critic.features
        loaded = None if isinstance(dino, EncoderFeaturesRecipe) else load_dino(dino, bare.codec.image_size)
        critic = make_critic(recipe.critic, bare.codec, loaded)
        init_critic(critic, generator)
    return Networks(opened, lpips, critic)


def make_critic(recipe: CriticRecipe, codec: RAECodec, dino: DinoFeatures | None) -> Critic:
    """The critic on DINO's features, or on those of the codec's own encoder."""
    features: Any = dino
    if isinstance(recipe.features, EncoderFeaturesRecipe):
        features = EncoderFeatures(codec.encoder, recipe.features.layers)
    return Critic(features, recipe)
