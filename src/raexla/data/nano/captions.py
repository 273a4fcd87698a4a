"""Captions of scenes, and the rule that keeps evaluation captions out of training.

A caption is ``[opening] content [closing]``; content says *what* in one of several styles:

- **template**: what GenEval's prompts say, one attribute kind at a time ("two circles", "a circle left of a square");
- **dense**: every object's colour and shape ("a red circle and two blue crosses");
- **relational**: dense, with the relation of two objects ("a red circle left of a blue cross");
- **placed**: dense, with every object's place ("a red circle in the top left and a blue cross in the bottom right").

With templates alone most pictures come without their colours being named, and colours are not learned; the dense styles
are to templates what long recaptions are to alt texts.

**Held-out captions.** For a task with few contents (five for ``single_object``) unseen captions exist through the
phrasing: 18 openings x 9 closings make 810 ways to ask for one of five shapes. A caption's SHA-256 decides once and for
all whether it belongs to evaluation (one in five) or to training; phrasing is drawn again until it falls on the wanted
side. So a single-object score on unseen captions speaks of phrasing, while for colour attribution, with thousands of
contents, most contents are unseen too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Literal

import numpy as np

from raexla.data.nano.prompts import PromptSpec, pair_counts, true_relation
from raexla.data.nano.scenes import PLACES, Scene

OPENINGS: tuple[str, ...] = (
    "",
    "a photo of",
    "a picture of",
    "an image of",
    "a drawing of",
    "a painting of",
    "a sketch of",
    "a rendering of",
    "a view of",
    "a scene with",
    "a picture with",
    "an image showing",
    "a print of",
    "an icon of",
    "we see",
    "draw",
    "please draw",
    "show me",
)
"""What may come before the content."""

CLOSINGS: tuple[str, ...] = (
    "",
    "on a dark background",
    "on a plain background",
    "in the dark",
    "in this picture",
    "in simple style",
    "as flat art",
    "in clean colors",
    "without any text",
)
"""What may come after the content."""

GENEVAL_OPENING = "a photo of"
"""How every GenEval prompt begins."""

NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four")

Style = Literal["template", "dense", "relational", "placed"]

_EVALUATION_SHARE = 5
"""One caption in this many belongs to evaluation."""


def is_evaluation_caption(caption: str) -> bool:
    """Whether ``caption`` (case and spacing aside) belongs to evaluation: a property of its text alone."""
    digest = hashlib.sha256(" ".join(caption.lower().split()).encode()).digest()
    return digest[0] * 256 + digest[1] < 65536 // _EVALUATION_SHARE


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape == "cross" else "s")


def noun(shape: str, color: str | None = None, count: int = 1) -> str:
    """ "a red circle", "a circle", "three red circles"."""
    name = plural(shape) if count > 1 else shape
    what = f"{color} {name}" if color else name
    return f"{NUMBERS[count]} {what}" if count > 1 else f"a {what}"


def joined(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def spec_content(spec: PromptSpec) -> str:
    """The template content of a prompt: "a red circle and a blue square", "three crosses", "a ring above a circle"."""
    parts = [noun(item["shape"], item.get("color"), item["count"]) for item in spec["include"]]
    relation = spec.get("relation")
    return f" {relation} ".join(parts) if relation else joined(parts)


def dense_content(counts: Counter[tuple[str, str]], rng: np.random.Generator) -> str:
    """Every (colour, shape) with its count, in random order."""
    items = list(counts.items())
    return joined([noun(items[i][0][1], items[i][0][0], items[i][1]) for i in rng.permutation(len(items))])


def relational_content(scene: Scene, rng: np.random.Generator) -> str:
    """Two objects and how the first stands to the second; raises ValueError unless there are two."""
    if len(scene.objects) != 2:
        raise ValueError("a relation takes two objects")
    first, second = (scene.objects[int(i)] for i in rng.permutation(2))
    relation = true_relation(first.center, second.center, rng)
    return f"{noun(first.shape, first.color)} {relation} {noun(second.shape, second.color)}"


def placed_content(scene: Scene, rng: np.random.Generator) -> str:
    """Every object and its place, in random order."""
    objects = [scene.objects[int(i)] for i in rng.permutation(len(scene.objects))]
    return joined([f"{noun(item.shape, item.color)} in the {PLACES[item.place]}" for item in objects])


def content(scene: Scene, style: Style, rng: np.random.Generator, spec: PromptSpec | None = None) -> str:
    """The content of a caption in ``style``; ``template`` needs the ``spec``. Relational falls back to dense."""
    if style == "template":
        if spec is None:
            raise ValueError("a template caption needs the spec")
        return spec_content(spec)
    if style == "placed":
        return placed_content(scene, rng)
    if style == "relational" and len(scene.objects) == 2:
        return relational_content(scene, rng)
    return dense_content(pair_counts(scene), rng)


def phrase(text: str, rng: np.random.Generator, *, evaluation: bool, geneval: bool = False) -> str:
    """``text`` between an opening and a closing, drawn until the caption is (or is not) an evaluation caption.

    ``geneval`` prefers GenEval's own form, "a photo of ..." with nothing after it, where the rule allows it.
    """
    if geneval and is_evaluation_caption(plain := f"{GENEVAL_OPENING} {text}") == evaluation:
        return plain
    while True:
        opening = GENEVAL_OPENING if geneval and rng.random() < 0.5 else OPENINGS[int(rng.integers(len(OPENINGS)))]
        closing = CLOSINGS[int(rng.integers(len(CLOSINGS)))] if rng.random() < 0.7 else ""
        caption = " ".join(part for part in (opening, text, closing) if part)
        if is_evaluation_caption(caption) == evaluation:
            return caption
