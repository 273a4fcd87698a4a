"""Questions about a scene, with their answers: visual question answering, or about a caption, as text alone.

Answers are short and in lower case, "yes" and "no" equally often. The alignment question is the one that best-of-N
selection asks (paper 000, section 5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from raexla.data.nano.captions import (
    NUMBERS,
    Style,
    content,
    dense_content,
    is_evaluation_caption,
    noun,
    placed_content,
    plural,
    spec_content,
)
from raexla.data.nano.prompts import PromptSpec, contents, pair_counts, satisfies, spec_of
from raexla.data.nano.scenes import (
    MAX_PLACED,
    PLACES,
    RELATION_MARGIN,
    RELATIONS,
    SHAPES,
    TRAINING_PAIRS,
    Scene,
    Task,
    draw_scene,
    holds,
)

QA = tuple[str, str]
"""(question, answer)."""

ALIGNMENT = "Does this image align with the prompt: {prompt}?"
DESCRIBE = "Describe this image."
LIST_PLACES = "What is in each place?"


def ask_color(scene: Scene, rng: np.random.Generator) -> QA:
    """The colour of a shape that has one colour."""
    colors: dict[str, set[str]] = {}
    for item in scene.objects:
        colors.setdefault(item.shape, set()).add(item.color)
    sure = [(shape, min(names)) for shape, names in colors.items() if len(names) == 1]
    if not sure:
        return ask_count(scene, rng)
    shape, color = sure[int(rng.integers(len(sure)))]
    return f"What color is the {shape}?", color


def ask_shape(scene: Scene, rng: np.random.Generator) -> QA:
    """The shape of a colour that has one shape."""
    shapes: dict[str, set[str]] = {}
    for item in scene.objects:
        shapes.setdefault(item.color, set()).add(item.shape)
    sure = [(color, min(names)) for color, names in shapes.items() if len(names) == 1]
    if not sure:
        return ask_count(scene, rng)
    color, shape = sure[int(rng.integers(len(sure)))]
    return f"What shape is {color}?", shape


def ask_count(scene: Scene, rng: np.random.Generator) -> QA:
    """How many objects there are, of a shape or in all."""
    if rng.random() < 0.3:
        return "How many objects are there?", NUMBERS[len(scene.objects)]
    present = [item.shape for item in scene.objects]
    shape = present[int(rng.integers(len(present)))] if rng.random() < 0.8 else SHAPES[int(rng.integers(len(SHAPES)))]
    return f"How many {plural(shape)} are there?", NUMBERS[present.count(shape)]


def ask_place(scene: Scene, rng: np.random.Generator) -> QA:
    """What stands in a place."""
    place = int(rng.integers(len(PLACES)))
    item = scene.at(place)
    return f"What is in the {PLACES[place]}?", noun(item.shape, item.color) if item else "nothing"


def ask_presence(scene: Scene, rng: np.random.Generator) -> QA:
    """Whether an object of a colour and shape is there; a "no" most often shares its colour or its shape."""
    present = [(item.color, item.shape) for item in scene.objects]
    if rng.random() < 0.5:
        color, shape = present[int(rng.integers(len(present)))]
        return f"Is there {noun(shape, color)}?", "yes"
    base = present[int(rng.integers(len(present)))]
    absent = [pair for pair in TRAINING_PAIRS if pair not in present]
    near = [pair for pair in absent if (pair[0] == base[0]) != (pair[1] == base[1])]
    pool = near if near and rng.random() < 0.8 else absent
    color, shape = pool[int(rng.integers(len(pool)))]
    return f"Is there {noun(shape, color)}?", "no"


def ask_relation(scene: Scene, rng: np.random.Generator) -> QA:
    """Whether one shape stands in a relation to another; about the count where shapes repeat."""
    if len(scene.objects) < 2 or len({item.shape for item in scene.objects}) != len(scene.objects):
        return ask_count(scene, rng)
    first, second = (scene.objects[int(i)] for i in rng.permutation(len(scene.objects))[:2])
    wanted = bool(rng.random() < 0.5)
    fitting = [r for r in RELATIONS if holds(first.center, r, second.center, margin=RELATION_MARGIN) == wanted]
    relation = fitting[int(rng.integers(len(fitting)))]
    return f"Is the {first.shape} {relation} the {second.shape}?", "yes" if wanted else "no"


def false_spec(scene: Scene, task: Task, rng: np.random.Generator) -> PromptSpec:
    """A spec of ``task`` that ``scene`` does not satisfy and that shares something with it where that can be."""
    while True:
        if rng.random() < 0.6:
            spec = _near_miss(spec_of(scene, task, rng), rng)
        else:
            spec = spec_of(draw_scene(rng, task), task, rng)
        if not satisfies(spec, contents(scene)):
            return spec


def _near_miss(spec: PromptSpec, rng: np.random.Generator) -> PromptSpec:
    """The spec with one thing changed: a pair, the count or the relation."""
    if "relation" in spec:
        return {**spec, "relation": RELATIONS[int(rng.integers(len(RELATIONS)))]}
    include = [item.copy() for item in spec["include"]]
    item = include[int(rng.integers(len(include)))]
    if spec.get("exact"):
        item["count"] = int(rng.integers(2, 5))
    else:
        color, shape = TRAINING_PAIRS[int(rng.integers(len(TRAINING_PAIRS)))]
        item["shape"] = shape
        if "color" in item:
            item["color"] = color
    return {**spec, "include": include}


def ask_alignment(scene: Scene, rng: np.random.Generator) -> QA:
    """Whether the image aligns with a prompt, half true and half near misses, in the words of GenEval's tasks."""
    task = scene.task or "single_object"
    if scene.task in ("single_object", "colors"):
        task = ("single_object", "colors")[int(rng.integers(2))]
    truth = bool(rng.random() < 0.5)
    for _ in range(50):
        spec = spec_of(scene, task, rng) if truth else false_spec(scene, task, rng)
        prompt = f"a photo of {spec_content(spec)}"
        if not is_evaluation_caption(prompt):
            return ALIGNMENT.format(prompt=prompt), "yes" if truth else "no"
    return ask_presence(scene, rng)


def describe(scene: Scene, rng: np.random.Generator) -> QA:
    """A description naming every object, often with its place where there are few."""
    style: Style = "placed" if len(scene.objects) <= MAX_PLACED and rng.random() < 0.5 else "relational"
    return DESCRIBE, content(scene, style, rng)


VISUAL: tuple[tuple[Callable[[Scene, np.random.Generator], QA], float], ...] = (
    (ask_color, 0.15),
    (ask_shape, 0.1),
    (ask_count, 0.15),
    (ask_place, 0.1),
    (ask_presence, 0.15),
    (ask_relation, 0.1),
    (ask_alignment, 0.15),
    (describe, 0.1),
)
"""Questions about a picture and their shares."""


def visual_questions(scene: Scene, rng: np.random.Generator, count: int = 1) -> list[QA]:
    """``count`` questions about the picture of ``scene``, kinds drawn by :data:`VISUAL`."""
    shares = np.array([share for _, share in VISUAL])
    kinds = rng.choice(len(VISUAL), size=count, p=shares / shares.sum())
    return [VISUAL[int(kind)][0](scene, rng) for kind in kinds]


def listing(scene: Scene) -> str:
    """Every place and what is in it, in reading order: a caption's meaning written out."""
    parts = []
    for place, name in enumerate(PLACES):
        item = scene.at(place)
        parts.append(f"{name}: {f'{item.color} {item.shape}' if item else 'nothing'}")
    return "; ".join(parts)


def inventory(counts: Counter[tuple[str, str]]) -> str:
    """Every (colour, shape) with its number, in a canonical order: "one red circle; two blue rings"."""
    return "; ".join(
        f"{NUMBERS[n]} {color} {shape if n == 1 else plural(shape)}" for (color, shape), n in sorted(counts.items())
    )


def text_questions(scene: Scene, rng: np.random.Generator) -> QA:
    """A caption and a question about what it says, as text alone: reading colours, counts, places, relations."""
    kind = float(rng.random())
    if kind < 0.25:
        return f"{placed_content(scene, rng)}. {LIST_PLACES}", listing(scene)
    if kind < 0.45:
        counts = pair_counts(scene)
        return f"{dense_content(counts, rng)}. List the objects.", inventory(counts)
    question, answer = (ask_color, ask_shape, ask_count, ask_presence, ask_relation, ask_place)[int(rng.integers(6))](
        scene, rng
    )
    told = (
        placed_content(scene, rng)
        if "place" in question or "in the" in question or "Is the " in question
        else (content(scene, "relational" if rng.random() < 0.5 else "dense", rng))
    )
    return f"{told}. {question}", answer
