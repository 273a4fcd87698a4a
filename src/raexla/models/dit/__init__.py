"""LightningDiT: the diffusion transformer of both papers, conditioned token by token or on a class.

A latent token's condition modulates that token (adaptive layer norm); there is no cross-attention. A wide, shallow DDT
head may follow the backbone. `recipe` says which, `model` builds it, `sizes` has the papers' sizes, `official` renames
the released weights, `sharding` splits the parameters over a mesh.
"""

from raexla.models.dit.initialise import init_weights
from raexla.models.dit.model import LightningDiT
from raexla.models.dit.recipe import ClassConditioning, DDTHeadRecipe, DiTRecipe, TokenConditioning
from raexla.models.dit.sharding import sharding_table
from raexla.models.dit.sizes import SIZES, WIDE_HEAD, WIDE_HEAD_2688

__all__ = [
    "SIZES",
    "WIDE_HEAD",
    "WIDE_HEAD_2688",
    "ClassConditioning",
    "DDTHeadRecipe",
    "DiTRecipe",
    "LightningDiT",
    "TokenConditioning",
    "init_weights",
    "sharding_table",
]
