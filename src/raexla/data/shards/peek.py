"""A contact sheet of a set of shards: pictures on a grid with their captions below."""

import textwrap
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raexla.data.decode import decode_image
from raexla.data.draws import generator
from raexla.data.latents import LATENT, REFUSED, describe_latent, unpack_latent, unpack_refusal
from raexla.data.parse import find_captions, find_conversation, parse_json
from raexla.data.sample import Refused
from raexla.data.shards.index import Progress
from raexla.data.shards.reader import ShardSet
from raexla.data.shards.stats import shards_of
from raexla.data.shards.tar import IMAGE_EXTENSIONS

_PAPER, _CARD, _INK, _FAINT, _RED = (244, 244, 241), (255, 255, 255), (34, 34, 38), (128, 128, 136), (176, 42, 48)
_PINK, _PALE = (250, 236, 236), (240, 241, 246)
_FONTS = (
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf", "unifont.otf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "Arial.ttf",
)  # fmt: skip
"""Of these, the one that has most of a caption's characters draws it; Pillow's own has Latin letters only."""
_NO_CHARACTER = "\uffff"  # guaranteed by Unicode never to be one
_LONGEST = 2000  # characters of a caption that are looked at

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Card:
    """One picture with what stands below it; without a picture, `note` says why, or `caption` is all there is."""

    image: np.ndarray | None
    caption: str
    note: str = ""
    label: str = ""
    """A faint line at the end: which sample it is."""


def peek(
    folder: str, *, count: int = 48, columns: int = 8, seed: int = 0, cell: int = 176, progress: Progress | None = None
) -> Image.Image:
    """A contact sheet of `count` samples drawn evenly from the whole set; the caller saves it.

    Pictures keep their aspect ratio; small ones (below half a cell) are enlarged in whole steps without smoothing. A
    sample that can't be used gets a card that says why. `progress` opens a bar.
    """
    shards = ShardSet(folder)
    count = min(count, shards.samples)
    numbers = generator(seed, "peek", "", 0).choice(shards.samples, count, replace=False, shuffle=False)
    places = shards_of([entry.samples for entry in shards.index.shards], sorted(numbers.tolist()))
    tick = progress("pictures", count) if progress else lambda count: None
    cards = []
    for shard, row in places:
        cards.append(_card(shards, shard, row))
        tick(1)
    title = f"{len(cards):,} of {shards.samples:,} samples, {len(shards.index.shards):,} shards"
    return contact_sheet(cards, columns=columns, cell=cell, title=title, subtitle=folder)


def contact_sheet(
    cards: list[Card], *, columns: int = 8, cell: int = 176, title: str = "", subtitle: str = "", lines: int = 4
) -> Image.Image:
    """Cards on a grid, `cell` pixels wide each, with up to `lines` lines of caption."""
    margin, gap, pad, line = 20, 12, 8, 16
    bold, small = ImageFont.load_default(18), ImageFont.load_default(10)
    columns = max(1, min(columns, len(cards)))
    wrapped = []
    for card in cards:
        text = _plain(card.caption or card.note)
        font = _caption_font(text)
        wrapped.append((font, _wrap(text, font, cell - 2 * pad, lines)))
    labelled = line if any(card.label for card in cards) else 0
    rows = [range(first, min(first + columns, len(cards))) for first in range(0, len(cards), columns)]
    below = [line * max(len(wrapped[number][1]) for number in row) + labelled for row in rows]
    heights = [pad + cell - 2 * pad + pad + size + pad for size in below]
    head = margin + (52 if title else 0)
    width = 2 * margin + columns * cell + (columns - 1) * gap
    sheet = Image.new("RGB", (width, head + sum(heights) + gap * max(0, len(rows) - 1) + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin - 2), title, _INK, bold)
        subtitle = _plain(subtitle)
        font = _caption_font(subtitle)
        draw.text((margin, margin + 22), _wrap(subtitle, font, width - 2 * margin, 1, end=True)[0], _FAINT, font)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for place, number in enumerate(row):
            left = margin + place * (cell + gap)
            draw.rounded_rectangle((left, top, left + cell, top + height), 6, _CARD)
            _paste(sheet, cards[number], left + pad, top + pad, cell - 2 * pad)
            ink = _INK if cards[number].caption else _RED
            font, texts = wrapped[number]
            for count, text in enumerate(texts):
                draw.text((left + pad, top + cell + count * line), text, ink, font)
            if cards[number].label:
                label = _wrap(_plain(cards[number].label), small, cell - 2 * pad, 1, end=True)[0]
                draw.text((left + pad, top + height - pad - 11), label, _FAINT, small)
        top += height + gap
    return sheet


def _plain(text: str) -> str:
    """One line of characters that can be drawn."""
    return " ".join(text[:_LONGEST].encode("utf-8", "replace").decode().split())


def _caption_font(text: str) -> Font:
    """The font that has most of a text's characters."""
    if text.isascii():
        return ImageFont.load_default(12)
    wanted = [character for character in dict.fromkeys(text) if not character.isascii() and character.isprintable()]
    return max(_fonts(), key=lambda font: sum(_has(font, character) for character in wanted))


@lru_cache(maxsize=1)
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    found = []
    for name in _FONTS:
        try:
            found.append(ImageFont.truetype(name, 11))
        except OSError:
            continue
    own = ImageFont.load_default(12)
    return (*found, own) if isinstance(own, ImageFont.FreeTypeFont) else tuple(found)


@lru_cache(maxsize=20_000)
def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether a font draws a character otherwise than what it puts for those it doesn't have."""
    drawn, missing = font.getmask(character), font.getmask(_NO_CHARACTER)
    return drawn.getbbox() is not None and (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


def _card(shards: ShardSet, number: int, row: int) -> Card:
    members = shards.read(number, row)
    label = shards.key(number, row)
    try:
        meta = parse_json(members["json"]) if "json" in members else {}
        data = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
        caption = ""
        if "conversations" in meta:
            turns = find_conversation(meta["conversations"], has_image=data is not None or LATENT in members)
            caption = " ".join(turn.text.replace("<image>", "").strip() for turn in turns)
        elif "txt" in members or "captions" in meta:
            caption = " / ".join(find_captions(members, meta, ("txt", "json.captions")))
        if REFUSED in members:
            raise unpack_refusal(members[REFUSED])
        if data is None and LATENT in members:
            note = describe_latent(members[LATENT])
            return Card(_false_colours(unpack_latent(members[LATENT])), caption, f"{note}, no caption", label)
        if data is None and not caption:
            raise Refused("missing_image", f"members: {', '.join(sorted(members))}")
        image = None if data is None else decode_image(data)
    except Refused as refusal:
        return Card(None, "", str(refusal), label)
    return Card(image, caption, "" if image is None else f"{image.shape[1]}x{image.shape[0]}, no caption", label)


def _false_colours(latent: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] of a latent [N, C]: its tokens' three largest principal components as red, green and blue; the
    grid is the squarest that has N tokens."""
    tokens, channels = latent.shape
    values = latent.astype(np.float32) - latent.astype(np.float32).mean(0)
    parts = np.linalg.svd(values, full_matrices=False)
    three = np.zeros((tokens, 3), np.float32)
    count = min(3, tokens, channels)
    signs = np.sign(parts[2][:count].sum(1))  # a component has no sign of its own
    three[:, :count] = values @ parts[2][:count].T * np.where(signs == 0, 1.0, signs)
    low, high = np.percentile(three, [1, 99])
    shades = np.clip((three - low) / max(float(high - low), 1e-9), 0, 1) * 255
    height = next(side for side in range(int(tokens**0.5), 0, -1) if tokens % side == 0)
    return shades.round().astype(np.uint8).reshape(height, tokens // height, 3)


def _paste(sheet: Image.Image, card: Card, left: int, top: int, side: int) -> None:
    if card.image is None:
        draw = ImageDraw.Draw(sheet)
        box = (left, top, left + side - 1, top + side - 1)
        draw.rectangle(box, _PALE if card.caption else _PINK)
        if card.caption:
            draw.text((left + side // 2, top + side // 2), "text only", _FAINT, ImageFont.load_default(12), "mm")
        else:
            draw.line((left, top, left + side - 1, top + side - 1), _RED)
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


def _wrap(text: str, font: Font, width: int, lines: int, end: bool = False) -> list[str]:
    """Lines that fit `width` pixels; what doesn't fit into `lines` ends (with `end`: begins) in an ellipsis."""
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
