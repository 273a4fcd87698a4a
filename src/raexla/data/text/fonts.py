"""Fonts: found in folders, tried, and asked which characters they can draw.

A character that a font doesn't have is drawn as its "missing glyph" (a box, nothing, a question mark). So a font has a
character if it draws it otherwise than a code point that no font has, and leaves ink. That asks the very library that
draws, whatever tables a font file carries.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ImageFont

from raexla.recipe import UserError

USUAL = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts", "/Library/Fonts",
         "/System/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts")  # fmt: skip
"""Where systems keep their fonts."""
EXTENSIONS = (".ttf", ".otf", ".ttc")
_NO_CHARACTER = "\uffff"  # guaranteed by Unicode never to be one
_PICTURES = re.compile(
    r"symbol|dingbat|emoji|icon|webding|wingding|awesome|barcode|braille|music|ornament|last ?resort|math",
    re.IGNORECASE,
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TRIED_AT = 24
_BUNDLED = "Pillow's own"


@dataclass(frozen=True)
class FontFile:
    """A font by its file; `path` None is the one that Pillow brings, which is always there."""

    path: str | None
    family: str
    style: str
    sha256: str

    @property
    def name(self) -> str:
        """Family and style."""
        return f"{self.family} {self.style}".strip()


@dataclass(frozen=True)
class FoundFonts:
    """What `find_fonts` found: usable fonts in a fixed order, and (file, why) of what was left out."""

    fonts: tuple[FontFile, ...]
    left_out: tuple[tuple[str, str], ...]


def find_fonts(folders: Sequence[str] = ()) -> FoundFonts:
    """The fonts below `folders`, or below the system's usual places if there are none; Pillow's own is always added.

    Their order depends on names and contents alone, not on where they are. Two copies of one file count once.

    Raises:
        UserError: a named folder isn't there, or has no usable font in it.
    """
    paths: list[Path] = []
    for folder in folders or USUAL:
        place = Path(folder).expanduser()
        if folders and not place.exists():
            raise UserError(f"--fonts: {folder}: there is no such folder")
        files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
        paths += sorted(file for file in files if file.suffix.lower() in EXTENSIONS)
    found: dict[str, FontFile] = {}
    left_out = []
    for path in paths:
        made = _open(path)
        if isinstance(made, str):
            left_out.append((str(path), made))
        else:
            found.setdefault(made.sha256, made)
    if folders and not found:
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise UserError(f"--fonts: no usable font ({', '.join(EXTENSIONS)}) below {', '.join(folders)}{why}")
    fonts = sorted([*found.values(), bundled()], key=lambda font: (font.family, font.style, font.sha256))
    return FoundFonts(tuple(fonts), tuple(left_out))


def bundled() -> FontFile:
    """The font that Pillow brings (Latin letters, digits, ASCII punctuation)."""
    font = ImageFont.load_default(_TRIED_AT)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError("this Pillow was built without FreeType and can't draw fonts; install a wheel from PyPI")
    family, style = font.getname()
    drawn = b"".join(bytes(font.getmask(letter)) for letter in _LETTERS)  # its file isn't to be had
    return FontFile(None, family or _BUNDLED, style or "", hashlib.sha256(drawn).hexdigest())


def _open(path: Path) -> FontFile | str:
    """A font, or why it can't be used."""
    try:
        font = ImageFont.truetype(str(path), _TRIED_AT, layout_engine=ImageFont.Layout.BASIC)
        family, style = (part or "" for part in font.getname())
        if _PICTURES.search(f"{family} {path.stem}"):
            return "a font of symbols"
        face = Face(FontFile(str(path), family, style, ""))
        letters = [letter for letter in _LETTERS if face.covers(letter)]
        if len({face.drawn(letter) for letter in letters}) < len(_LETTERS) // 2 - 1:
            return f"draws {len(letters)} of {len(_LETTERS)} letters"
    except OSError as error:
        return str(error)
    return FontFile(str(path), family or path.stem, style, hashlib.sha256(path.read_bytes()).hexdigest())


class Face:
    """An opened font."""

    def __init__(self, file: FontFile) -> None:
        self.file = file
        self._covers: dict[str, bool] = {}
        self._missing: tuple[tuple[int, int], bytes] | None = None

    def at(self, pixels: int) -> ImageFont.FreeTypeFont:
        """The font at a size, in pixels an em."""
        return _at(self.file.path, pixels)

    def covers(self, text: str) -> bool:
        """Whether it has a glyph for every character; white space needs none."""
        return all(self._covers_one(character) for character in set(text))

    def missing(self, text: str) -> list[str]:
        """The characters that it has no glyph for, sorted."""
        return sorted(character for character in set(text) if not self._covers_one(character))

    def drawn(self, character: str) -> tuple[tuple[int, int], bytes]:
        """What it draws: size and pixels."""
        mask = self.at(_TRIED_AT).getmask(character, mode="L")
        return mask.size, bytes(mask)

    def _covers_one(self, character: str) -> bool:
        if character not in self._covers:
            self._covers[character] = character.isspace() or self._has(character)
        return self._covers[character]

    def _has(self, character: str) -> bool:
        if unicodedata.category(character).startswith("C"):
            return False  # control and format characters, unassigned code points
        if self._missing is None:
            self._missing = self.drawn(_NO_CHARACTER)
        drawn = self.drawn(character)
        return drawn != self._missing and any(drawn[1])


@lru_cache(maxsize=512)
def _at(path: str | None, pixels: int) -> ImageFont.FreeTypeFont:
    if path is None:
        font = ImageFont.load_default(pixels)
        assert isinstance(font, ImageFont.FreeTypeFont)  # `bundled` has seen to it
        return font
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)


class Fonts:
    """Opened fonts to draw from: a family first, so that one of many styles doesn't outweigh the others."""

    def __init__(self, files: Iterable[FontFile]) -> None:
        self.faces = [Face(file) for file in files]
        self._families: dict[str, list[Face]] = {}
        for face in self.faces:
            self._families.setdefault(face.file.family, []).append(face)

    def draw(self, text: str, rng: np.random.Generator) -> Face | None:
        """A random face that has every character of `text`; None if there is none."""
        names = list(self._families)
        for place in rng.permutation(len(names)):
            family = self._families[names[place]]
            for member in rng.permutation(len(family)):
                if family[member].covers(text):
                    return family[member]
        return None

    def uncovered(self, text: str) -> str:
        """What the face that lacks fewest characters of `text` lacks; empty if one has all."""
        lacking = ["".join(face.missing(text)) for face in self.faces]
        return min(lacking, key=len)
