"""The nano data set: pure, honest about what it holds out, JSON-able, and its questions answered rightly."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from raexla.data.nano.captions import is_evaluation_caption, noun, phrase, plural
from raexla.data.nano.prompts import contents, satisfies, spec_of
from raexla.data.nano.questions import false_spec, listing, text_questions, visual_questions
from raexla.data.nano.render import coverage, render
from raexla.data.nano.samples import SPLITS, prompts, sample, samples
from raexla.data.nano.scenes import (
    HELD_OUT_PAIRS,
    IMAGE_SIZE,
    SHAPES,
    TASKS,
    TRAINING_PAIRS,
    Scene,
    SceneObject,
    Task,
    draw_scene,
    holds,
)
from raexla.data.nano.words import render_word

TRAINING_SPLITS = [split for split in SPLITS if split not in ("validation", "held_out")]


def _texts(item) -> list[str]:
    return [*item.captions, *(text for turn in item.conversation for text in turn)]


@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_a_pure_function_of_the_index(split) -> None:
    whole = list(samples(split, 6, seed=5))
    for index, item in enumerate(samples(split, 3, seed=5, start=3), start=3):
        assert item.key == whole[index].key
        assert _texts(item) == _texts(whole[index])
        expected = whole[index].image
        assert (item.image is None) == (expected is None) == (split == "language")
        if item.image is not None and expected is not None:
            assert np.array_equal(item.image, expected)
    assert _texts(sample(split, 0, seed=5)) != _texts(sample(split, 0, seed=6))
    assert json.loads(json.dumps([item.meta for item in whole]))


@pytest.mark.parametrize("split", TRAINING_SPLITS)
def test_training_splits_never_show_or_name_a_held_out_pair(split) -> None:
    named = re.compile("|".join(rf"\b{color} (?:{shape}|{plural(shape)})\b" for color, shape in HELD_OUT_PAIRS))
    for item in samples(split, 400):
        for record in item.meta.get("objects", []):
            assert (record["color"], record["shape"]) not in HELD_OUT_PAIRS
        for text in _texts(item):
            assert not named.search(text), text


@pytest.mark.parametrize("split", TRAINING_SPLITS)
def test_training_captions_are_never_evaluation_captions(split) -> None:
    for item in samples(split, 400):
        if item.meta.get("task") == "word":
            continue
        for caption in item.captions:
            assert not is_evaluation_caption(caption)


def test_prompts_are_distinct_evaluation_captions_and_true() -> None:
    found = prompts(100)
    assert len({item.caption for item in found}) == 600
    assert all(is_evaluation_caption(item.caption) for item in found)
    assert Counter(item.spec["task"] for item in found) == dict.fromkeys(TASKS, 100)
    assert [item.caption for item in prompts(100)] == [item.caption for item in found]


def test_too_many_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="single_object"):
        prompts(250)


def test_held_out_pairs_leave_every_shape_and_color_in_training() -> None:
    assert len(HELD_OUT_PAIRS) == 5
    assert {shape for _, shape in TRAINING_PAIRS} == set(SHAPES)
    for color, _ in HELD_OUT_PAIRS:
        assert sum(pair[0] == color for pair in TRAINING_PAIRS) == 4


@pytest.mark.parametrize("task", TASKS)
def test_specs_are_true_of_their_scene_and_false_ones_are_not(task: Task) -> None:
    for index in range(200):
        rng = np.random.default_rng([3, index])
        scene = draw_scene(rng, task)
        assert satisfies(spec_of(scene, task, rng), contents(scene))
        assert not satisfies(false_spec(scene, task, rng), contents(scene))


def test_objects_stay_in_their_places_and_never_touch() -> None:
    for index in range(300):
        scene = draw_scene(np.random.default_rng(index), None)
        drawn = [coverage(item.shape, item.center, item.radius) > 0 for item in scene.objects]
        assert (np.sum(drawn, axis=0) <= 1).all()
        for item, mask in zip(scene.objects, drawn, strict=True):
            rows, columns = np.nonzero(mask)
            row, column = divmod(item.place, 2)
            assert rows.min() // 16 == rows.max() // 16 == row
            assert columns.min() // 16 == columns.max() // 16 == column


def test_relations_follow_the_axes() -> None:
    assert holds((0, 5), "left of", (10, 5))
    assert holds((10, 5), "right of", (0, 5))
    assert holds((5, 0), "above", (5, 10))
    assert holds((5, 10), "below", (5, 0))
    assert not holds((0, 5), "left of", (4, 5), margin=5)


def test_yes_and_no_are_balanced() -> None:
    answers: Counter[str] = Counter()
    for item in samples("understanding", 1500):
        for question, answer in item.conversation:
            if question.startswith(("Is ", "Does ")):
                answers[answer] += 1
    assert set(answers) == {"yes", "no"}
    assert 0.42 < answers["yes"] / answers.total() < 0.58


def test_simple_questions_are_answered_from_the_scene() -> None:
    scene = Scene(
        objects=(
            SceneObject(shape="circle", color="red", place=0, center=(8, 8), radius=5),
            SceneObject(shape="cross", color="blue", place=3, center=(24, 24), radius=5),
        )
    )
    known = {
        "What color is the cross?": "blue",
        "What shape is red?": "circle",
        "How many objects are there?": "two",
        "How many circles are there?": "one",
        "What is in the top left?": "a red circle",
        "What is in the top right?": "nothing",
        "Is the circle left of the cross?": "yes",
        "Is the circle below the cross?": "no",
        "Is there a red circle?": "yes",
    }
    rng = np.random.default_rng(0)
    asked = dict(visual_questions(scene, rng, 400))
    assert {question: asked[question] for question in known} == known
    assert listing(scene) == "top left: red circle; top right: nothing; bottom left: nothing; bottom right: blue cross"
    written = dict(text_questions(scene, rng) for _ in range(200))
    assert any(answer == "one blue cross; one red circle" for answer in written.values())


def test_phrases_keep_to_their_side_and_nouns_read_well() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert is_evaluation_caption(phrase("a red circle", rng, evaluation=True))
        assert not is_evaluation_caption(phrase("a red circle", rng, evaluation=False, geneval=True))
    assert is_evaluation_caption("A  photo of a ring") == is_evaluation_caption("a photo of a ring")
    assert noun("cross", "red", 3) == "three red crosses"
    assert noun("ring") == "a ring"


def test_pictures_have_the_stated_form() -> None:
    for split in ("pretrain", "words"):
        for item in samples(split, 20):
            assert item.image is not None
            assert item.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
            assert item.image.dtype == np.uint8
            assert item.image.max() > 100
    assert render(Scene(objects=())).max() < 40


def test_words_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels wide"):
        render_word("ELEPHANTS", "red", np.random.default_rng(0))
    with pytest.raises(ValueError, match="hexagon"):
        coverage("hexagon", (8, 8), 5)
