"""A contact sheet of a set of shards: pictures on a grid with their captions below."""

import textwrap
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raexla.data.decode import decode_image
from raexla.data.draws import key, permutation
from raexla.data.parse import find_captions, find_conversation, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.reader import ShardSet
from raexla.data.shards.tar import IMAGE_EXTENSIONS

_PAPER, _CARD, _INK, _FAINT, _RED = (244, 244, 241), (255, 255, 255), (34, 34, 38), (128, 128, 136), (176, 42, 48)


@dataclass(frozen=True)
class Card:
    """One picture with what stands below it; without a picture, `note` says why."""

    image: np.ndarray | None
    caption: str
    note: str = ""


def peek(folder: str, *, count: int = 48, columns: int = 8, seed: int = 0, cell: int = 176) -> Image.Image:
    """A contact sheet of `count` samples drawn evenly from the whole set; the caller saves it.

    Pictures keep their aspect ratio; small ones (below half a cell) are enlarged in whole steps without smoothing. A
    sample that can't be used gets a card that says why.
    """
    shards = ShardSet(folder)
    places = [(number, row) for number, entry in enumerate(shards.index.shards) for row in range(entry.samples)]
    chosen = sorted(permutation(len(places), key(seed, "peek"))[:count].tolist())
    cards = [_card(shards, *places[number]) for number in chosen]
    title = f"{len(cards)} of {shards.samples} samples, {len(shards.index.shards)} shards"
    return contact_sheet(cards, columns=columns, cell=cell, title=title, subtitle=folder)


def contact_sheet(
    cards: list[Card], *, columns: int = 8, cell: int = 176, title: str = "", subtitle: str = "", lines: int = 4
) -> Image.Image:
    """Cards on a grid, `cell` pixels wide each, with up to `lines` lines of caption."""
    margin, gap, pad, line = 20, 12, 8, 16
    font, bold = _caption_font("".join(card.caption for card in cards)), ImageFont.load_default(18)
    columns = max(1, min(columns, len(cards)))
    wrapped = [_wrap(card.caption or card.note, font, cell - 2 * pad, lines) for card in cards]
    rows = [range(first, min(first + columns, len(cards))) for first in range(0, len(cards), columns)]
    heights = [pad + cell - 2 * pad + pad + line * max(len(wrapped[number]) for number in row) + pad for row in rows]
    head = margin + (52 if title else 0)
    width = 2 * margin + columns * cell + (columns - 1) * gap
    sheet = Image.new("RGB", (width, head + sum(heights) + gap * max(0, len(rows) - 1) + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin - 2), title, _INK, bold)
        draw.text((margin, margin + 22), _wrap(subtitle, font, width - 2 * margin, 1, end=True)[0], _FAINT, font)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for place, number in enumerate(row):
            left = margin + place * (cell + gap)
            draw.rounded_rectangle((left, top, left + cell, top + height), 6, _CARD)
            _paste(sheet, cards[number], left + pad, top + pad, cell - 2 * pad)
            ink = _INK if cards[number].image is not None else _RED
            for count, text in enumerate(wrapped[number]):
                draw.text((left + pad, top + cell + count * line), text, ink, font)
        top += height + gap
    return sheet


def _caption_font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font has ASCII only; for other characters one of the usual system fonts, if there is one."""
    if not text.isascii():
        for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf"):
            try:
                return ImageFont.truetype(name, 11)
            except OSError:
                continue
    return ImageFont.load_default(12)


def _card(shards: ShardSet, number: int, row: int) -> Card:
    members = shards.read(number, row)
    caption, image = "", None
    try:
        meta = parse_json(members["json"]) if "json" in members else {}
        data = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        if data is None:
            raise Refused("missing_image")
        image = decode_image(data)
        if "conversations" in meta:
            turns = find_conversation(meta["conversations"], has_image=True)
            caption = " ".join(turn.text.replace("<image>", "").strip() for turn in turns)
        elif "txt" in members or "captions" in meta:
            caption = " / ".join(find_captions(members, meta, ("txt", "json.captions")))
    except Refused as refusal:
        return Card(None, "", f"{shards.key(number, row)}: {refusal}")
    return Card(image, caption)


def _paste(sheet: Image.Image, card: Card, left: int, top: int, side: int) -> None:
    if card.image is None:
        draw = ImageDraw.Draw(sheet)
        draw.rectangle((left, top, left + side - 1, top + side - 1), (250, 236, 236))
        draw.line((left, top, left + side, top + side), _RED)
        return
    picture = Image.fromarray(card.image)
    longer = max(picture.size)
    if longer * 2 <= side:
        scale = side // longer
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    else:
        size = (max(1, picture.width * side // longer), max(1, picture.height * side // longer))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))


def _wrap(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int, end: bool = False
) -> list[str]:
    """Lines that fit `width` pixels; what doesn't fit into `lines` ends (with `end`: begins) in an ellipsis."""
    text = " ".join(text.split())
    if end:
        while font.getlength(text) > width:
            text = "…" + text[2:]
        return [text]
    found: list[str] = []
    rest = text
    while rest and len(found) < lines:
        fits = len(rest)
        while font.getlength(rest[:fits]) > width:
            fits -= max(1, fits // 16)
        broken = textwrap.wrap(rest[: fits + 1], fits, break_on_hyphens=False) if fits < len(rest) else [rest]
        found.append(broken[0])
        rest = rest[len(broken[0]) :].lstrip()
    if rest:
        last = found[-1]
        while font.getlength(last + "…") > width:
            last = last[:-1]
        found[-1] = last + "…"
    return found or [""]
