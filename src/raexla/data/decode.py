"""Image bytes -> upright RGB, or a typed refusal; and the resize and crop that stages ask for.

A picture that a viewer can show is used, whatever its mode: CMYK, palette, 16-bit, with alpha (over white), rotated by
EXIF, animated (first frame). Only what can't be decoded is refused. Pillow is kept to raster formats: no format that
starts another program (EPS) is ever tried.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from raexla.data.sample import Refused
from raexla.recipe import Recipe

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 89_478_485
"""Pictures of more pixels are refused before they are decoded (Pillow's own warning limit, 256 MiB of RGB)."""

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Everything that Pillow's decoders and EXIF reader were seen to raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    MemoryError,
    AttributeError,
    struct.error,
    zlib.error,
)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open without decoding: size, mode and format are known afterwards.

    Raises `Refused`: `empty_image`, `not_an_image`, `image_too_large`, `undecodable_image`.
    """
    if not data:
        raise Refused("empty_image", "0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_known_formats())
    except UnidentifiedImageError:
        raise Refused("not_an_image", f"{len(data)} bytes that start with {data[:8]!r}") from None
    except _BOMBS as error:
        raise Refused("image_too_large", str(error)) from None
    except _DECODE_ERRORS as error:
        raise _refusal(error) from None
    width, height = image.size
    if width * height > max_pixels:
        raise Refused("image_too_large", f"{width}x{height} = {width * height} pixels, limit {max_pixels}")
    if width * height == 0:
        raise Refused("empty_image", f"{width}x{height}")
    return image


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> np.ndarray:
    """Decode to uint8 RGB `[H, W, 3]`, upright.

    `at_least`: the decoder may scale a JPEG down by 2, 4 or 8 while both sides stay at least this many pixels, which
    saves most of the decoding time of large photographs at slightly different pixels.

    Raises `Refused` with the reasons of `open_image` and `truncated_image`.
    """
    image = open_image(data, max_pixels)
    try:
        if at_least is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
            image.draft(image.mode, (at_least, at_least))
        image.load()
    except _BOMBS as error:
        raise Refused("image_too_large", str(error)) from None
    except _DECODE_ERRORS as error:
        raise _refusal(error) from None
    upright = _UPRIGHT.get(_orientation(image))
    try:
        rgb = to_rgb(image)
        if upright is not None:
            rgb = rgb.transpose(upright)
    except _DECODE_ERRORS as error:
        raise _refusal(error) from None
    return np.asarray(rgb)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow's to `RGB`: alpha over white, 16 bits scaled to 8, the rest by Pillow's conversion."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_deep_to_8_bit(image)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


class SquashRecipe(Recipe):
    """Resize both sides to `size`, whatever the aspect ratio (Scale-RAE's SigLIP processor)."""

    type: Literal["squash"] = "squash"
    size: int = Field(gt=0)
    """Side of the square in pixels."""
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"


class CentreCropRecipe(Recipe):
    """Resize the shorter side to `resize`, crop the `size` square in the middle (ADM, ImageNet)."""

    type: Literal["centre_crop"]
    size: int = Field(gt=0)
    """Side of the square in pixels."""
    resize: int | None = Field(default=None, gt=0)
    """The shorter side before cropping; `size` if not given."""
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"


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


ImageTransformRecipe = Annotated[SquashRecipe | CentreCropRecipe | RandomCropRecipe, Field(discriminator="type")]

ImageTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""uint8 `[H, W, 3]` -> uint8 `[size, size, 3]`; the generator is the sample's own and is drawn from by crops only."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def build_transform(recipe: SquashRecipe | CentreCropRecipe | RandomCropRecipe) -> ImageTransform:
    """The function that a recipe describes. Resizing is Pillow's, antialiased."""
    size, resample = recipe.size, _FILTERS[recipe.filter]

    def squash(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if image.shape[:2] == (size, size):
            return image
        return np.asarray(Image.fromarray(image).resize((size, size), resample))

    if isinstance(recipe, SquashRecipe):
        return squash

    random = isinstance(recipe, RandomCropRecipe)
    shorter = recipe.resize or (size * 3 // 2 if random else size)
    if shorter < size:
        raise ValueError(f"transform: resize {shorter} is smaller than the crop of {size} pixels")

    def crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        scale = shorter / min(height, width)
        height, width = max(size, round(height * scale)), max(size, round(width * scale))
        if random:
            top, left = (int(rng.integers(slack + 1)) for slack in (height - size, width - size))
        else:
            top, left = (height - size) // 2, (width - size) // 2
        if image.shape[:2] != (height, width):
            image = np.asarray(Image.fromarray(image).resize((width, height), resample))
        image = image[top : top + size, left : left + size]
        if isinstance(recipe, RandomCropRecipe) and recipe.flip and rng.integers(2):
            image = image[:, ::-1]
        return image

    return crop


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or where the EXIF block is damaged."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except _DECODE_ERRORS:
        return 1


def _deep_to_8_bit(image: Image.Image) -> np.ndarray:
    """Grey of 16 or 32 bits or float -> uint8 `[H, W]`. Integers above 255 are taken as 16-bit, floats up to 1 as
    0..1."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16"):
        scale = 1 / 257
    elif image.mode == "F":
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
    else:
        scale = 1 / 257 if values.max(initial=0.0) > 255 else 1.0
    return np.clip(np.nan_to_num(values) * scale + 0.5, 0, 255).astype(np.uint8)


def _refusal(error: BaseException) -> Refused:
    said = str(error) or type(error).__name__
    cut = any(word in said.lower() for word in ("truncated", "unexpected end", "end of file"))
    return Refused("truncated_image" if cut else "undecodable_image", said)
