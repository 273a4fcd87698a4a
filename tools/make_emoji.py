#!/usr/bin/env python3
"""Draw the emoji of a colour font as captioned pictures: a real, small data set that any Debian machine can have.

    apt-get install fonts-noto-color-emoji
    python tools/make_emoji.py --out emoji/train --held-out emoji/validation --size 64
    raexla shards pack emoji/train --out shards/emoji/train

Writes `CODEPOINTS.png` and `CODEPOINTS.txt` (the caption) for every single character and every sequence (skin tones,
flags, keycaps, joined people and things) that the font draws as one glyph. Captions are the characters' Unicode names
in lower case. Sequences are found by trying the ways in which Unicode builds them; that needs Pillow with libraqm.
With `--held-out`, one picture in 25 goes there instead, the same ones each time.
"""

import argparse
import itertools
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

DEBIAN_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the size in pixels at which the font holds its bitmaps; no other can be drawn
CANVAS = 136, 128  # a glyph of that strike

JOINER, EMOJI_STYLE, KEYCAP, CANCEL_TAG = "\u200d", "\ufe0f", "\u20e3", "\U000e007f"
TONES = ["", *(chr(code) for code in range(0x1F3FB, 0x1F400))]
PERSON, MAN, WOMAN, BOY, GIRL = "\U0001f9d1", "\U0001f468", "\U0001f469", "\U0001f466", "\U0001f467"
HEART, KISS_MARK, HANDS = "\u2764" + EMOJI_STYLE, "\U0001f48b", "\U0001f91d"
RIGHT_ARROW = "\u27a1" + EMOJI_STYLE
SEXES = ["\u2640" + EMOJI_STYLE, "\u2642" + EMOJI_STYLE]
FLAG = "\U0001f3f4"
REGIONS = {"gbeng": "england", "gbsct": "scotland", "gbwls": "wales", "ustx": "texas", "usca": "california"}
JOINED_THINGS = "\u2b1b\U0001f7e9\U0001f7eb\U0001f9ba\U0001f525\U0001f4a8\U0001f4ab"  # colours, vest, fire, dash, dizzy
BLOCKS = [(0xA9, 0xAF), (0x2000, 0x32FF), (0x1F000, 0x1FAFF)]

READABLE = {
    "emoji modifier fitzpatrick type-1-2": "light skin tone",
    "emoji modifier fitzpatrick type-3": "medium-light skin tone",
    "emoji modifier fitzpatrick type-4": "medium skin tone",
    "emoji modifier fitzpatrick type-5": "medium-dark skin tone",
    "emoji modifier fitzpatrick type-6": "dark skin tone",
    "female sign": "woman",
    "male sign": "man",
    "emoji component red hair": "red hair",
    "emoji component curly hair": "curly hair",
    "emoji component bald": "bald",
    "emoji component white hair": "white hair",
    "black rightwards arrow": "facing right",
    "heavy black heart": "heart",
    "adult": "person",
}


class Font:
    """Draws strings and knows which ones the font has as one glyph."""

    def __init__(self, path: Path, sequences: bool) -> None:
        engine = ImageFont.Layout.RAQM if sequences else ImageFont.Layout.BASIC
        self.font = ImageFont.truetype(path, STRIKE, layout_engine=engine)
        self.advance = self.font.getlength("\U0001f600")
        nothing = ("\U000fffff", "\U0010ffff", "\U0001f1e6\U0001f1e6")  # no characters, and the flag of no country
        self.missing = {self.draw(text).tobytes() for text in nothing}

    def draw(self, text: str) -> Image.Image:
        """The glyph over white."""
        image = Image.new("RGB", CANVAS, "white")
        ImageDraw.Draw(image).text((0, CANVAS[1] // 2), text, font=self.font, embedded_color=True, anchor="lm")
        return image

    def joins(self, text: str) -> bool:
        """Whether `text` is as wide as one glyph."""
        return self.font.getlength(text) == self.advance

    def one_glyph(self, text: str) -> Image.Image | None:
        """The picture of `text` if the font joins it into one coloured glyph."""
        if not self.joins(text):
            return None
        image = self.draw(text)
        blank = image.getextrema() == ((255, 255),) * 3
        return None if blank or image.tobytes() in self.missing else image


def singles() -> list[str]:
    """Characters that have a name, in the blocks where emoji are."""
    codes = itertools.chain.from_iterable(range(first, last + 1) for first, last in BLOCKS)
    signs = [
        chr(code) for code in codes if unicodedata.category(chr(code))[0] in "SP" and unicodedata.name(chr(code), "")
    ]
    return [sign for sign in signs if not 0x1F1E6 <= ord(sign) <= 0x1F1FF]


def sequences(found: list[str], joins: Callable[[str], bool]) -> Iterator[str]:
    """Everything that might be one glyph, given the single characters that are; `joins` cuts off what can't be
    early."""
    things = [text for text in found if text not in TONES]
    letters = [chr(code) for code in range(0x1F1E6, 0x1F200)]
    yield from ("".join(pair) for pair in itertools.product(letters, letters))
    yield from (f"{base}{EMOJI_STYLE}{KEYCAP}" for base in "0123456789#*")
    for region in REGIONS:
        yield FLAG + "".join(chr(0xE0000 + ord(letter)) for letter in region) + CANCEL_TAG
    toned = {thing: [thing + tone for tone in TONES[1:]] for thing in things}
    for variants in toned.values():
        yield from variants
    for thing in things:
        bodies = [thing, thing + EMOJI_STYLE, *(body for body in toned[thing] if joins(body))]
        if joins(thing + JOINER + SEXES[0]):
            for body, sex in itertools.product(bodies, SEXES):
                yield body + JOINER + sex
                yield body + JOINER + sex + JOINER + RIGHT_ARROW
        yield from (body + JOINER + RIGHT_ARROW for body in bodies)
    for person, thing, style in itertools.product((PERSON, MAN, WOMAN), things, ("", EMOJI_STYLE)):
        if joins(person + JOINER + thing + style):
            for tone in TONES:
                yield person + tone + JOINER + thing + style
                yield person + tone + JOINER + thing + style + JOINER + RIGHT_ARROW
    couples = list(itertools.product([p + t for p in (PERSON, MAN, WOMAN) for t in TONES], repeat=2))
    for one, other in couples:
        yield JOINER.join((one, HANDS, other))
        yield JOINER.join((one, HEART, other))
        yield JOINER.join((one, HEART, KISS_MARK, other))
    for one, other in itertools.product(TONES[1:], repeat=2):
        yield f"\U0001faf1{one}{JOINER}\U0001faf2{other}"
    for adults in [(MAN,), (WOMAN,), (MAN, WOMAN), (MAN, MAN), (WOMAN, WOMAN), (PERSON,), (PERSON, PERSON)]:
        for children in [(BOY,), (GIRL,), (GIRL, BOY), (BOY, BOY), (GIRL, GIRL)]:
            yield JOINER.join(adults + children)
    child = "\U0001f9d2"
    for adults, children in itertools.product(([PERSON], [PERSON] * 2), ([child], [child] * 2)):
        yield JOINER.join(adults + children)
    for one, other in itertools.product(things, JOINED_THINGS):
        yield one + JOINER + other
    for one, other in itertools.product(("\U0001f3f3", FLAG, "\u2764", "\U0001f441", "\u26d3"), things):
        yield from (one + EMOJI_STYLE + JOINER + other + style for style in ("", EMOJI_STYLE))
        yield one + JOINER + other + EMOJI_STYLE
    for one in ("\U0001f43b", "\U0001f636", "\U0001f62e"):  # polar bear, in clouds, exhaling
        yield from (one + JOINER + other + EMOJI_STYLE for other in ("\u2744", "\U0001f32b"))


def caption(text: str) -> str | None:
    """The names of the characters, lower case; None if one has no name."""
    letters = [chr(ord(char) - 0x1F1E6 + ord("a")) for char in text if 0x1F1E6 <= ord(char) <= 0x1F1FF]
    if letters:
        return f"flag {''.join(letters)}"
    tags = "".join(chr(ord(char) - 0xE0000) for char in text if 0xE0061 <= ord(char) <= 0xE007A)
    if tags:
        return f"flag {REGIONS[tags]}"
    if text.endswith(KEYCAP):
        return f"keycap {unicodedata.name(text[0]).lower()}"
    names = [unicodedata.name(char, "").lower() for char in text if char not in (JOINER, EMOJI_STYLE)]
    if not all(names):
        return None
    if len(text) == 1:
        return names[0]
    return ", ".join(READABLE.get(name, name) for name in names)


def square(image: Image.Image, size: int) -> Image.Image:
    """Centred on a white square, resized."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


def main() -> int:
    """Parse, draw, write, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--held-out", type=Path, help="folder for one picture in 25, which --out then lacks")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default 64)")
    parser.add_argument("--font", type=Path, default=DEBIAN_FONT, help=f"default {DEBIAN_FONT}")
    options = parser.parse_args()
    if not options.font.is_file():
        print(
            f"{options.font}: there is no such font; on Debian: apt-get install fonts-noto-color-emoji, or name it "
            f"with --font",
            file=sys.stderr,
        )
        return 2
    if options.size < 1:
        print(f"--size {options.size}: must be at least 1", file=sys.stderr)
        return 2
    joins = bool(features.check("raqm"))
    font = Font(options.font, joins)
    out = Folders(options.out, options.held_out)
    glyphs = {text: image for text in singles() if (image := font.one_glyph(text)) is not None}
    found = list(glyphs)
    written = _write(glyphs, out, options.size)
    print(f"{written} single characters")
    if not joins:
        print("this Pillow has no libraqm: sequences (skin tones, flags, families) are left out", file=sys.stderr)
        return 0
    seen = {image.tobytes() for image in glyphs.values()}
    joined = {}
    for text in dict.fromkeys(sequences(found, font.joins)):
        image = font.one_glyph(text)
        if image is not None and image.tobytes() not in seen:
            seen.add(image.tobytes())
            joined[text] = image
    print(f"{_write(joined, out, options.size)} sequences")
    return 0


class Folders:
    """Where a picture goes: the training folder, or for one name in 25 the held-out folder if there is one."""

    def __init__(self, out: Path, held_out: Path | None) -> None:
        self.out, self.held_out = out, held_out
        for folder in (out, held_out):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)

    def of(self, name: str) -> Path:
        """The folder of a picture's name."""
        return self.held_out if self.held_out is not None and zlib.crc32(name.encode()) % 25 == 0 else self.out


def _write(glyphs: dict[str, Image.Image], out: Folders, size: int) -> int:
    written = 0
    for text, image in glyphs.items():
        words = caption(text)
        if words is None:
            continue
        name = "-".join(f"{ord(char):x}" for char in text)
        square(image, size).save(out.of(name) / f"{name}.png")
        (out.of(name) / f"{name}.txt").write_text(words + "\n", encoding="utf-8")
        written += 1
    return written


if __name__ == "__main__":
    sys.exit(main())
