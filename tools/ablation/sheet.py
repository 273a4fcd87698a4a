"""Pictures to look at: a row for each variant (seed 0), a column for each held-out picture, originals above."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ablation.variants import TABLES

_PAPER, _INK, _FAINT = (244, 244, 241), (34, 34, 38), (128, 128, 136)
_CELL, _GAP, _LABEL, _MARGIN, _APART, _LINE = 64, 3, 230, 20, 14, 20
Pictures = Mapping[str, np.ndarray]
"""What was decoded -> uint8 [n, 32, 32, 3]."""


@dataclass(frozen=True)
class Block:
    """Rows that share their columns."""

    title: str
    table: str
    columns: tuple[tuple[str, int], ...]
    """(what was decoded, how many of its pictures)."""


BLOCKS = (
    Block("Losses (noise tau 0.2)", "losses", (("scenes", 8), ("scenes, noise 0.4", 4))),
    Block("Noise (all losses)", "noise", (("scenes", 8), ("scenes, noise 0.4", 4))),
    Block("Data", "data", (("scenes", 6), ("words", 4), ("text", 4))),
)


def sheet(originals: Pictures, of: Callable[[str], Pictures | None]) -> Image.Image:
    """The blocks of which there are pictures, one below the other.

    Args:
        originals: by set. of: a variant's reconstructions, or None if it has none yet.
    """
    images = [made for block in BLOCKS if (made := _block(block, originals, of)) is not None]
    width = max((image.width for image in images), default=2 * _MARGIN)
    whole = Image.new("RGB", (width, sum(image.height for image in images)), _PAPER)
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole


def _block(block: Block, originals: Pictures, of: Callable[[str], Pictures | None]) -> Image.Image | None:
    table = TABLES[block.table]
    rows: list[tuple[str, Sequence[np.ndarray]]] = [
        ("original", [originals[what.partition(",")[0]][:count] for what, count in block.columns])
    ]
    for variant in table.rows:
        found = of(variant)
        if found is not None:
            rows.append((table.title_of(variant), [found[what][:count] for what, count in block.columns]))
    if len(rows) == 1:
        return None
    side = _CELL + _GAP
    columns = sum(count for _, count in block.columns)
    width = 2 * _MARGIN + _LABEL + columns * side + _APART * (len(block.columns) - 1)
    image = Image.new("RGB", (width, _MARGIN + 2 * _LINE + len(rows) * side + _MARGIN // 2), _PAPER)
    draw, font, bold = ImageDraw.Draw(image), ImageFont.load_default(12), ImageFont.load_default(15)
    draw.text((_MARGIN, _MARGIN // 2), block.title, _INK, bold)
    for number, (title, groups) in enumerate(rows):
        top, left = _MARGIN + 2 * _LINE + number * side, _MARGIN + _LABEL
        lines = title.split(", ") if font.getlength(title) > _LABEL - 8 else [title]
        for line, said in enumerate(lines):
            draw.text((_MARGIN, top + _CELL // 2 - 7 * len(lines) + 15 * line), said, _INK, font)
        for (what, _), pictures in zip(block.columns, groups, strict=True):
            if number == 0:
                draw.text((left, top - _LINE + 2), what, _FAINT, font)
            for pixels in pictures:
                enlarged = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.NEAREST)
                image.paste(enlarged, (left, top))
                left += side
            left += _APART
    return image
