"""Scenes of the nano world: what stands where, and the six kinds of scene after GenEval's six tasks.

The image is divided into 2x2 places of 16x16 pixels; a place holds at most one object, whose size and centre are
jittered freely inside the place, so that objects never touch. Coordinates are in pixels, x to the right, y downward,
pixel ``(i, j)`` covering ``[j, j+1) x [i, i+1)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

IMAGE_SIZE = 32
"""Side of every nano image, pixels."""

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "ring")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (230, 45, 45),
    "green": (45, 185, 60),
    "blue": (50, 85, 240),
    "yellow": (240, 220, 50),
    "purple": (170, 55, 205),
    "cyan": (55, 215, 220),
    "white": (240, 240, 240),
}
"""Colour name -> sRGB value. All stand well apart as rays from the dark background."""

BACKGROUND: tuple[int, int, int] = (16, 16, 20)

HELD_OUT_PAIRS: tuple[tuple[str, str], ...] = (
    ("red", "cross"),
    ("green", "ring"),
    ("blue", "triangle"),
    ("yellow", "square"),
    ("purple", "circle"),
)
"""(colour, shape) pairs that occur in no training split; every shape and every colour is seen in other pairs."""

TRAINING_PAIRS: tuple[tuple[str, str], ...] = tuple(
    (color, shape) for color in COLORS for shape in SHAPES if (color, shape) not in HELD_OUT_PAIRS
)

PLACES: tuple[str, ...] = ("top left", "top right", "bottom left", "bottom right")
"""Names of the places in row-major order."""

GRID = 2
"""Places per side."""

MIN_RADIUS, MAX_RADIUS = 4.6, 6.6
"""Half the extent of an object, pixels."""

MARGIN = 1.0
"""Least distance between an object and the border of its place, pixels."""

MAX_COUNT = 4

MAX_PLACED = 2
"""Most objects of a scene whose places are told: keeps captions, hence sequences, short."""

Task = Literal["single_object", "two_objects", "counting", "colors", "position", "color_attribution"]
TASKS: tuple[Task, ...] = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
"""GenEval's six tasks (Ghosh et al. 2023, table 1)."""

RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")


class ObjectRecord(TypedDict):
    """JSON form of an object."""

    shape: str
    color: str
    place: int
    center: tuple[float, float]
    radius: float


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object: what it is (``shape``, ``color``) and where (``place``, ``center`` = (x, y), ``radius``; pixels)."""

    shape: str
    color: str
    place: int
    center: tuple[float, float]
    radius: float

    def record(self) -> ObjectRecord:
        """The JSON form."""
        return {
            "shape": self.shape,
            "color": self.color,
            "place": self.place,
            "center": (round(self.center[0], 3), round(self.center[1], 3)),
            "radius": round(self.radius, 3),
        }


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One to four objects, sorted by place (row-major), and the task whose layout they follow."""

    objects: tuple[SceneObject, ...]
    task: Task | None = None

    def at(self, place: int) -> SceneObject | None:
        """The object in ``place`` (index into :data:`PLACES`), or None."""
        return next((item for item in self.objects if item.place == place), None)


def holds(first: tuple[float, float], relation: str, second: tuple[float, float], *, margin: float = 0.0) -> bool:
    """Whether the centre ``first`` stands in ``relation`` to ``second``, (x, y) in pixels, by more than ``margin``.

    Diagonal neighbours satisfy two relations, as in GenEval.
    """
    dx, dy = first[0] - second[0], first[1] - second[1]
    offsets = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}
    return offsets[relation] > margin


RELATION_MARGIN = 5.0
"""Least offset between two centres for a relation to hold, pixels: more than jitter inside one column or row gives."""


def put_object(rng: np.random.Generator, pair: tuple[str, str], place: int) -> SceneObject:
    """An object of ``pair`` = (colour, shape) with a random size and centre inside ``place``."""
    cell = IMAGE_SIZE / GRID
    radius = float(rng.uniform(MIN_RADIUS, MAX_RADIUS))
    slack = cell / 2 - radius - MARGIN
    row, column = divmod(place, GRID)
    x = (column + 0.5) * cell + slack * float(rng.uniform(-1, 1))
    y = (row + 0.5) * cell + slack * float(rng.uniform(-1, 1))
    return SceneObject(shape=pair[1], color=pair[0], place=place, center=(x, y), radius=radius)


def arrange(rng: np.random.Generator, pairs: list[tuple[str, str]], task: Task | None = None) -> Scene:
    """A scene with one object of each of ``pairs``, in random places."""
    places = rng.permutation(GRID * GRID)[: len(pairs)]
    objects = [put_object(rng, pair, int(place)) for pair, place in zip(pairs, places, strict=True)]
    return Scene(objects=tuple(sorted(objects, key=lambda item: item.place)), task=task)


def _pick(rng: np.random.Generator, pairs: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    return pairs[int(rng.integers(len(pairs)))]


def draw_pairs(
    rng: np.random.Generator, task: Task | None, pairs: tuple[tuple[str, str], ...] = TRAINING_PAIRS
) -> list[tuple[str, str]]:
    """The (colour, shape) pairs of a random scene for ``task``; None draws one to four unrelated objects.

    Two-object tasks take two different shapes (and, for colour attribution, two different colours), as GenEval's
    prompts do. A counting scene is several objects of one shape, most often of one colour.
    """
    first = _pick(rng, pairs)
    if task in ("single_object", "colors"):
        return [first]
    if task == "counting":
        count = int(rng.integers(2, MAX_COUNT + 1))
        if rng.random() < 0.75:
            return [first] * count
        same = tuple(pair for pair in pairs if pair[1] == first[1])
        return [_pick(rng, same) for _ in range(count)]
    if task is None:
        return [_pick(rng, pairs) for _ in range(int(rng.integers(1, MAX_COUNT + 1)))]
    others = tuple(
        pair for pair in pairs if pair[1] != first[1] and (task != "color_attribution" or pair[0] != first[0])
    )
    return [first, _pick(rng, others)]


def draw_scene(
    rng: np.random.Generator, task: Task | None, pairs: tuple[tuple[str, str], ...] = TRAINING_PAIRS
) -> Scene:
    """A random scene for ``task`` (see :func:`draw_pairs`)."""
    return arrange(rng, draw_pairs(rng, task, pairs), task)
