"""The critic of the decoder's GAN training: a frozen feature network, small trained heads, differentiable augmentation.

As released in RAE (src/disc/dinodisc.py, after StyleGAN-T): DINO patch tokens of several blocks, one spectrally
normalised convolutional head each, logits of all heads and tokens side by side. The feature network is injectable: real
runs use DINO, the nano ones the frozen encoder's own blocks. Draws for the augmentation are arguments.
"""

from raexla.models.critic.augment import AUGMENT_DRAWS, AugmentRecipe, augment
from raexla.models.critic.features import DinoFeatures, EncoderFeatures, FeatureNetwork, build_dino, load_dino
from raexla.models.critic.heads import Critic, CriticHead, SpectralConv1d, init_weights
from raexla.models.critic.recipe import CriticRecipe, DinoFeaturesRecipe, EncoderFeaturesRecipe
from raexla.models.critic.sharding import sharding_table

__all__ = [
    "AUGMENT_DRAWS",
    "AugmentRecipe",
    "Critic",
    "CriticHead",
    "CriticRecipe",
    "DinoFeatures",
    "DinoFeaturesRecipe",
    "EncoderFeatures",
    "EncoderFeaturesRecipe",
    "FeatureNetwork",
    "SpectralConv1d",
    "augment",
    "build_dino",
    "init_weights",
    "load_dino",
    "sharding_table",
]
