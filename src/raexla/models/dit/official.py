"""The released DiTs' state dicts <-> ours: a rename, one reshape, and the tables that follow from the sizes.

Two layouts: `scale_rae` (`LightningDiT` and `LightningDDT` of ZitengWangNYU/Scale-RAE; keys without the checkpoint's
prefix `diff_head.model.`) and `rae` (`LightningDiT` and `DiTwDDTHead` of bytetriper/RAE). They call the same things
by exchanged names: RAE's `s_embedder` is the backbone's and `x_embedder` the head's, Scale-RAE's the other way round.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from raexla.models.dit.model import LightningDiT
from raexla.models.dit.recipe import ClassConditioning, DiTRecipe
from raexla.models.official import Derived, KeyReport, ReleasedLayout, Shape, entries_of
from raexla.nn.positions import sincos_2d
from raexla.nn.rope import rope_2d
from raexla.nn.timestep import fourier_frequencies

Layout = Literal["scale_rae", "rae"]
LAYOUT_NAMES: dict[Layout, str] = {"scale_rae": "Scale-RAE", "rae": "RAE"}

# official name inside a block -> ours; each stands for .weight and .bias, except the norms, which have no bias
_BLOCK = {
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.w12": "mlp.w12",
    "mlp.w3": "mlp.w3",
    "adaLN_modulation.1": "adaln.linear",
}
_BLOCK_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_QK_NORMS = {"attn.q_norm": "attn.q_norm", "attn.k_norm": "attn.k_norm"}
_ENDS = {
    "t_embedder.mlp.0": "t_embedder.mlp.0",
    "t_embedder.mlp.2": "t_embedder.mlp.2",
    "final_layer.linear": "final_layer.linear",
    "final_layer.adaLN_modulation.1": "final_layer.adaln.linear",
}
_END_NORMS = {"final_layer.norm_final": "final_layer.norm"}
_BLOCKS_NAME: dict[Layout, str] = {"scale_rae": "dit_blocks", "rae": "blocks"}
# layout -> official names of the backbone's and of the head's patch embedding, where there is a head
_EMBEDDERS: dict[Layout, tuple[str, str]] = {
    "scale_rae": ("x_embedder.proj", "s_embedder.proj"),
    "rae": ("s_embedder.proj", "x_embedder.proj"),
}
_ROPES: dict[Layout, tuple[str, str]] = {
    "scale_rae": ("enc_rope", "dec_rope"),
    "rae": ("enc_feat_rope", "dec_feat_rope"),
}


def default_layout(recipe: DiTRecipe) -> Layout:
    """Which code base a DiT of this kind comes from: class-conditional ones from RAE."""
    return "rae" if isinstance(recipe.conditioning, ClassConditioning) else "scale_rae"


def key_map(recipe: DiTRecipe, layout: Layout) -> dict[str, str]:
    """Official key -> ours, for every key that carries weights."""
    both = dict(_ENDS)
    norms = dict(_END_NORMS)
    if recipe.head is None:
        both["x_embedder.proj"] = "x_embedder.proj"
    else:
        backbone, head = _EMBEDDERS[layout]
        both |= {backbone: "x_embedder.proj", head: "head.x_embedder.proj"}
        if recipe.head.width != recipe.width:
            both["s_projector"] = "head.projector"
    total = recipe.depth + (recipe.head.depth if recipe.head is not None else 0)
    for index in range(total):
        ours = f"blocks.{index}" if index < recipe.depth else f"head.blocks.{index - recipe.depth}"
        theirs = f"{_BLOCKS_NAME[layout]}.{index}"
        both |= {f"{theirs}.{a}": f"{ours}.{b}" for a, b in _BLOCK.items()}
        block_norms = _BLOCK_NORMS | (_QK_NORMS if recipe.qk_norm else {})
        norms |= {f"{theirs}.{a}": f"{ours}.{b}" for a, b in block_norms.items()}
    keys = {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in both.items() for leaf in ("weight", "bias")}
    keys |= {f"{a}.weight": f"{b}.weight" for a, b in norms.items()}
    if isinstance(recipe.conditioning, ClassConditioning):
        keys["y_embedder.embedding_table.weight"] = "y_embedder.embedding_table.weight"
    elif recipe.condition_dropout > 0:
        keys["y_embedder.dropout_embedding"] = "y_embedder.dropout_embedding"
    if layout == "rae":
        keys["t_embedder.W"] = "t_embedder.W"
    return keys


def _table_makers(recipe: DiTRecipe, grid: tuple[int, int], layout: Layout) -> dict[str, Derived]:
    """The official keys that follow from the sizes alone: positions [1, N, C] and rotations [N, D]."""
    patch_grid = (grid[0] // recipe.patch_size, grid[1] // recipe.patch_size)
    tokens = patch_grid[0] * patch_grid[1]
    positions = partial(sincos_2d, patch_grid, recipe.width)
    tables = {"pos_embed": Derived((1, tokens, recipe.width), lambda: positions()[None])}
    ropes = {"feat_rope": recipe.width // recipe.heads}
    if recipe.head is not None and recipe.head.wiring != "classic":
        encoder, decoder = _ROPES[layout]
        ropes = {encoder: recipe.width // recipe.heads, decoder: recipe.head.width // recipe.head.heads}
    for name, head_channels in ropes.items():
        for number, leaf in enumerate(("cos", "sin")):
            make = partial(_rotation, patch_grid, head_channels, number)
            tables[f"{name}.freqs_{leaf}"] = Derived((tokens, head_channels), make)
    return tables


def _rotation(grid: tuple[int, int], head_channels: int, number: int) -> Tensor:
    return rope_2d(grid, head_channels)[number]


def derived_tables(recipe: DiTRecipe, grid: tuple[int, int], layout: Layout) -> dict[str, Tensor]:
    """The tables that an official file holds, though they follow from the sizes, by key."""
    return {key: item.table() for key, item in _table_makers(recipe, grid, layout).items() if item.table is not None}


def released_layout(
    recipe: DiTRecipe, grid: tuple[int, int], channels: int, layout: Layout | None = None
) -> ReleasedLayout:
    """The official state dict of a DiT on a latent of `grid` (rows, columns) and `channels`.

    The `scale_rae` layout does not store the Fourier frequencies; they come from the released rule.
    """
    layout = layout or default_layout(recipe)
    with torch.device("meta"):
        model = LightningDiT(recipe, grid, channels)
    names = key_map(recipe, layout)
    patch = (channels, recipe.patch_size, recipe.patch_size)
    shapes: dict[str, Shape] = {
        key: (model.get_parameter(names[key]).shape[0], *patch)
        for key in ("x_embedder.proj.weight", "s_embedder.proj.weight")
        if key in names
    }
    head = "" if recipe.head is None else f" with a DDT head, {recipe.head.width} wide, {recipe.head.depth} deep"
    return ReleasedLayout(
        f"{LAYOUT_NAMES[layout]}'s DiT, {recipe.width} wide, {recipe.depth} deep, {recipe.heads} heads{head}",
        entries_of(model, names, shapes),
        _table_makers(recipe, grid, layout),
        {"t_embedder.W": fourier_frequencies} if layout == "scale_rae" else {},
    )


def check_official(
    state: Mapping[str, Tensor],
    recipe: DiTRecipe,
    grid: tuple[int, int],
    channels: int,
    layout: Layout | None = None,
) -> KeyReport:
    """Compare an official state dict with what the recipe builds. Tensors may be on `meta`."""
    return released_layout(recipe, grid, channels, layout).check(state)


def from_official(
    state: Mapping[str, Tensor],
    recipe: DiTRecipe,
    grid: tuple[int, int],
    channels: int,
    layout: Layout | None = None,
) -> dict[str, Tensor]:
    """Our state dict from an official one, strictly: every key accounted for, derived ones checked and dropped.

    Raises UserError that names every missing, unexpected and mis-shaped key and every wrong table.
    """
    released = released_layout(recipe, grid, channels, layout)
    released.check(state).refuse()
    return released.read(state)


def to_official(
    state: Mapping[str, Tensor],
    recipe: DiTRecipe,
    grid: tuple[int, int],
    channels: int,
    layout: Layout | None = None,
) -> dict[str, Tensor]:
    """The official state dict, derived tables included, from ours. The inverse of `from_official`, bit for bit.

    Raises UserError if the Fourier frequencies are not the released rule's and the layout cannot store them.
    """
    return released_layout(recipe, grid, channels, layout).write(state)
