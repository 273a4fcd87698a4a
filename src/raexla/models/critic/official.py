"""The official critic (DinoDisc of RAE) and its DINO backbone's files against this project's names."""

import torch

from raexla.models.critic.features import build_dino
from raexla.models.critic.recipe import DinoFeaturesRecipe
from raexla.models.official import Derived, ReleasedLayout, entries_of

# official key of a head -> ours; `{}` stands for the head's number
KEYS: dict[str, str] = {
    f"heads.{{}}.{theirs}.{leaf}": f"heads.{{}}.{ours}.{our_leaf}"
    for theirs, ours, leaves in (
        ("0.0", "enter.conv", "conv"),
        ("0.1", "enter.norm", "norm"),
        ("1.fn.0", "mix.conv", "conv"),
        ("1.fn.1", "mix.norm", "norm"),
        ("2", "out", "conv"),
    )
    for leaf, our_leaf in (
        (("weight_orig", "weight"), ("bias", "bias"), ("weight_u", "u"), ("weight_v", "v"))
        if leaves == "conv"
        else (("weight", "weight"), ("bias", "bias"))
    )
}


def official_names(heads: int) -> dict[str, str]:
    """{official key: our path} of all heads."""
    return {theirs.format(i): ours.format(i) for i in range(heads) for theirs, ours in KEYS.items()}


def dino_layout(recipe: DinoFeaturesRecipe) -> ReleasedLayout:
    """DINO's own files (`dino_vit_small_patch8_224.pth`): the ViT's keys under their own names.

    The pixel scales that the official critic adds may stand in the file; they are fixed and of no use here.
    """
    with torch.device("meta"):
        vit = build_dino(recipe, 224).vit
    scales = {name: Derived((1, 3, 1, 1), ignored=True, written=False) for name in ("x_scale", "x_shift")}
    names = {name: name for name in vit.state_dict()}
    return ReleasedLayout(f"DINO ViT-{recipe.size}", entries_of(vit, names), scales)
