"""The released DiTs' state dicts <-> ours: a rename, one reshape, and the tables that follow from the sizes.

Two layouts: `scale_rae` (`LightningDiT` and `LightningDDT` of ZitengWangNYU/Scale-RAE; keys without the checkpoint's
prefix `diff_head.model.`) and `rae` (`LightningDiT` and `DiTwDDTHead` of bytetriper/RAE). They call the same things
by exchanged names: RAE's `s_embedder` is the backbone's and `x_embedder` the head's, Scale-RAE's the other way round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from raexla.models.dit.model import LightningDiT
from raexla.models.dit.recipe import ClassConditioning, DiTRecipe
from raexla.nn.positions import sincos_2d
from raexla.nn.rope import rope_2d
from raexla.nn.timestep import fourier_frequencies
from raexla.recipe import UserError

Layout = Literal["scale_rae", "rae"]

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
TABLE_TOLERANCE = 1e-4
"""Largest difference at which a stored position or rotation table counts as the one that the sizes give."""


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


def derived_tables(recipe: DiTRecipe, grid: tuple[int, int], layout: Layout) -> dict[str, Tensor]:
    """The official keys that follow from the sizes alone: positions [1, N, C] and rotations [N, D]."""
    patch_grid = (grid[0] // recipe.patch_size, grid[1] // recipe.patch_size)
    tables = {"pos_embed": sincos_2d(patch_grid, recipe.width)[None]}
    ropes = {"feat_rope": recipe.width // recipe.heads}
    if recipe.head is not None and recipe.head.wiring != "classic":
        encoder, decoder = _ROPES[layout]
        ropes = {encoder: recipe.width // recipe.heads, decoder: recipe.head.width // recipe.head.heads}
    for name, head_channels in ropes.items():
        cos, sin = rope_2d(patch_grid, head_channels)
        tables |= {f"{name}.freqs_cos": cos, f"{name}.freqs_sin": sin}
    return tables


@dataclass
class OfficialReport:
    """What an official state dict has that the recipe doesn't explain, and the other way round."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mis_shaped: list[str] = field(default_factory=list)
    """"key: [has], expected [wants]"."""
    wrong_tables: list[str] = field(default_factory=list)
    """Derived keys whose values are not what the sizes give: another model."""
    absent_tables: list[str] = field(default_factory=list)
    """Derived keys that are not in the file; no harm."""
    unchecked_tables: list[str] = field(default_factory=list)
    """Derived keys on `meta`, whose values cannot be compared."""

    def problems(self) -> list[str]:
        """One line each; empty if the state dict fits."""
        return (
            [f"missing: {key}" for key in self.missing]
            + [f"unexpected: {key}" for key in self.unexpected]
            + [f"wrong shape: {line}" for line in self.mis_shaped]
            + [f"wrong values: {line}" for line in self.wrong_tables]
        )


def _official_shapes(
    recipe: DiTRecipe, grid: tuple[int, int], channels: int, layout: Layout
) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in LightningDiT(recipe, grid, channels).state_dict().items()}
    shapes = {theirs: ours[name] for theirs, name in key_map(recipe, layout).items()}
    patch = recipe.patch_size
    for key in ("x_embedder.proj.weight", "s_embedder.proj.weight"):
        if key in shapes:
            shapes[key] = (shapes[key][0], channels, patch, patch)
    return shapes


def check_official(
    state: Mapping[str, Tensor],
    recipe: DiTRecipe,
    grid: tuple[int, int],
    channels: int,
    layout: Layout | None = None,
) -> OfficialReport:
    """Compare an official state dict with what the recipe builds. Tensors may be on `meta`."""
    layout = layout or default_layout(recipe)
    shapes = _official_shapes(recipe, grid, channels, layout)
    tables = derived_tables(recipe, grid, layout)
    report = OfficialReport(
        missing=sorted(shapes.keys() - state.keys()),
        unexpected=sorted(state.keys() - shapes.keys() - tables.keys()),
        absent_tables=sorted(tables.keys() - state.keys()),
    )
    for key, shape in (shapes | {key: tuple(table.shape) for key, table in tables.items()}).items():
        if key not in state:
            continue
        if tuple(state[key].shape) != shape:
            report.mis_shaped.append(f"{key}: {list(state[key].shape)}, expected {list(shape)}")
        elif key in tables and state[key].is_meta:
            report.unchecked_tables.append(key)
        elif key in tables:
            difference = float((state[key].float().cpu() - tables[key]).abs().max())
            if not difference <= TABLE_TOLERANCE:
                report.wrong_tables.append(f"{key}: differs from the table for this grid by {difference:.3g}")
    return report


def from_official(
    state: Mapping[str, Tensor],
    recipe: DiTRecipe,
    grid: tuple[int, int],
    channels: int,
    layout: Layout | None = None,
) -> dict[str, Tensor]:
    """Our state dict from an official one, strictly: every key accounted for, derived ones checked and dropped.

    The `scale_rae` layout does not store the Fourier frequencies; they come from the released rule.
    Raises UserError that names every missing, unexpected and mis-shaped key and every wrong table.
    """
    layout = layout or default_layout(recipe)
    problems = check_official(state, recipe, grid, channels, layout).problems()
    if problems:
        raise UserError("\n".join([f"this is not the {layout} DiT that the recipe describes:", *problems]))
    ours = {}
    for theirs, name in key_map(recipe, layout).items():
        ours[name] = state[theirs].flatten(1) if state[theirs].dim() == 4 else state[theirs]
    if layout == "scale_rae":
        ours["t_embedder.W"] = fourier_frequencies()
    return ours


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
    layout = layout or default_layout(recipe)
    if layout == "scale_rae" and not torch.equal(state["t_embedder.W"].float().cpu(), fourier_frequencies()):
        raise UserError(
            "the scale_rae layout does not store the time embedding's frequencies (t_embedder.W), and this model's are "
            "not the ones its reader would make up"
        )
    shapes = _official_shapes(recipe, grid, channels, layout)
    official = {theirs: state[name].reshape(shapes[theirs]) for theirs, name in key_map(recipe, layout).items()}
    return official | derived_tables(recipe, grid, layout)
