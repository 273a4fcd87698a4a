"""A sheet to look at: each original beside its reconstruction and what differs, enlarged fourfold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAIN = 4
HEADS = ("original", "reconstruction", f"difference x {GAIN}")
_PAPER, _CARD, _INK, _FAINT = (244, 244, 241), (255, 255, 255), (34, 34, 38), (128, 128, 136)
_MARGIN, _GAP, _PAD, _LINE = 24, 14, 10, 17
_SMALL, _LARGE, _WIDE = 144, 320, 1500


@dataclass(frozen=True)
class Pair:
    """One row of a sheet: uint8 [S, S, 3] twice, and what stands below."""

    original: np.ndarray
    reconstruction: np.ndarray
    title: str
    note: str = ""


def difference(original: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Reconstruction less original, `GAIN`-fold, around mid-grey; uint8 like its arguments."""
    error = reconstruction.astype(np.int32) - original.astype(np.int32)
    return np.clip(128 + GAIN * error, 0, 255).astype(np.uint8)


def _shown(pixels: np.ndarray) -> Image.Image:
    """Small pictures enlarged in whole steps without smoothing, very large ones made smaller."""
    picture = Image.fromarray(pixels)
    side = picture.width
    if side * 2 <= _SMALL:
        return picture.resize((side * (_SMALL // side),) * 2, Image.Resampling.NEAREST)
    return picture.resize((_LARGE, _LARGE), Image.Resampling.LANCZOS) if side > _LARGE else picture


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that fits: names tell more by their ends."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def comparison_sheet(pairs: Sequence[Pair], title: str = "", subtitle: str = "") -> Image.Image:
    """One card a pair, as many beside each other as a screen holds.

    Args:
        pairs: at least one, all of one size.
    """
    font, bold, head_font = ImageFont.load_default(13), ImageFont.load_default(13), ImageFont.load_default(20)
    triples = [
        [_shown(pixels) for pixels in (p.original, p.reconstruction, difference(p.original, p.reconstruction))]
        for p in pairs
    ]
    side = triples[0][0].width
    width = 3 * side + 2 * _PAD + 2 * 4
    height = _PAD + side + 6 + 2 * _LINE + _PAD - 4
    columns = max(1, min(len(pairs), (_WIDE - 2 * _MARGIN + _GAP) // (width + _GAP)))
    rows = -(-len(pairs) // columns)
    top = _MARGIN + (50 if title else 0) + _LINE + 6
    whole = (2 * _MARGIN + columns * (width + _GAP) - _GAP, top + rows * (height + _GAP) - _GAP + _MARGIN)
    sheet = Image.new("RGB", whole, _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN - 4), title, _INK, head_font)
        draw.text((_MARGIN, _MARGIN + 23), _cut(subtitle, font, whole[0] - 2 * _MARGIN), _FAINT, font)
    for column in range(columns):
        for number, said in enumerate(HEADS):
            left = _MARGIN + column * (width + _GAP) + _PAD + number * (side + 4)
            draw.text((left, top - _LINE - 4), said, _FAINT, font)
    for number, (pair, triple) in enumerate(zip(pairs, triples, strict=True)):
        left = _MARGIN + number % columns * (width + _GAP)
        upper = top + number // columns * (height + _GAP)
        draw.rounded_rectangle((left, upper, left + width - 1, upper + height - 1), 7, _CARD)
        for place, picture in enumerate(triple):
            sheet.paste(picture, (left + _PAD + place * (side + 4), upper + _PAD))
        below = upper + _PAD + side + 6
        draw.text((left + _PAD, below), _cut(pair.title, bold, width - 2 * _PAD), _INK, bold)
        draw.text((left + _PAD, below + _LINE), _cut(pair.note, font, width - 2 * _PAD), _FAINT, font)
    return sheet


def save_comparison(path: Path, pairs: Sequence[Pair], title: str = "", subtitle: str = "") -> None:
    """`comparison_sheet` as a PNG."""
    comparison_sheet(pairs, title, subtitle).save(path)
