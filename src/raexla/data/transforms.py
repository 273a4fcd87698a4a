"""The resize and crop that stages ask for.

By default they are Pillow's, to the bit. `fast` takes torch's antialiased resize of bytes, which is integer arithmetic
and so the same on every machine; it differs from Pillow's by 1 of 255 in few pixels. It also lets a JPEG be decoded at
1/2, 1/4 or 1/8 while that is at least twice as large as what is made of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from raexla.recipe import Recipe


class SquashRecipe(Recipe):
    """Resize both sides to `size`, whatever the aspect ratio (Scale-RAE's SigLIP processor)."""

    type: Literal["squash"] = "squash"
    size: int = Field(gt=0)
    """Side of the square in pixels."""
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    fast: bool = False
    """More than twice the pictures per second at slightly other pixels; see docs/data.md."""


class CentreCropRecipe(Recipe):
    """Resize the shorter side to `resize`, crop the `size` square in the middle (ADM, ImageNet)."""

    type: Literal["centre_crop"]
    size: int = Field(gt=0)
    """Side of the square in pixels."""
    resize: int | None = Field(default=None, gt=0)
    """The shorter side before cropping; `size` if not given."""
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    fast: bool = False
    """More than twice the pictures per second at slightly other pixels; see docs/data.md."""


class RandomCropRecipe(Recipe):
    """Resize the shorter side to `resize`, crop a `size` square where the sample's draw says (RAE decoder training)."""

    type: Literal["random_crop"]
    size: int = Field(gt=0)
    """Side of the square in pixels."""
    resize: int | None = Field(default=None, gt=0)
    """The shorter side before cropping; 1.5 x `size` if not given (384 for 256, as in RAE)."""
    flip: bool = False
    """Mirror left and right with probability one half."""
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    fast: bool = False
    """More than twice the pictures per second at slightly other pixels; see docs/data.md."""


AnyTransformRecipe = SquashRecipe | CentreCropRecipe | RandomCropRecipe
ImageTransformRecipe = Annotated[AnyTransformRecipe, Field(discriminator="type")]

ImageTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""uint8 `[H, W, 3]` -> uint8 `[size, size, 3]`; the generator is the sample's own and is drawn from by crops only."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def build_transform(recipe: AnyTransformRecipe) -> ImageTransform:
    """The function that a recipe describes; it can be pickled."""
    if recipe.fast and recipe.filter == "lanczos":
        raise ValueError("transform: fast knows bilinear and bicubic, filter is lanczos")
    if isinstance(recipe, SquashRecipe):
        return _Squash(recipe)
    shorter = _shorter(recipe)
    if shorter < recipe.size:
        raise ValueError(f"transform: resize {shorter} is smaller than the crop of {recipe.size} pixels")
    return _Crop(recipe, shorter)


def decoded_at_least(recipe: AnyTransformRecipe) -> int | None:
    """The shorter side in pixels that is enough to decode for this transform; None: only all of them will do."""
    return 2 * _shorter(recipe) if recipe.fast else None


def resize(image: np.ndarray, height: int, width: int, filter: str = "bicubic", fast: bool = False) -> np.ndarray:
    """uint8 `[H, W, 3]` -> uint8 `[height, width, 3]`, antialiased; the same array if it has that size already."""
    if image.shape[:2] == (height, width):
        return image
    if not fast:
        return np.asarray(Image.fromarray(image).resize((width, height), _FILTERS[filter]))
    import torch  # not needed otherwise, and worker processes start sooner without

    if not (image.flags.writeable and image.flags.c_contiguous):
        image = image.copy()
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    made = torch.nn.functional.interpolate(planes, (height, width), mode=filter, antialias=True)
    return np.ascontiguousarray(made[0].permute(1, 2, 0).numpy())


def _shorter(recipe: AnyTransformRecipe) -> int:
    if isinstance(recipe, SquashRecipe):
        return recipe.size
    return recipe.resize or (recipe.size * 3 // 2 if isinstance(recipe, RandomCropRecipe) else recipe.size)


@dataclass(frozen=True)
class _Squash:
    recipe: SquashRecipe

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        recipe = self.recipe
        return resize(image, recipe.size, recipe.size, recipe.filter, recipe.fast)


@dataclass(frozen=True)
class _Crop:
    recipe: CentreCropRecipe | RandomCropRecipe
    shorter: int

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        recipe, size = self.recipe, self.recipe.size
        height, width = image.shape[:2]
        scale = self.shorter / min(height, width)
        height, width = max(size, round(height * scale)), max(size, round(width * scale))
        if isinstance(recipe, RandomCropRecipe):
            top, left = (int(rng.integers(slack + 1)) for slack in (height - size, width - size))
        else:
            top, left = (height - size) // 2, (width - size) // 2
        image = resize(image, height, width, recipe.filter, recipe.fast)[top : top + size, left : left + size]
        if isinstance(recipe, RandomCropRecipe) and recipe.flip and rng.integers(2):
            image = image[:, ::-1]
        return image
