"""Drawing: a scene to a 32x32 picture, anti-aliased from signed distances (negative inside, pixels)."""

from __future__ import annotations

import numpy as np

from raexla.data.nano.scenes import BACKGROUND, COLORS, IMAGE_SIZE, Scene

_AXIS = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5


def coverage(shape: str, center: tuple[float, float], radius: float) -> np.ndarray:
    """How much of each pixel the shape covers: float32 [32, 32] in [0, 1].

    ``center`` = (x, y) and ``radius`` in pixels. Raises ValueError for an unknown shape.
    """
    x = _AXIS[None, :] - np.float32(center[0])
    y = _AXIS[:, None] - np.float32(center[1])
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "ring":
        distance = np.abs(np.hypot(x, y) - 0.72 * radius) - 0.28 * radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    elif shape == "cross":
        thick = 0.32 * radius
        upright = np.maximum(np.abs(x) - thick, np.abs(y) - radius)
        level = np.maximum(np.abs(x) - radius, np.abs(y) - thick)
        distance = np.minimum(upright, level)
    elif shape == "triangle":
        slope = np.sqrt(np.float32(5.0))  # sides rise 2 for each 1 across
        side = (2 * np.abs(x) - (y + radius)) / slope
        distance = np.maximum(side, y - 0.9 * radius)
    else:
        raise ValueError(f"no shape named {shape!r}")
    return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)


def render(scene: Scene) -> np.ndarray:
    """The picture of ``scene``: uint8 [32, 32, 3]."""
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    image[:] = BACKGROUND
    for item in scene.objects:
        alpha = coverage(item.shape, item.center, item.radius)[..., None]
        image = image * (1 - alpha) + np.asarray(COLORS[item.color], np.float32) * alpha
    return np.rint(image).astype(np.uint8)
