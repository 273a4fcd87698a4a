"""One picture of rendered text: a background, one or several blocks of text, a little of what cameras and light do."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from raexla.data.draws import generator
from raexla.data.text.backgrounds import Colour, Rng, colour, draw_background, near
from raexla.data.text.blocks import Layout, draw_masks, ink_box, lay_out, longest, readable_colour, shadow_of
from raexla.data.text.fonts import Fonts
from raexla.data.text.phrases import KINDS, draw_phrase

_MARGIN = 0.04  # of the side, that stays free of text
_SHORT = ("word", "phrase", "sign", "number", "characters")
# largest and smallest size of letters, as shares of the picture's side, by the number of characters
_SIZES = ((6, 0.16, 0.5), (14, 0.1, 0.3), (40, 0.07, 0.2), (120, 0.055, 0.12), (1 << 30, 0.04, 0.075))


@dataclass(frozen=True)
class TextSample:
    """A picture and what stands in it."""

    image: Image.Image
    text: str
    """All that is written, from top to bottom, with single spaces between."""
    record: dict[str, Any]
    """kind, background, and for each block its text, font, pixels (an em), angle, color, effect, box (left, top,
    right, bottom)."""


def render_text(fonts: Fonts, size: int, seed: int, index: int, line: str | None = None) -> TextSample:
    """Sample `index`: a pure function of the arguments (and of the versions of Pillow and of its FreeType).

    Args:
        size: side in pixels.
        line: what to write; drawn from the built-in phrases if not given.

    Raises:
        ValueError: no font has every character of `line`, or it doesn't fit.
    """
    rng = generator(seed, "rendered text", str(index), 0)
    kind, text = ("line", " ".join(line.split())) if line is not None else _phrase(size, rng)
    name, image = draw_background(size, rng)
    blocks = _several(image, fonts, rng) if kind in _SHORT and rng.random() < 0.2 else []
    if blocks:
        kind = "several"
    while not blocks:
        if (found := _block(image, fonts, text, rng)) is not None:
            blocks = [found]
        elif line is not None:
            raise ValueError(f"no font has every character of {line!r}")
        else:
            kind, text = _phrase(size, rng)  # a built-in phrase that no font here has
    blocks.sort(key=lambda block: (block["box"][1], block["box"][0]))
    image = _seen(image, rng)
    written = " ".join(block["text"] for block in blocks)
    return TextSample(image, written, {"kind": kind, "background": name, "blocks": blocks})


def _phrase(size: int, rng: Rng, kinds: tuple[str, ...] = tuple(KINDS)) -> tuple[str, str]:
    """(kind, text) that fits into the picture."""
    while True:
        kind, text = draw_phrase(rng, kinds)
        if len(text) <= longest(size):
            return kind, text


def _several(image: Image.Image, fonts: Fonts, rng: Rng) -> list[dict[str, Any]]:
    """Two to five short texts that don't touch; none if fewer than two find room."""
    size = image.width
    canvas = image.copy()
    blocks: list[dict[str, Any]] = []
    for _ in range(int(rng.integers(2, 6))):
        text = _phrase(size, rng, _SHORT)[1]
        found = _block(canvas, fonts, text, rng, 0.55 * size, [block["box"] for block in blocks])
        if found is not None:
            blocks.append(found)
    if len(blocks) < 2:
        return []
    image.paste(canvas)
    return blocks


def _block(
    image: Image.Image, fonts: Fonts, text: str, rng: Rng, room: float | None = None, taken: list[Any] | None = None
) -> dict[str, Any] | None:
    """Draws a block on `image` and tells of it; None if no font has the characters, or there is no room."""
    face = fonts.draw(text, rng)
    if face is None:
        return None
    size = image.width
    layout = _layout(text, face, size, room or size * (1 - 2 * _MARGIN) * 0.95, rng)
    effect = str(rng.choice(["none", "shadow", "outline", "plate", "graded"], p=[0.62, 0.12, 0.11, 0.08, 0.07]))
    stroke = max(1, layout.pixels // 14) if effect == "outline" else 0
    warped = bool(rng.random() < 0.15)
    corners = rng.uniform(0, 0.09, (4, 2)) if warped else None
    scale = 2 if warped or layout.angle or rng.random() < 0.5 else 1
    masks = draw_masks(layout, (0, stroke) if stroke else (0,), scale, corners)
    box = ink_box(masks[-1])
    masks = [mask.crop(box) for mask in masks]
    place = _place(masks[0].size, size, taken or [], rng)
    if place is None:
        return None
    width, height = masks[0].size
    where = (place[0], place[1], place[0] + width, place[1] + height)
    pixels = _paint(image, masks, where, effect, layout, rng)
    return {
        "text": text, "lines": len(layout.lines), "font": face.file.name, "pixels": layout.pixels,
        "angle": round(layout.angle, 2), "color": list(pixels), "effect": effect,
        "from_the_side": warped, "box": list(where),
    }  # fmt: skip


def _layout(text: str, face: Any, size: int, room: float, rng: Rng) -> Layout:
    low, high = next((low, high) for most, low, high in _SIZES if len(text) <= most)
    pixels = size * float(np.exp(rng.uniform(np.log(low), np.log(high))))
    draw = rng.random()
    angle = 0.0 if draw < 0.55 else float(rng.uniform(-18, 18)) if draw < 0.9 else float(rng.uniform(-90, 90))
    align = str(rng.choice(["left", "center", "right"], p=[0.45, 0.45, 0.1]))
    width = room * (1 if len(text) <= 14 else float(rng.uniform(0.6, 1)))
    leading = float(rng.uniform(1.05, 1.5))
    try:
        return lay_out(text, face, (width, room), pixels, angle, leading, align)
    except ValueError:
        return lay_out(text, face, (room, room), pixels, angle, leading, align)


def _place(extent: tuple[int, int], size: int, taken: list[Any], rng: Rng) -> tuple[int, int] | None:
    """Where a block goes: inside the margin (or in its middle, if it is larger), touching nothing that is taken."""
    margin = int(size * _MARGIN)
    for _ in range(30):
        x, y = (
            int(rng.integers(margin, free + 1)) if (free := size - margin - side) >= margin else (size - side) // 2
            for side in extent
        )
        box = (x - margin, y - margin, x + extent[0] + margin, y + extent[1] + margin)
        if not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            return x, y
    return None


def _paint(
    image: Image.Image,
    masks: list[Image.Image],
    where: tuple[int, int, int, int],
    effect: str,
    layout: Layout,
    rng: Rng,
) -> Colour:
    behind = np.asarray(image.crop(where)).reshape(-1, 3)
    ink = readable_colour(behind, layout.pixels, rng)
    if effect == "plate" or ink is None:
        plate = colour(rng)
        grow = max(2, layout.pixels // 4)
        box = (where[0] - grow, where[1] - grow, where[2] + grow, where[3] + grow)
        ImageDraw.Draw(image).rounded_rectangle(box, int(rng.integers(0, grow + 1)), plate)
        ink = readable_colour(np.array([plate]), layout.pixels, rng)
        assert ink is not None  # black or white has 4.58 or more against any one colour
    light = sum(ink) > 3 * 127
    if effect == "shadow":
        reach = max(1, layout.pixels // 12)
        offset = (int(rng.integers(-reach, reach + 1)), int(rng.integers(1, reach + 1)))
        wide = Image.new("L", (masks[0].width + 4 * reach, masks[0].height + 4 * reach), 0)
        wide.paste(masks[0], (2 * reach, 2 * reach))
        shadow = shadow_of(wide, offset, float(rng.uniform(0.2, 0.6)) * reach).point(lambda value: value * 0.6)
        image.paste((0, 0, 0) if light else (255, 255, 255), (where[0] - 2 * reach, where[1] - 2 * reach), shadow)
    if len(masks) > 1:
        image.paste((0, 0, 0) if light else (255, 255, 255), where[:2], masks[1])
    if effect == "graded":
        share = np.linspace(0, 1, masks[0].height, dtype=np.float32)[:, None, None]
        other = near(ink, rng, 70)
        rows = np.asarray(ink, np.float32) * (1 - share) + np.asarray(other, np.float32) * share
        pixels = np.broadcast_to(np.rint(rows).astype(np.uint8), (masks[0].height, masks[0].width, 3))
        image.paste(Image.fromarray(np.ascontiguousarray(pixels)), where[:2], masks[0])
    else:
        image.paste(ink, where[:2], masks[0])
    return ink


def _seen(image: Image.Image, rng: Rng) -> Image.Image:
    """Uneven light, a little blur, a little noise: each now and then."""
    lit, soft, noisy = (bool(rng.random() < share) for share in (0.15, 0.08, 0.12))
    if soft:
        image = image.filter(ImageFilter.GaussianBlur(image.width / 256 * float(rng.uniform(0.3, 0.8))))
    if not (lit or noisy):
        return image
    pixels = np.asarray(image, np.float32)
    if lit:
        angle = float(rng.uniform(0, 2 * np.pi))
        x, y = np.meshgrid(np.linspace(-1, 1, image.width), np.linspace(-1, 1, image.height))
        pixels = pixels * (0.9 + 0.14 * (x * np.cos(angle) + y * np.sin(angle)))[..., None].astype(np.float32)
    if noisy:
        pixels = pixels + rng.normal(0, float(rng.uniform(1.5, 6)), pixels.shape).astype(np.float32)
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))
