"""What lies behind the text: plain and graded colours, paper, clouds, lights, patterns; float32 [S, S, 3], 0 to 255."""

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Rng = np.random.Generator
Colour = tuple[int, int, int]


def colour(rng: Rng) -> Colour:
    """A random colour: near white, near black, a pale or a strong one."""
    draw, hue = rng.random(), float(rng.random())
    if draw < 0.22:
        saturation, value = float(rng.uniform(0, 0.08)), float(rng.uniform(0.9, 1))
    elif draw < 0.38:
        saturation, value = float(rng.uniform(0, 0.4)), float(rng.uniform(0, 0.22))
    elif draw < 0.62:
        saturation, value = float(rng.uniform(0.1, 0.4)), float(rng.uniform(0.7, 1))
    else:
        saturation, value = float(rng.uniform(0.5, 1)), float(rng.uniform(0.3, 1))
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def near(base: Colour, rng: Rng, by: int) -> Colour:
    """A colour not far from another."""
    red, green, blue = (int(np.clip(part + rng.integers(-by, by + 1), 0, 255)) for part in base)
    return red, green, blue


def _filled(size: int, value: Colour) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float32), (size, size, 3)).copy()


def _mixed(share: np.ndarray, first: Colour, second: Colour) -> np.ndarray:
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + (b - a) * share[..., None].astype(np.float32)


def _noise(size: int, cells: int, rng: Rng) -> np.ndarray:
    """Smooth noise [size, size] in [0, 1]: random values on a coarse grid, interpolated."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1), dtype=np.float32))
    return np.clip(np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)), 0, 1)


def plain(size: int, rng: Rng) -> np.ndarray:
    """One colour."""
    return _filled(size, colour(rng))


def gradient(size: int, rng: Rng) -> np.ndarray:
    """From one colour to another along a line."""
    angle = float(rng.uniform(0, 2 * np.pi))
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    share = x * np.cos(angle) + y * np.sin(angle)
    first = colour(rng)
    second = near(first, rng, 90) if rng.random() < 0.6 else colour(rng)
    return _mixed((share - share.min()) / np.ptp(share), first, second)


def spot(size: int, rng: Rng) -> np.ndarray:
    """From one colour in a point to another around it."""
    cx, cy = rng.uniform(-0.7, 0.7, 2)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    first = colour(rng)
    return _mixed(np.clip(np.hypot(x - cx, y - cy) / float(rng.uniform(0.8, 2)), 0, 1), first, near(first, rng, 110))


def paper(size: int, rng: Rng) -> np.ndarray:
    """Light paper with grain, stains and an uneven light."""
    tone = float(rng.uniform(225, 252))
    base = (int(tone), int(tone - rng.uniform(0, 12)), int(tone - rng.uniform(0, 30)))
    sheet = _filled(size, base)
    sheet += (rng.normal(0, float(rng.uniform(1, 4)), (size, size, 1))).astype(np.float32)
    sheet -= (24 * float(rng.random()) * _noise(size, 4, rng) ** 2)[..., None]
    if rng.random() < 0.4:  # ruled
        step = max(6, int(size * rng.uniform(0.06, 0.12)))
        sheet[step // 2 :: step] -= np.asarray((60, 40, 10), np.float32) * np.float32(rng.uniform(0.4, 1))
    return sheet


def clouds(size: int, rng: Rng) -> np.ndarray:
    """Two colours mixed by noise of several sizes."""
    share = sum(_noise(size, cells, rng) * weight for cells, weight in ((3, 0.6), (7, 0.3), (15, 0.1)))
    first = colour(rng)
    return _mixed(np.asarray(share), first, near(first, rng, 120))


def lights(size: int, rng: Rng) -> np.ndarray:
    """Lights out of focus."""
    base = colour(rng)
    image = Image.new("RGB", (size, size), base)
    for _ in range(int(rng.integers(6, 24))):
        layer = Image.new("L", (size, size), 0)
        radius = float(rng.uniform(0.03, 0.2)) * size
        x, y = rng.uniform(0, size, 2)
        ImageDraw.Draw(layer).ellipse((x - radius, y - radius, x + radius, y + radius), int(rng.integers(40, 150)))
        image.paste(near(base, rng, 150), (0, 0), layer)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(size * float(rng.uniform(0.01, 0.04)))), np.float32)


def stripes(size: int, rng: Rng) -> np.ndarray:
    """Stripes of two related colours, at any angle."""
    angle, period = float(rng.uniform(0, np.pi)), float(rng.uniform(0.05, 0.3)) * size
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    first = colour(rng)
    return _mixed(np.clip(wave * period / 4 + 0.5, 0, 1), first, near(first, rng, 60))


def tiles(size: int, rng: Rng) -> np.ndarray:
    """Tiles or squared paper."""
    step = max(6, int(size * rng.uniform(0.05, 0.2)))
    first = colour(rng)
    second = near(first, rng, 50)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    if rng.random() < 0.5:
        return _mixed(((x // step + y // step) % 2).astype(np.float32), first, second)
    return _mixed(((x % step == 0) | (y % step == 0)).astype(np.float32), first, second)


def blocks(size: int, rng: Rng) -> np.ndarray:
    """Rectangles over one another, as in a collage."""
    image = Image.new("RGB", (size, size), colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        x, y = (int(part) for part in rng.integers(-size // 4, size, 2))
        w, h = (int(part) for part in rng.integers(size // 6, size, 2))
        draw.rectangle((x, y, x + w, y + h), colour(rng))
    return np.asarray(image, np.float32)


KINDS: dict[str, tuple[float, Callable[[int, Rng], np.ndarray]]] = {
    "plain": (0.28, plain),
    "gradient": (0.16, gradient),
    "spot": (0.08, spot),
    "paper": (0.16, paper),
    "clouds": (0.12, clouds),
    "lights": (0.07, lights),
    "stripes": (0.05, stripes),
    "tiles": (0.05, tiles),
    "blocks": (0.03, blocks),
}
"""Kind -> its part of the samples, and what draws it."""


def draw_background(size: int, rng: Rng) -> tuple[str, Image.Image]:
    """(kind, picture)."""
    names = list(KINDS)
    name = names[int(rng.choice(len(names), p=np.array([weight for weight, _ in KINDS.values()])))]
    return name, Image.fromarray(np.rint(np.clip(KINDS[name][1](size, rng), 0, 255)).astype(np.uint8))
