"""Does the model see what is in a picture: questions with one right answer, judged by exact match."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raexla.data.nano.samples import samples
from raexla.eval.scenes import TaskScore, wilson

KINDS = {
    "colour": r"What color ",
    "shape": r"What shape ",
    "count": r"How many ",
    "place": r"What is in the ",
    "presence": r"Is there ",
    "relation": r"Is the ",
    "alignment": r"Does this image align ",
}
"""Kind -> how its questions begin. Descriptions have many right answers and are left out."""


@dataclass(frozen=True)
class Question:
    """A question about a picture (uint8 [32, 32, 3]) and its right answer."""

    key: str
    kind: str
    image: np.ndarray
    question: str
    answer: str


def kind_of(question: str) -> str | None:
    """The kind of a question, None for those without one right answer."""
    return next((kind for kind, start in KINDS.items() if re.match(start, question)), None)


def questions(count: int, seed: int) -> list[Question]:
    """`count` questions of the nano world's understanding split with `seed`, which must not be the training data's."""
    found: list[Question] = []
    start = 0
    while len(found) < count:
        for sample in samples("understanding", count, seed, start):
            for number, (question, answer) in enumerate(sample.conversation):
                kind = kind_of(question)
                if kind is not None and sample.image is not None:
                    found.append(Question(f"{sample.key}-{number}", kind, sample.image, question, answer))
        start += count
    return found[:count]


def normalise(answer: str) -> str:
    """Lower case, one space between words, no full stop at the end."""
    return " ".join(answer.lower().split()).rstrip(".")


def judge(asked: Sequence[Question], answers: Sequence[str], seed: int = 0, shuffles: int = 20) -> dict[str, TaskScore]:
    """Accuracy by kind and `overall` (all questions alike).

    `chance` pairs each question with the model's answers to other questions of its kind, `shuffles` permutations.
    """
    if len(asked) != len(answers):
        raise ValueError(f"{len(answers)} answers to {len(asked)} questions")
    truth = np.array([normalise(question.answer) for question in asked])
    said = np.array([normalise(answer) for answer in answers])
    kinds = np.array([question.kind for question in asked])
    rng = np.random.default_rng(seed)
    lucky = np.zeros(len(asked))
    for kind in np.unique(kinds):
        of_kind = np.flatnonzero(kinds == kind)
        for _ in range(shuffles):
            lucky[of_kind] += truth[of_kind] == said[rng.permutation(of_kind)]
    lucky /= shuffles
    scores: dict[str, TaskScore] = {}
    for name in (*[kind for kind in KINDS if kind in kinds], "overall"):
        chosen = kinds == name if name != "overall" else np.ones(len(asked), dtype=bool)
        right = float((truth[chosen] == said[chosen]).sum())
        count = int(chosen.sum())
        low, high = wilson(right, count)
        scores[name] = TaskScore(
            score=right / count, count=count, low=low, high=high, chance=float(lucky[chosen].mean())
        )
    return scores
