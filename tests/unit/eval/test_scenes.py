"""The exact scorer: right on real renders of each task, wrong on anything else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from raexla.data.nano.prompts import PromptSpec, spec_of
from raexla.data.nano.render import render
from raexla.data.nano.samples import prompts
from raexla.data.nano.scenes import COLORS, HELD_OUT_PAIRS, SHAPES, TASKS, Scene, SceneObject, Task, draw_scene
from raexla.eval.scenes import detect, evaluate, score, wilson

RENDERS = 300


def _renders(task: Task, count: int = RENDERS) -> list[tuple[np.ndarray, PromptSpec]]:
    pairs = tuple((color, shape) for color in COLORS for shape in SHAPES)  # the held-out ones too
    result = []
    for index in range(count):
        rng = np.random.default_rng([7, TASKS.index(task), index])
        scene = draw_scene(rng, task, pairs)
        result.append((render(scene), spec_of(scene, task, rng)))
    return result


def _put(shape: str, color: str, place: int, center: tuple[float, float]) -> SceneObject:
    return SceneObject(shape=shape, color=color, place=place, center=center, radius=5.5)


@pytest.mark.parametrize("task", TASKS)
def test_real_renders_score_at_least_097(task: Task) -> None:
    right = [score(image, spec) for image, spec in _renders(task)]
    assert np.mean(right) >= 0.97


@pytest.mark.parametrize("task", TASKS)
def test_slight_blur_and_noise_do_not_matter(task: Task) -> None:
    rng = np.random.default_rng(0)
    right = []
    for image, spec in _renders(task, 100):
        blurred = ndimage.gaussian_filter(image / 255.0, (0.6, 0.6, 0)) + rng.normal(0, 0.02, image.shape)
        right.append(score(np.clip(blurred, 0, 1), spec))
    assert np.mean(right) >= 0.97


def test_every_pair_is_detected_as_itself() -> None:
    for color in COLORS:
        for shape in SHAPES:
            [found] = detect(render(Scene(objects=(_put(shape, color, 3, (24.0, 23.6)),))))
            assert (found.shape, found.color) == (shape, color)
            assert found.center == pytest.approx((24.0, 23.6), abs=0.8)


def test_wrong_things_are_refused() -> None:
    scene = Scene(objects=(_put("circle", "red", 0, (8, 8)), _put("square", "blue", 3, (24, 24))))
    image = render(scene)

    def verdict(task: Task, *wanted: tuple[str, str | None, int], **more: object) -> bool:
        include = [
            {"shape": shape, "count": count, **({"color": color} if color else {})} for shape, color, count in wanted
        ]
        return score(image, {"task": task, "include": include, **more})  # type: ignore[typeddict-item]

    assert verdict("single_object", ("circle", None, 1))
    assert not verdict("single_object", ("ring", None, 1))
    assert verdict("two_objects", ("square", None, 1), ("circle", None, 1))
    assert not verdict("two_objects", ("square", None, 1), ("cross", None, 1))
    assert not verdict("counting", ("circle", None, 2), exact=True)
    assert verdict("colors", ("circle", "red", 1))
    assert not verdict("colors", ("circle", "blue", 1))
    assert verdict("color_attribution", ("circle", "red", 1), ("square", "blue", 1))
    assert not verdict("color_attribution", ("circle", "blue", 1), ("square", "red", 1))
    for relation, true in (("left of", True), ("above", True), ("right of", False), ("below", False)):
        assert verdict("position", ("circle", None, 1), ("square", None, 1), relation=relation) is true


def test_counting_is_exact() -> None:
    three = Scene(objects=tuple(_put("cross", "cyan", i, (8 + 16 * (i % 2), 8 + 16 * (i // 2))) for i in range(3)))
    for count in (2, 3, 4):
        spec: PromptSpec = {"task": "counting", "include": [{"shape": "cross", "count": count}], "exact": True}
        assert score(render(three), spec) is (count == 3)


def test_nothing_is_found_in_noise_or_emptiness() -> None:
    assert detect(render(Scene(objects=()))) == []
    noise = np.random.default_rng(0).random((32, 32, 3))
    assert detect(noise) == []


def test_an_unexpected_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 32, 32\]"):
        detect(np.zeros((3, 32, 32)))


def test_evaluate_reports_ceiling_and_chance() -> None:
    found = prompts(40, seed=3)
    scores = evaluate([item.image for item in found], [item.spec for item in found])
    assert set(scores) == {*TASKS, "overall"}
    assert scores["overall"].score >= 0.97
    assert scores["overall"].count == 240
    assert scores["overall"].chance < 0.15
    assert 0.1 < scores["single_object"].chance < 0.5
    for item in scores.values():
        assert item.low <= item.score <= item.high


def test_held_out_pairs_are_scored_like_the_others() -> None:
    found = prompts(60, seed=1, held_out=True)
    assert all(
        any((item.get("color"), item["shape"]) in HELD_OUT_PAIRS for item in prompt.spec["include"]) for prompt in found
    )
    assert evaluate([item.image for item in found], [item.spec for item in found])["overall"].score >= 0.97


def test_wilson_against_known_values() -> None:
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(0, 0) == (0.0, 1.0)
