"""The nano data set itself: a stream of samples for each split, a pure function of (split, seed, index).

Sample ``i`` of a split is the same whatever ``count`` is and whatever came before it.

| split | kind | for |
|---|---|---|
| ``pretrain`` | caption | generation: scenes of all kinds under mixed captions |
| ``finetune`` | caption | generation, high quality: scenes of the six tasks under GenEval-style captions |
| ``understanding`` | conversation | picture, two question-answer turns |
| ``words`` | caption | rendered text |
| ``decoder`` | caption | pictures for encoder and decoder: scenes, and one picture of words in eight |
| ``language`` | conversation | no picture: captions written out, questions about captions, generation requests |
| ``validation`` | caption | like ``pretrain``, with evaluation captions |
| ``held_out`` | caption | scenes of the held-out pairs with evaluation captions |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from raexla.data.nano.captions import Style, content, phrase, spec_content
from raexla.data.nano.prompts import PromptSpec, spec_of
from raexla.data.nano.questions import QA, text_questions, visual_questions
from raexla.data.nano.render import render
from raexla.data.nano.scenes import (
    COLORS,
    HELD_OUT_PAIRS,
    MAX_PLACED,
    TASKS,
    TRAINING_PAIRS,
    Scene,
    Task,
    arrange,
    draw_scene,
)
from raexla.data.nano.words import draw_word, render_word, word_caption

Split = Literal["pretrain", "finetune", "understanding", "words", "decoder", "language", "validation", "held_out"]
SPLITS: tuple[Split, ...] = (
    "pretrain",
    "finetune",
    "understanding",
    "words",
    "decoder",
    "language",
    "validation",
    "held_out",
)

GENERATE = "Generate an image of {caption}"
"""How a caption becomes a request."""


@dataclass(frozen=True, kw_only=True)
class NanoSample:
    """One sample.

    ``image`` is uint8 [32, 32, 3] or None (text only); ``captions`` holds one or more descriptions, ``conversation``
    (question, answer) turns; ``meta`` is JSON-able: ``task``, ``objects`` (scene records), ``spec`` (a
    :class:`~raexla.data.nano.prompts.PromptSpec`) or ``word``.
    """

    key: str
    kind: Literal["caption", "conversation"]
    image: np.ndarray | None
    captions: tuple[str, ...] = ()
    conversation: tuple[QA, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NanoPrompt:
    """An evaluation prompt: its text, what it asks for, and a true picture of it (the ceiling's input)."""

    key: str
    caption: str
    spec: PromptSpec
    image: np.ndarray


def samples(split: Split, count: int, seed: int = 0, start: int = 0) -> Iterator[NanoSample]:
    """Samples ``start`` to ``start + count - 1`` of ``split``."""
    for index in range(start, start + count):
        yield sample(split, index, seed)


def sample(split: Split, index: int, seed: int = 0) -> NanoSample:
    """Sample ``index`` of ``split``; raises ValueError for an unknown split."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    key = f"{split}-{index:07d}"
    if split == "words" or (split == "decoder" and rng.random() < 0.125):
        return _word_sample(key, rng)
    if split == "language":
        return NanoSample(key=key, kind="conversation", image=None, conversation=(_text_turn(rng),))
    task = _task(rng, free=0.0 if split in ("finetune", "held_out") else 0.25)
    scene = _held_out_scene(rng, task) if split == "held_out" else draw_scene(rng, task)
    meta: dict[str, Any] = {"task": task or "free", "objects": [item.record() for item in scene.objects]}
    if split == "understanding":
        turns = tuple(visual_questions(scene, rng, 2))
        return NanoSample(key=key, kind="conversation", image=render(scene), conversation=turns, meta=meta)
    if task is not None:
        meta["spec"] = spec_of(scene, task, rng)
    captions = _captions(scene, split, rng, meta.get("spec"))
    return NanoSample(key=key, kind="caption", image=render(scene), captions=captions, meta=meta)


def prompts(per_task: int, seed: int = 0, *, held_out: bool = False) -> list[NanoPrompt]:
    """``per_task`` different evaluation prompts for each of GenEval's six tasks, in the order of the tasks.

    No training split holds any of their captions. With ``held_out`` every prompt is about a held-out colour-shape pair
    (tasks ``colors`` and ``color_attribution`` only: the others don't name both). Raises ValueError when a task
    has fewer evaluation captions than that (``single_object`` has about 160).
    """
    result: list[NanoPrompt] = []
    for task in ("colors", "color_attribution") if held_out else TASKS:
        rng = np.random.default_rng([seed, 1000 + TASKS.index(task), int(held_out)])
        seen: set[str] = set()
        for _ in range(40 * per_task):
            if len(seen) == per_task:
                break
            scene = _held_out_scene(rng, task) if held_out else draw_scene(rng, task)
            spec = spec_of(scene, task, rng)
            caption = phrase(spec_content(spec), rng, evaluation=True, geneval=True)
            if caption in seen:
                caption = phrase(spec_content(spec), rng, evaluation=True)
            if caption not in seen:
                seen.add(caption)
                key = f"{'held_out-' if held_out else ''}{task}-{len(seen) - 1:04d}"
                result.append(NanoPrompt(key=key, caption=caption, spec=spec, image=render(scene)))
        if len(seen) < per_task:
            raise ValueError(f"{task} has {len(seen)} evaluation captions or few more, not {per_task}")
    return result


def _task(rng: np.random.Generator, *, free: float) -> Task | None:
    return None if rng.random() < free else TASKS[int(rng.integers(len(TASKS)))]


def _held_out_scene(rng: np.random.Generator, task: Task | None) -> Scene:
    """A scene whose first object is of a held-out pair (every object, in counting)."""
    pair = HELD_OUT_PAIRS[int(rng.integers(len(HELD_OUT_PAIRS)))]
    if task == "counting":
        return arrange(rng, [pair] * int(rng.integers(2, 5)), task)
    if task in ("single_object", "colors", None):
        return arrange(rng, [pair], task)
    others = [other for other in TRAINING_PAIRS if other[1] != pair[1] and other[0] != pair[0]]
    return arrange(rng, [pair, others[int(rng.integers(len(others)))]], task)


def _captions(scene: Scene, split: Split, rng: np.random.Generator, spec: PromptSpec | None) -> tuple[str, ...]:
    """The captions of a picture, any of which a trainer may draw; repeated styles weigh more.

    ``finetune``: GenEval's own form, once. Elsewhere three: a template (where there is one), two naming all colours.
    """
    evaluation = split in ("validation", "held_out")
    if split == "finetune":
        return (phrase(content(scene, "template", rng, spec), rng, evaluation=False, geneval=True),)
    extra: Style = "relational" if len(scene.objects) == 2 else "dense"
    last: Style = "placed" if len(scene.objects) <= MAX_PLACED else "dense"
    styles: tuple[Style, ...] = ("dense", extra, last) if spec is None else ("template", extra, last)
    texts = (content(scene, style, rng, spec) for style in styles)
    return tuple(phrase(text, rng, evaluation=evaluation) for text in texts)


def _word_sample(key: str, rng: np.random.Generator) -> NanoSample:
    word, color = draw_word(rng), list(COLORS)[int(rng.integers(len(COLORS)))]
    caption = word_caption(word, color)
    meta = {"task": "word", "word": word, "color": color}
    return NanoSample(key=key, kind="caption", image=render_word(word, color, rng), captions=(caption,), meta=meta)


def _text_turn(rng: np.random.Generator) -> QA:
    """A question about a caption, or (one in four) a request to draw and its answer without the picture."""
    task = _task(rng, free=0.4)
    scene = draw_scene(rng, task)
    if rng.random() < 0.75:
        return text_questions(scene, rng)
    style: Style = ("dense", "relational", "placed")[int(rng.integers(3))]
    caption = phrase(content(scene, style, rng), rng, evaluation=False)
    return GENERATE.format(caption=caption), "Here you go:"
