"""AutoGuidance in a fresh process with two XLA devices."""

from pathlib import Path
from typing import Any

from raexla.flow.guidance import AutoGuidanceRecipe
from raexla.flow.samplers import EulerRecipe
from raexla.runtime import XlaRecipe, open_runtime
from raexla.sampling.images import ImageSampler, SamplingRecipe
from raexla.sampling.model import load_model
from raexla.sampling.weak import open_weak

PROMPTS = ["a red circle", "two blue squares"]


def autoguided(weak: str) -> SamplingRecipe:
    """Three Euler steps, the middle one guided by the weaker model."""
    guidance = AutoGuidanceRecipe(scale=3.0, interval=(0.5, 0.9), weak=weak)
    return SamplingRecipe(sampler=EulerRecipe(steps=3), guidance=guidance, batch_images=2)


def guided_on_xla(folder: str, weak: str) -> list[Any]:
    """Pictures on two devices; compilations and fallbacks of a second call."""
    model, runtime, recipe = (
        load_model(Path(folder)),
        open_runtime(XlaRecipe(platform="cpu", devices=2)),
        autoguided(weak),
    )
    model.place(runtime)
    sampler = ImageSampler(model, runtime, recipe, weak=open_weak(recipe, model, runtime))
    images = sampler.images(PROMPTS, seed=5)
    before = runtime.counters()
    sampler.images(PROMPTS[::-1], seed=5, first_row=7)
    after = runtime.counters()
    return [images.tolist(), after.compilations - before.compilations, after.fallbacks]
