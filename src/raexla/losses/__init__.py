"""Losses as functions of tensors; those that need a network are modules that take it as an argument.

Every loss returns what the caller can normalise over the *global* batch: one value a row [B] (the plural names), a mean
over the given rows (all weigh the same, so means of equal parts average), or, for language, a sum and a count. Networks
inside a loss are frozen.
"""

from raexla.losses.adversarial import AdversarialKind, critic_loss, generator_loss
from raexla.losses.balance import adaptive_weight
from raexla.losses.gram import GramNormalisation, gram_loss, gram_losses, gram_matrix
from raexla.losses.language import chunks_of, cross_entropy_sum, linear_cross_entropy_sum
from raexla.losses.perceptual import LPIPS, Vgg16Features, build_lpips, feature_distance, feature_distances, load_lpips
from raexla.losses.reconstruction import l1, l1_distances

__all__ = [
    "LPIPS",
    "AdversarialKind",
    "GramNormalisation",
    "Vgg16Features",
    "adaptive_weight",
    "build_lpips",
    "chunks_of",
    "critic_loss",
    "cross_entropy_sum",
    "feature_distance",
    "feature_distances",
    "generator_loss",
    "gram_loss",
    "gram_losses",
    "gram_matrix",
    "l1",
    "l1_distances",
    "linear_cross_entropy_sum",
    "load_lpips",
]
