"""Rendered words: short words and numbers drawn with Pillow's bundled bitmap font, the nano form of rendered text."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raexla.data.nano.scenes import BACKGROUND, COLORS, IMAGE_SIZE

WORDS: tuple[str, ...] = (
    "ART", "BED", "BOX", "BUS", "CAR", "CAT", "CUP", "DAY", "DOG", "EAR", "EGG", "EYE", "FAN", "FOX", "HAT", "ICE",
    "INK", "JAR", "KEY", "LEG", "MAP", "NET", "OAK", "OWL", "PEN", "PIG", "RED", "SEA", "SKY", "SUN", "TEA", "TOP",
    "TREE", "VAN", "WAX", "YES", "ZOO", "MOON", "STAR", "BLUE",
)  # fmt: skip
"""Words that fit on a 32-pixel line."""


def draw_word(rng: np.random.Generator) -> str:
    """A random word, or a number of one to four digits (three in ten)."""
    if rng.random() < 0.3:
        return str(int(rng.integers(0, 10 ** int(rng.integers(1, 5)))))
    return WORDS[int(rng.integers(len(WORDS)))]


def render_word(word: str, color: str, rng: np.random.Generator) -> np.ndarray:
    """``word`` in ``color``, at a random place that holds all of it: uint8 [32, 32, 3].

    Raises ValueError if the word is too wide for the image.
    """
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = font.getbbox(word)
    width, height = int(right - left), int(bottom - top)
    if width > IMAGE_SIZE or height > IMAGE_SIZE:
        raise ValueError(f"{word!r} is {width} pixels wide; an image has {IMAGE_SIZE}")
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUND)
    x = int(rng.integers(0, IMAGE_SIZE - width + 1))
    y = int(rng.integers(0, IMAGE_SIZE - height + 1))
    ImageDraw.Draw(image).text((x - left, y - top), word, fill=COLORS[color], font=font)
    return np.asarray(image, np.uint8).copy()


def word_caption(word: str, color: str) -> str:
    """What the picture shows."""
    return f'the word "{word}" in {color}'
