"""Pictures as files: PNGs, and a contact sheet with a caption below each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from raexla.data.shards.peek import Card, contact_sheet


def to_pixels(image: np.ndarray) -> np.ndarray:
    """float [..., 3, H, W] in [0, 1] -> uint8 [..., H, W, 3], rounded to nearest; what is outside is clipped."""
    return np.moveaxis(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), -3, -1)


def to_image(pixels: np.ndarray) -> np.ndarray:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [0, 1]."""
    return np.moveaxis(np.asarray(pixels, dtype=np.float32) / 255, -1, -3)


def save_png(path: Path, image: np.ndarray) -> None:
    """One image, float [3, H, W] in [0, 1], as an 8-bit PNG."""
    Image.fromarray(to_pixels(image)).save(path)


def save_sheet(
    path: Path,
    images: np.ndarray,
    captions: Sequence[str],
    *,
    columns: int = 8,
    cell: int = 176,
    title: str = "",
    subtitle: str = "",
) -> None:
    """A contact sheet of images [n, 3, H, W] in [0, 1] with their captions."""
    cards = [Card(to_pixels(image), caption) for image, caption in zip(images, captions, strict=True)]
    contact_sheet(cards, columns=columns, cell=cell, title=title, subtitle=subtitle).save(path)
