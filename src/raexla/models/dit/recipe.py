"""What a recipe says about a DiT."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raexla.models.dit.sizes import HEADS_OF_WIDTH, SIZES, WIDE_HEAD, SizeName
from raexla.recipe import Recipe


def _check_heads(what: str, width: int, heads: int) -> None:
    if width % heads or (width // heads) % 4:
        raise ValueError(f"{what} {width} wide in {heads} heads: the width of a head must be a whole multiple of 4")


class TokenConditioning(Recipe):
    """One condition vector for each latent token (text-to-image)."""

    type: Literal["per_token"] = "per_token"


class ClassConditioning(Recipe):
    """One class label for each picture."""

    type: Literal["class"] = "class"

    num_classes: int = Field(default=1000, ge=1)
    """Classes, without the null class that guidance uses."""


class DDTHeadRecipe(Recipe):
    """A wide, shallow head that sees the noisy latent again and is conditioned on the backbone's output, token by
    token."""

    wiring: Literal["rae", "scale_rae", "classic"] = "scale_rae"
    """The condition of the head, s being the backbone's output. `rae`: SiLU(t + s), projected (paper 001). `scale_rae`:
    SiLU(s), projected (paper 000). `classic`: SiLU(s) as it is, so that the head is as wide as the backbone."""

    width: int = Field(default=WIDE_HEAD.width, ge=4)
    """Channels of the head."""

    depth: int = Field(default=WIDE_HEAD.depth, ge=1)
    """Blocks of the head. In `classic` these come after the backbone's `depth`."""

    heads: int = Field(default=WIDE_HEAD.heads, ge=1)
    """Attention heads of the head; by default what Table 13 of paper 001 has at this width (2688: 21), else 16."""

    @model_validator(mode="before")
    @classmethod
    def _heads_of_the_width(cls, values: Any) -> Any:
        if isinstance(values, dict) and "heads" not in values and (width := values.get("width")) in HEADS_OF_WIDTH:
            return {**values, "heads": HEADS_OF_WIDTH[width]}
        return values

    @model_validator(mode="after")
    def _divides(self) -> "DDTHeadRecipe":
        _check_heads("the head is", self.width, self.heads)
        return self


class DiTRecipe(Recipe):
    """A LightningDiT. Give `size`, or `width`, `depth` and `heads`."""

    type: Literal["lightning"] = "lightning"

    size: SizeName | None = None
    """A size of paper 000, Table 10 or of paper 001, Table 13; it fills in width, depth and heads."""

    width: int = Field(ge=4)
    """Channels of the backbone."""

    depth: int = Field(ge=1)
    """Blocks of the backbone, without the head's."""

    heads: int = Field(ge=1)
    """Attention heads of the backbone."""

    condition_channels: int | None = Field(default=None, ge=1)
    """Channels Z of the condition and of the time embedding; the width by default."""

    patch_size: int = Field(default=1, ge=1)
    """Latent tokens per side of one transformer token: 1 on representation latents, 2 on VAE latents, 16 on pixels."""

    qk_norm: bool = False
    """RMS norm of queries and keys; off in all released models."""

    conditioning: Annotated[TokenConditioning | ClassConditioning, Field(discriminator="type")] = TokenConditioning()
    """Per-token conditions or class labels."""

    condition_dropout: float = Field(default=0.1, ge=0, lt=1)
    """How often training replaces a sample's condition by the null condition; 0 builds none, so no guidance."""

    outer_silu: bool = True
    """SiLU on time + condition, before the one that each modulation has. Scale-RAE and DiT-DH: yes; RAE's plain
    LightningDiT: no."""

    head: DDTHeadRecipe | None = None
    """A DDT head, if any."""

    allow_narrow: bool = False
    """Build it even if it is narrower than a latent token, which by paper 001's Theorem 1 cannot fit the data."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("size") not in SIZES:
            return values
        size = SIZES[values["size"]]
        for key, value in size._asdict().items():
            if values.get(key, value) != value:
                raise ValueError(
                    f"size {values['size']} has {key} {value}, but {key} is given as {values[key]}: drop one of the two"
                )
        return {**values, **size._asdict()}

    @model_validator(mode="after")
    def _consistent(self) -> "DiTRecipe":
        _check_heads("the DiT is", self.width, self.heads)
        if self.head is None:
            return self
        if self.head.wiring == "classic" and self.head.width != self.width:
            raise ValueError(
                f"the classic head is as wide as the backbone ({self.width}), not {self.head.width}; "
                "the wirings rae and scale_rae have heads of their own width"
            )
        if self.head.wiring == "rae" and self.condition_width != self.width:
            raise ValueError(
                f"the rae head adds the time embedding ({self.condition_width} channels) to the backbone's output "
                f"({self.width}): condition_channels must equal width"
            )
        return self

    @property
    def condition_width(self) -> int:
        """Z: `condition_channels`, or the width."""
        return self.width if self.condition_channels is None else self.condition_channels
