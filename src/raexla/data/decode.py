"""Image bytes -> upright RGB, or a typed refusal.

A picture that a viewer can show is used, whatever its mode: CMYK, palette, 16-bit, with alpha (over white), rotated by
EXIF, animated (first frame). Only what can't be decoded is refused. Pillow is kept to raster formats: no format that
starts another program (EPS) is ever tried. Plain JPEGs take a shorter way to the same pixels.
"""

import io
import struct
import zlib

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from raexla.data.sample import Refused

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 89_478_485
"""Pictures of more pixels are refused before they are decoded (Pillow's own warning limit, 256 MiB of RGB)."""

_EXIF_ORIENTATION = 0x0112
_JPEG = b"\xff\xd8\xff"
_MAY_BE_TURNED = (b"Exif\x00", b"tiff:Orientation")
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

    `at_least`: a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 at which both sides have at least this many
    pixels, which saves most of the decoding time of large photographs at slightly different pixels.

    Raises `Refused` with the reasons of `open_image` and `truncated_image`.
    """
    if data.startswith(_JPEG):
        pixels = _plain_jpeg(data, max_pixels, at_least)
        if pixels is not None:
            return pixels
    image = open_image(data, max_pixels)
    try:
        if at_least is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
            scale = _scale(*image.size, at_least)
            image.draft(image.mode, (image.width // scale, image.height // scale))
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


def _plain_jpeg(data: bytes, max_pixels: int, at_least: int | None) -> np.ndarray | None:
    """The pixels that Pillow would give, which decodes with the same library, without its detours: a JPEG of colours or
    grey, undamaged and upright. None for all others, which are Pillow's to convert, turn or refuse."""
    if any(mark in data for mark in _MAY_BE_TURNED):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray") or width * height > max_pixels:
            return None
        scale = 1 if at_least is None else _scale(width, height, at_least)
        if scale == 1:
            return simplejpeg.decode_jpeg(data, "RGB")
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // scale), min_width=-(-width // scale), min_factor=scale
        )
    except ValueError:  # damaged, or of a kind that it doesn't know
        return None


def _scale(width: int, height: int, at_least: int) -> int:
    """By how much a JPEG may be scaled down as it is decoded."""
    return next((scale for scale in (8, 4, 2) if -(-min(width, height) // scale) >= at_least), 1)


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
