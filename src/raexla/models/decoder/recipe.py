"""The decoder's sizes."""

from typing import Literal

from pydantic import Field, model_validator

from raexla.recipe import Recipe

SIZES: dict[str, tuple[int, int, int, int]] = {
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "XL": (1152, 28, 16, 4096),
}  # width, depth, heads, mlp (RAE, configs/decoder)


class DecoderRecipe(Recipe):
    """A ViT decoder: `size` names a released shape, or width, depth, heads and mlp are given one by one."""

    size: Literal["B", "L", "XL"] | None = None
    """ViT-B, ViT-L or ViT-XL; None if the four numbers below are given."""
    width: int | None = Field(default=None, gt=0)
    """Channels inside the decoder, a multiple of 4."""
    depth: int | None = Field(default=None, gt=0)
    """Number of blocks."""
    heads: int | None = Field(default=None, gt=0)
    """Attention heads; divides the width."""
    mlp: int | None = Field(default=None, gt=0)
    """Hidden width of the blocks' MLP."""
    patch_size: int = Field(default=16, gt=0)
    """Side in pixels of what one token draws; apart from the encoder's patch size."""
    grid: tuple[int, int] | None = None
    """Rows and columns of tokens that the decoder draws; the latent's grid if not given, else the embedded tokens are
    resized bilinearly to it (224 -> 378: 16 x 16 tokens to 27 x 27 at patch 14)."""
    position_grid: tuple[int, int] | None = None
    """Rows and columns that the fixed positions are made for; the drawn grid if not given, else they are interpolated
    to it (bicubic). For a decoder that draws another grid than the one that it was trained on."""
    qkv_bias: bool = True
    """Biases of queries, keys and values; all released decoders have them."""
    norm_eps: float = Field(default=1e-12, gt=0)
    """Epsilon of the layer norms (1e-12 in the released decoders)."""

    @model_validator(mode="after")
    def _complete(self) -> "DecoderRecipe":
        given = {"width": self.width, "depth": self.depth, "heads": self.heads, "mlp": self.mlp}
        if self.size is not None:
            extra = [name for name, value in given.items() if value is not None]
            if extra:
                raise ValueError(f"size {self.size!r} already says {', '.join(extra)}: give one or the other")
            return self
        missing = [name for name, value in given.items() if value is None]
        if missing:
            raise ValueError(f"give size (B, L, XL) or all of width, depth, heads, mlp; missing: {', '.join(missing)}")
        width, _, heads, _ = self.shape
        if width % heads or width % 4:
            raise ValueError(f"width {width} is not divisible by heads {heads} and by 4")
        return self

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(width, depth, heads, mlp)."""
        if self.size is not None:
            return SIZES[self.size]
        return self.width or 0, self.depth or 0, self.heads or 0, self.mlp or 0
