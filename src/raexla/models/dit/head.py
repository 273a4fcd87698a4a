"""The DDT head (paper 001, sec. 5; paper 000, sec. 5), in the wirings of the two released code bases.

It embeds the noisy latent a second time, at its own width and without fixed positions, and is conditioned on the
backbone's output, token by token.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.dit.block import Block
from raexla.models.dit.recipe import DDTHeadRecipe
from raexla.nn.patches import PatchEmbed
from raexla.nn.rope import Rope2d
from raexla.nn.stack import BlockStack


class DDTHead(nn.Module):
    """Submodules: `x_embedder`, `projector` (an identity where the widths agree), `rope`, `blocks`."""

    def __init__(
        self,
        recipe: DDTHeadRecipe,
        backbone_width: int,
        grid: tuple[int, int],
        patch: int,
        channels: int,
        *,
        qk_norm: bool,
    ) -> None:
        super().__init__()
        width = recipe.width
        self.add_time = recipe.wiring == "rae"
        self.x_embedder = PatchEmbed(grid, patch, channels, width)
        self.projector = nn.Identity() if width == backbone_width else nn.Linear(backbone_width, width)
        self.rope = Rope2d((grid[0] // patch, grid[1] // patch), width // recipe.heads)
        self.blocks = BlockStack(Block(width, recipe.heads, width, qk_norm=qk_norm) for _ in range(recipe.depth))

    def forward(self, x: Tensor, backbone: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Latent x [B, N, C], backbone [B, N', C'], time [B, C'] -> tokens and their condition, each [B, N', width]."""
        condition = backbone + time[:, None] if self.add_time else backbone
        condition = self.projector(F.silu(condition))
        return self.blocks(self.x_embedder(x), condition, rope=self.rope), condition
