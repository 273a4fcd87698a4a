"""What the tests of sampling run in a fresh process with several XLA devices."""

from pathlib import Path
from typing import Any

import numpy as np

from raexla.runtime import XlaRecipe, open_runtime
from raexla.sampling.answers import Answerer, AnsweringRecipe
from raexla.sampling.classes import load_class_model
from raexla.sampling.draw import sampling_recipe
from raexla.sampling.images import ImageSampler
from raexla.sampling.model import load_model

QUESTIONS = ["What colour?", "How many red circles are there?", "Is it?", "What is in the top left?", "Why?"]
CLASSES = [0, 4, 2]
PROMPTS = ["a red circle", "two blue squares", "a ring left of a cross"]


def answers_on_xla(folder: str) -> list[Any]:
    """Answers on two devices; compilations and fallbacks of a second batch."""
    model, runtime = load_model(Path(folder)), open_runtime(XlaRecipe(platform="cpu", devices=2))
    model.place(runtime)
    answerer = Answerer(model, runtime, AnsweringRecipe(batch_images=5, max_tokens=9))
    images = np.random.default_rng(0).random((len(QUESTIONS), 3, 32, 32), dtype=np.float32)
    answers = answerer.answers(images, QUESTIONS)
    before = runtime.counters()
    answerer.answers(images[::-1], QUESTIONS)
    after = runtime.counters()
    return [answers, after.compilations - before.compilations, after.fallbacks]


def pictures_on_xla(folder: str, class_folder: str) -> list[Any]:
    """Guided pictures of prompts and of classes on two devices; compilations and fallbacks of a second call of each."""
    runtime = open_runtime(XlaRecipe(platform="cpu", devices=2))
    out: list[Any] = []
    extra = 0
    for model, requests in ((load_model(Path(folder)), PROMPTS), (load_class_model(Path(class_folder)), CLASSES)):
        model.place(runtime)
        sampler = ImageSampler(model, runtime, sampling_recipe("euler", 4, 3.0, (0.1, 0.9), 2))
        out.append(sampler.images(requests, seed=5).tolist())
        before = runtime.counters().compilations
        sampler.images(requests[::-1], seed=5, first_row=7)
        extra += runtime.counters().compilations - before
    return [*out, extra, runtime.counters().fallbacks]
