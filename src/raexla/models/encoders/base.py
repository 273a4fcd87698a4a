"""The frozen image encoder: pixels in [0, 1] to patch tokens.

B: batch, H and W: image side, S: input side of the network, N = h*w: patches (row-major), C: width,
P: CLS and register tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raexla.models.attention import use_kernels
from raexla.models.encoders.recipe import EncoderRecipe, Interpolation
from raexla.nn.resize import Filter, Resize, resize_tokens
from raexla.nn.stack import Stacked
from raexla.recipe import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder(Stacked):
    """A Hugging Face vision transformer as `image [B, 3, H, W] in [0, 1] -> tokens [B, N, C]`.

    It resizes and normalises its own pixels, drops CLS and register tokens and applies the final norm that its family
    is released with. It is frozen and stays in eval mode; gradients still flow through it to the image.

    Attributes:
        model: the transformers module; the `kernel` of each attention layer may be swapped by a runtime.
        grid: (h, w) of the patch tokens. channels: C. input_size: S. patch_size: side of a patch in pixels.
        image_size: side H = W of the images that it takes (matrices for resizing are made for one size).
        mean, std: the pixel normalisation, three numbers each.
        depth: number of blocks.
        has_registers, has_swiglu: which optional parameters there are (for the sharding table).
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    position_mode: Interpolation = "bicubic"

    def __init__(self, model: "PreTrainedModel", recipe: EncoderRecipe, image_size: int | None = None) -> None:
        super().__init__()
        config = model.config
        use_kernels(model)
        self.model = model
        self.recipe = recipe
        self.channels: int = config.hidden_size
        self.patch_size: int = _side(config.patch_size)
        self.native_size: int = _side(config.image_size)
        self.input_size: int = recipe.input_size or self.native_size
        self.depth: int = config.num_hidden_layers
        self.eps: float = config.layer_norm_eps
        if recipe.channels is not None and recipe.channels != self.channels:
            raise UserError(
                f"{recipe.path}: this encoder is {self.channels} wide, the recipe asks for channels: {recipe.channels}"
            )
        if self.input_size % self.patch_size:
            raise UserError(
                f"encoder input_size {self.input_size} is no multiple of the patch size {self.patch_size} "
                f"of {recipe.path}"
            )
        if recipe.sum_last > self.depth:
            raise UserError(f"encoder sum_last {recipe.sum_last} is more than the {self.depth} blocks of {recipe.path}")
        self.has_registers: bool = getattr(config, "num_register_tokens", 0) > 0
        self.has_swiglu: bool = getattr(config, "use_swiglu_ffn", False)
        side = self.input_size // self.patch_size
        native = self.native_size // self.patch_size
        self.grid: tuple[int, int] = (side, side)
        self.image_size: int = image_size or self.input_size
        self.resize = _resize(self.image_size, self.input_size, recipe.resize)
        self.position_resize = _resize(native, side, self.position_mode)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Encoder":
        """Stays in eval mode whatever is asked: the encoder is frozen."""
        del mode
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens [B, N, C] of `image` [B, 3, H, W] in [0, 1]."""
        return self.tokens(self.prepare(image))

    def prepare(self, image: Tensor) -> Tensor:
        """What the network sees [B, 3, S, S]: `image` [B, 3, H, W] resized to a square and normalised."""
        planes = zip(self.resize(image).unbind(1), self.mean, self.std, strict=True)
        return torch.stack([(plane - mean) / std for plane, mean, std in planes], dim=1)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Final tokens [B, N, C] from normalised `pixels` [B, 3, S, S]."""
        last = range(self.depth - self.recipe.sum_last + 1, self.depth + 1)
        return self.final_norm(torch.stack(self._blocks(pixels, last)).sum(0))

    def features(self, image: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Patch tokens [B, N, C] after each of the blocks `layers`, without the final norm, in the order asked.

        Block numbers count from 1; 0 is the embedding; negative ones count from the last block (-1).
        """
        wanted = [layer if layer >= 0 else self.depth + 1 + layer for layer in layers]
        for layer, given in zip(wanted, layers, strict=True):
            if not 0 <= layer <= self.depth:
                raise UserError(f"encoder block {given} was asked for, {self.recipe.path} has {self.depth}")
        return self._blocks(self.prepare(image), wanted)

    def final_norm(self, tokens: Tensor) -> Tensor:
        """LayerNorm over channels without affine, in float32."""
        return F.layer_norm(tokens.float(), (self.channels,), eps=self.eps)

    def _blocks(self, pixels: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        hidden, extra = self.embed(pixels)
        blocks, outputs, done = list(self.blocks()), {0: hidden}, 0
        for number in sorted(set(wanted) - {0}):
            hidden = outputs[number] = self.runner(blocks[done:number], hidden, (), {"attention_mask": None})
            done = number
        return [outputs[number][:, extra:] for number in wanted]

    def embed(self, pixels: Tensor) -> tuple[Tensor, int]:
        """Input of the first block [B, P + N, C] and P, the tokens that are no patches."""
        raise NotImplementedError

    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        raise NotImplementedError

    def _positions(self, table: Tensor) -> Tensor:
        """`table` [1, N0, C], learned on the native grid, interpolated to the grid of this input size [1, N, C]."""
        resize = self.position_resize
        if resize.size_in == resize.size_out:
            return table
        return resize_tokens(table, resize.size_in, resize.rows, resize.columns)


def _resize(side_in: int, side_out: int, mode: Interpolation) -> Resize:
    kernel: Filter = "bilinear" if mode == "bilinear" else "bicubic"
    return Resize((side_in, side_in), (side_out, side_out), kernel, antialias=mode == "bicubic_antialias")


def _side(size: int | Sequence[int]) -> int:
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise UserError(f"an encoder with non-square sizes {tuple(size)} is not supported: all are square here")
    return size[0]
