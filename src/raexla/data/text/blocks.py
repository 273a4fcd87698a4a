"""A block of text: broken into lines at a size and angle that fit, drawn as a mask, coloured so that it can be read."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from raexla.data.text.backgrounds import Colour, Rng, colour
from raexla.data.text.fonts import Face

SMALLEST = 9
"""Pixels an em below which text is not drawn if it can be helped."""
MIN_CONTRAST, LARGE = {"large": 3.0, "small": 4.5}, 18
"""Contrast ratio, from 1 to 21, of text and what lies behind it: WCAG 2's for large text, here from 18 pixels an em on,
and for small."""
_TINIEST = 3
_INK = 32  # of 255: what counts as drawn, when a mask's extent is taken
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True)
class Layout:
    """Text broken into lines, with all that says where its ink goes; sizes in pixels."""

    face: Face
    lines: tuple[str, ...]
    pixels: int
    angle: float
    """Degrees, counter-clockwise."""
    leading: float
    """Distance of base lines, in ems."""
    align: str
    """left, center or right."""


def lay_out(
    text: str, face: Face, room: tuple[float, float], pixels: float, angle: float, leading: float, align: str
) -> Layout:
    """`text` in lines that fit into `room` (width, height) when turned by `angle`; smaller than asked where it must be.

    Where not even `SMALLEST` fits, it is drawn level, then smaller still, with words broken.

    Raises:
        ValueError: it can't fit (see `longest`).
    """
    for degrees, smallest, breaking in ((angle, SMALLEST, False), (0.0, SMALLEST, False), (0.0, _TINIEST, True)):
        size = max(pixels, float(smallest))
        while size >= smallest:
            for width in (1.0, 0.75, 0.5, 0.33):
                lines = _wrap(text, face.at(round(size)), room[0] * width, breaking)
                made = Layout(face, tuple(lines), round(size), degrees, leading, align)
                if lines and _fits(made, room):
                    return made
                if degrees == 0:
                    break
            size *= 0.88
    raise ValueError(f"{len(text)} characters don't fit into {room[0]:.0f} x {room[1]:.0f} pixels")


def longest(size: int) -> int:
    """Characters that surely fit into a picture of `size` pixels at `SMALLEST`."""
    return max(8, int(0.7 * (0.9 * size / (0.6 * SMALLEST)) * (0.9 * size / (1.3 * SMALLEST))))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, breaking: bool) -> list[str]:
    """Lines of at most `width` pixels; none if a word is wider, unless it may be broken."""
    lines: list[str] = []
    line = ""
    words = text.split()
    while words:
        word = words.pop(0)
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
        elif line:
            lines.append(line)
            line = ""
            words.insert(0, word)
        elif breaking and len(word) > 1:
            ends = range(1, len(word))
            fits = max(1, bisect_right(ends, width, key=lambda end: font.getlength(word[:end])))
            lines.append(word[:fits])
            words.insert(0, word[fits:])
        else:
            return []
    return [*lines, line] if line else lines


def _extent(layout: Layout, scale: int = 1) -> tuple[float, float]:
    """Width and height of the lines before they are turned, times `scale`."""
    font = layout.face.at(layout.pixels * scale)
    width = max(font.getlength(line) for line in layout.lines)
    ascent, descent = font.getmetrics()
    step = layout.leading * layout.pixels * scale
    return width, (len(layout.lines) - 1) * step + ascent + descent


def _fits(layout: Layout, room: tuple[float, float]) -> bool:
    width, height = _extent(layout)
    sine, cosine = abs(np.sin(np.radians(layout.angle))), abs(np.cos(np.radians(layout.angle)))
    return bool(width * cosine + height * sine <= room[0] and width * sine + height * cosine <= room[1])


def draw_masks(layout: Layout, strokes: tuple[int, ...], scale: int, corners: np.ndarray | None) -> list[Image.Image]:
    """The layout's ink as masks of one size, a mask for each stroke width in pixels (0: the plain glyphs).

    Args:
        scale: drawn so many times larger and reduced at the end.
        corners: [4, 2] shifts of the corners, as shares of width and height: a view from the side; None: none.
    """
    font = layout.face.at(layout.pixels * scale)
    width, height = _extent(layout, scale)
    pad = (max(strokes) + 2) * scale + layout.pixels * scale // 3  # glyphs reach beyond their advance
    whole = (int(width) + 2 * pad + 1, int(height) + 2 * pad + 1)
    masks = []
    for stroke in strokes:
        mask = Image.new("L", whole, 0)
        draw = ImageDraw.Draw(mask)
        for number, line in enumerate(layout.lines):
            free = width - font.getlength(line)
            x = pad + {"left": 0.0, "center": free / 2, "right": free}[layout.align]
            y = pad + number * layout.leading * layout.pixels * scale
            draw.text((x, y), line, 255, font, stroke_width=stroke * scale)
        if corners is not None:
            mask = _seen_from_the_side(mask, corners)
        if layout.angle:
            mask = mask.rotate(layout.angle, Image.Resampling.BICUBIC, expand=True)
        masks.append(mask.reduce(scale) if scale > 1 else mask)
    return masks


def _seen_from_the_side(mask: Image.Image, corners: np.ndarray) -> Image.Image:
    width, height = mask.size
    square = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    inward = square + corners * (width, height) * [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    rows, values = [], []
    for (x, y), (u, v) in zip(inward, square, strict=True):  # output (x, y) is taken from input (u, v)
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    solved = np.linalg.solve(np.array(rows), np.array(values))
    return mask.transform(mask.size, Image.Transform.PERSPECTIVE, tuple(solved), Image.Resampling.BICUBIC)


def ink_box(mask: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is drawn; all 0 for an empty mask."""
    return mask.point([0] * _INK + [255] * (256 - _INK)).getbbox() or (0, 0, 0, 0)


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance in [0, 1] of sRGB values in [0, 255] [..., 3] (WCAG 2)."""
    value = np.asarray(rgb, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.asarray(linear @ np.array([0.2126, 0.7152, 0.0722]))


def contrast(first: Colour, behind: np.ndarray) -> float:
    """The lowest contrast ratio of a colour with pixels [n, 3]: with their 5th and 95th percentile of luminance."""
    one = float(luminance(np.array(first)))
    low, high = (float(value) for value in np.percentile(luminance(behind), [5, 95]))
    if low < one < high:
        return 1.0
    return min((max(one, other) + 0.05) / (min(one, other) + 0.05) for other in (low, high))


def readable_colour(behind: np.ndarray, pixels: int, rng: Rng, tries: int = 12) -> Colour | None:
    """A random colour that stands out, at `pixels` an em, from the pixels [n, 3] behind it, else black or white, else
    None."""
    needed = MIN_CONTRAST["large" if pixels >= LARGE else "small"]
    for _ in range(tries):
        tried = colour(rng)
        if contrast(tried, behind) >= needed:
            return tried
    best = max((_BLACK, _WHITE), key=lambda tried: contrast(tried, behind))
    return best if contrast(best, behind) >= needed else None


def shadow_of(mask: Image.Image, offset: tuple[int, int], blur: float) -> Image.Image:
    """The mask shifted and blurred, of the same size."""
    shifted = Image.new("L", mask.size, 0)
    shifted.paste(mask, offset)
    return shifted.filter(ImageFilter.GaussianBlur(blur))
