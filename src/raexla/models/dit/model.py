"""LightningDiT (Yao et al. 2025) as in papers 000 and 001."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.dit.block import Block, FinalLayer
from raexla.models.dit.condition import ClassCondition, TokenCondition
from raexla.models.dit.head import DDTHead
from raexla.models.dit.recipe import ClassConditioning, DiTRecipe
from raexla.nn.patches import PatchEmbed, ungroup_tokens
from raexla.nn.positions import sincos_2d
from raexla.nn.rope import Rope2d
from raexla.nn.stack import BlockStack
from raexla.nn.tables import TableModule
from raexla.nn.timestep import TimestepEmbedder
from raexla.recipe import UserError


class FixedPositions(TableModule):
    """Adds fixed sine-cosine positions (column first) to tokens."""

    table: Tensor

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        self.register_buffer("table", torch.empty(grid[0] * grid[1], width), persistent=False)
        self.reset_tables()

    def reset_tables(self) -> None:
        """Fill the table."""
        self.table.copy_(sincos_2d(self.grid, self.width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        return x + self.table.to(x.dtype)


def check_width(recipe: DiTRecipe, channels: int) -> None:
    """Refuse a DiT that is narrower than the latent token, by paper 001's Theorem 1, unless the recipe allows it.

    What counts is the narrowest way from the noisy latent to the output: the head's, if there is one.
    """
    token = channels * recipe.patch_size**2
    width = recipe.width if recipe.head is None else recipe.head.width
    if width >= token or recipe.allow_narrow:
        return
    what = "The DiT" if recipe.head is None else "The DiT's head"
    raise UserError(
        f"{what} is {width} wide and a latent token has {token} channels: a narrower network predicts the noise in "
        f"{width} directions at most, so that even on a single picture its loss stays above ({token} - {width}) / "
        f"{token} = {(token - width) / token:.2f} (paper 001, Theorem 1). Make the width at least {token}, add a DDT "
        "head that wide (head: in the DiT's recipe), or set allow_narrow: true."
    )


def check_patches(recipe: DiTRecipe, grid: tuple[int, int]) -> None:
    """Refuse a patch size that does not divide the latent's grid."""
    if grid[0] % recipe.patch_size or grid[1] % recipe.patch_size:
        raise UserError(
            f"the DiT's patch_size is {recipe.patch_size}, but the latent has {grid[0]} x {grid[1]} tokens: both must "
            "be multiples of it (1 on representation latents, 2 on VAE latents, 16 on pixels)"
        )


class LightningDiT(nn.Module):
    """Predicts the velocity v = eps - x of a noisy latent.

    Args:
        recipe: what to build.
        grid: (rows, columns) of the latent's tokens.
        channels: channels C of a latent token.

    Raises UserError if it is narrower than a latent token and the recipe doesn't allow that, or if the grid does not
    divide into its patches.
    """

    def __init__(self, recipe: DiTRecipe, grid: tuple[int, int], channels: int) -> None:
        super().__init__()
        check_width(recipe, channels)
        check_patches(recipe, grid)
        self.recipe, self.grid, self.channels = recipe, grid, channels
        patch, width, z = recipe.patch_size, recipe.width, recipe.condition_width
        patch_grid = (grid[0] // patch, grid[1] // patch)
        null = recipe.condition_dropout > 0
        self.x_embedder = PatchEmbed(grid, patch, channels, width)
        self.positions = FixedPositions(patch_grid, width)
        self.rope = Rope2d(patch_grid, width // recipe.heads)
        self.t_embedder = TimestepEmbedder(z)
        self.y_embedder: TokenCondition | ClassCondition
        if isinstance(recipe.conditioning, ClassConditioning):
            self.y_embedder = ClassCondition(recipe.conditioning.num_classes, z, null=null)
        else:
            self.y_embedder = TokenCondition(z, null=null)
        self.blocks = BlockStack(Block(width, recipe.heads, z, qk_norm=recipe.qk_norm) for _ in range(recipe.depth))
        self.head: DDTHead | None = None
        out_width, out_condition = width, z
        if recipe.head is not None:
            self.head = DDTHead(recipe.head, width, grid, patch, channels, qk_norm=recipe.qk_norm)
            out_width = out_condition = recipe.head.width
        self.final_layer = FinalLayer(out_width, out_condition, channels * patch * patch)

    @property
    def condition_channels(self) -> int:
        """Z, what `condition` must have."""
        return self.recipe.condition_width

    @property
    def condition_tokens(self) -> int:
        """How many condition tokens a sample has: one for each transformer token."""
        return self.grid[0] * self.grid[1] // self.recipe.patch_size**2

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, drop: Tensor | None = None) -> Tensor:
        """Velocity of a noisy latent.

        Args:
            x: noisy latent [B, N, C], row-major.
            t: times [B], 0 is data and 1 is noise.
            condition: [B, N / p^2, Z], or labels int [B] for class conditioning.
            drop: bool [B]; where true, the null condition takes the condition's place.

        Returns: [B, N, C].
        """
        time = self.t_embedder(t)
        c = time[:, None] + self.y_embedder(condition, drop)
        if self.recipe.outer_silu:
            c = F.silu(c)
        tokens = self.blocks(self.positions(self.x_embedder(x)), c, rope=self.rope)
        if self.head is not None:
            tokens, c = self.head(x, tokens, time)
        return ungroup_tokens(self.final_layer(tokens, c), self.grid, self.recipe.patch_size)
