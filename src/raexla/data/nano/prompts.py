"""Prompts: what a caption of one of GenEval's six tasks asks for, in a form that a scorer can check."""

from __future__ import annotations

from collections import Counter
from typing import NotRequired, TypedDict, cast

import numpy as np

from raexla.data.nano.scenes import RELATION_MARGIN, RELATIONS, Scene, Task, holds


class Wanted(TypedDict):
    """``count`` objects of a shape, of a colour where one is named."""

    shape: str
    count: int
    color: NotRequired[str]


class PromptSpec(TypedDict):
    """What a prompt asks for (after GenEval's metadata): JSON-able.

    ``include`` lists the objects that must be there; ``exact`` asks for exactly ``count`` of them (counting);
    ``relation`` says how the first of ``include`` stands to the second.
    """

    task: Task
    include: list[Wanted]
    exact: NotRequired[bool]
    relation: NotRequired[str]


def spec_of(scene: Scene, task: Task, rng: np.random.Generator) -> PromptSpec:
    """A true spec of ``task`` for ``scene``; raises ValueError when the scene is of no fit.

    Which of two objects comes first, and which of two true relations is named, is drawn from ``rng``.
    """
    objects = [scene.objects[int(i)] for i in rng.permutation(len(scene.objects))]
    if task in ("single_object", "colors"):
        wanted: Wanted = {"shape": objects[0].shape, "count": 1}
        if task == "colors":
            wanted["color"] = objects[0].color
        return {"task": task, "include": [wanted]}
    if task == "counting":
        if len({item.shape for item in objects}) != 1:
            raise ValueError("a counting scene holds one shape")
        return {"task": task, "include": [{"shape": objects[0].shape, "count": len(objects)}], "exact": True}
    if len(objects) != 2 or objects[0].shape == objects[1].shape:
        raise ValueError(f"a {task} scene holds two objects of different shapes")
    include = [cast(Wanted, {"shape": item.shape, "count": 1}) for item in objects]
    if task == "color_attribution":
        for wanted, item in zip(include, objects, strict=True):
            wanted["color"] = item.color
    spec: PromptSpec = {"task": task, "include": include}
    if task == "position":
        spec["relation"] = true_relation(objects[0].center, objects[1].center, rng)
    return spec


def true_relation(first: tuple[float, float], second: tuple[float, float], rng: np.random.Generator) -> str:
    """One of the relations in which ``first`` stands to ``second``, at random."""
    true = [name for name in RELATIONS if holds(first, name, second, margin=RELATION_MARGIN)]
    return true[int(rng.integers(len(true)))]


def satisfies(spec: PromptSpec, found: list[tuple[str, str, tuple[float, float]]]) -> bool:
    """GenEval's verdict on a list of objects (shape, colour, centre).

    Every object of ``include`` must be there at least ``count`` times, exactly so where ``exact``; more objects than
    asked for do no harm otherwise. A relation must hold between some first and some second object.
    """
    for wanted in spec["include"]:
        matching = [item for item in found if _matches(wanted, item)]
        if len(matching) < wanted["count"] or (spec.get("exact") and len(matching) != wanted["count"]):
            return False
    relation = spec.get("relation")
    if relation is None:
        return True
    first, second = spec["include"]
    return any(
        holds(a[2], relation, b[2], margin=RELATION_MARGIN)
        for a in found
        if _matches(first, a)
        for b in found
        if _matches(second, b)
    )


def _matches(wanted: Wanted, item: tuple[str, str, tuple[float, float]]) -> bool:
    return item[0] == wanted["shape"] and wanted.get("color", item[1]) == item[1]


def contents(scene: Scene) -> list[tuple[str, str, tuple[float, float]]]:
    """The scene's objects as :func:`satisfies` takes them."""
    return [(item.shape, item.color, item.center) for item in scene.objects]


def pair_counts(scene: Scene) -> Counter[tuple[str, str]]:
    """How many objects of each (colour, shape) the scene holds."""
    return Counter((item.color, item.shape) for item in scene.objects)
