"""Small recipes of every stage on a tiny nano world, and a plain loop over a Task: what tests of training share.

Needs pytest for nothing, so that it runs in the fresh processes of `harness.py` and in `tools/make_golden.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from raexla.data.nano.write import write_nano
from raexla.recipe import load_text
from raexla.runtime import Runtime, open_runtime
from raexla.train.base import StageRecipe
from raexla.train.stages import STAGES, open_task
from raexla.train.task import Task
from tests import tiny

COUNTS: Any = {"pretrain": 96, "finetune": 48, "understanding": 64, "decoder": 128, "language": 96}
EAGER = {"type": "eager", "device": "cpu"}


def world(root: Path) -> dict[str, str]:
    """A tiny encoder and language model, and a few samples of each nano split as the ordinary shards; paths by name."""
    write_nano(root / "data", COUNTS, processes=1)
    made = {name: root / "data" / name for name in COUNTS}
    made |= {"encoder": tiny.encoder(root / "encoder"), "language_model": tiny.language(root / "language_model")}
    return {name: str(path) for name, path in made.items()}


def _source(made: Mapping[str, str], name: str, kind: str, weight: int = 1) -> dict[str, Any]:
    return {"name": name, "path": made[name], "kind": kind, "weight": weight}


def _shared(stage: str, run: str | Path, steps: int, images: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "run": {"dir": str(run), "seed": 3},
        "runtime": EAGER,
        "train": {"steps": steps, "global_batch_images": images},
        "obs": {"log_every_steps": 1, "tensorboard": False},
    }


def _codec(made: Mapping[str, str]) -> dict[str, Any]:
    return {"type": "rae", "encoder": {"type": "siglip2", "path": made["encoder"], "channels": 24}}


def _mixture(made: Mapping[str, str], captions: str) -> dict[str, Any]:
    sources = [_source(made, captions, "caption", 2), _source(made, "understanding", "conversation", 1)]
    return {"sources": sources, "order": {"streams": 4}}


def pretrain(made: Mapping[str, str], run: str | Path, **changes: Any) -> dict[str, Any]:
    """Stage `pretrain`: 16 pictures with captions and 8 conversations a step; `changes` replace top-level keys."""
    return {
        **_shared("pretrain", run, 20, 24),
        "codec": _codec(made),
        "model": {
            "llm": {"path": made["language_model"], "queries": 16},
            "dit": {"width": 32, "depth": 2, "heads": 2, "condition_channels": 32},
        },
        "chat": {"length": 128, "system": "", "answer_prefix": ""},
        "flow": {"shift": 2.0},
        "transform": {"type": "squash", "size": 32},
        "data": _mixture(made, "pretrain"),
        "optim": {
            "llm": {"lr": 0.001, "clip": 1.0, "schedule": {"warmup_steps": 4}},
            "dit": {"lr": 0.002, "clip": 1.0, "ema": 0.9, "schedule": {"warmup_steps": 4}},
        },
        **changes,
    }


def finetune(made: Mapping[str, str], run: str | Path, model: str | Path, **changes: Any) -> dict[str, Any]:
    """Stage `finetune` from the model artifact `model`."""
    return {
        **_shared("finetune", run, 20, 24),
        "init": {"path": str(model)},
        "times_per_image": 2,
        "transform": {"type": "squash", "size": 32},
        "data": _mixture(made, "finetune"),
        "optim": {"llm": {"lr": 0.0005, "clip": 1.0}, "dit": {"lr": 0.001, "clip": 1.0, "ema": 0.9}},
        **changes,
    }


def decoder(made: Mapping[str, str], run: str | Path, **changes: Any) -> dict[str, Any]:
    """Stage `decoder` with all three phases: reconstruction, from step 3 critic, from step 6 adversarial."""
    return {
        **_shared("decoder", run, 9, 16),
        "codec": {**_codec(made), "decoder": {"width": 32, "depth": 1, "heads": 2, "mlp": 48, "patch_size": 8}},
        "noise": {"tau": 0.3},
        "transform": {"type": "squash", "size": 32},
        "losses": {
            "weights": {"l1": 1.0, "perceptual": 0.5, "adversarial": 0.75},
            "perceptual": {"type": "encoder", "layers": [1, 2]},
        },
        "critic": {"features": {"type": "encoder", "layers": [1, 2]}, "kernel": 3},
        "critic_from_step": 3,
        "adversarial_from_step": 6,
        "data": {"sources": [_source(made, "decoder", "image")], "order": {"streams": 4}},
        "optim": {
            # A large eps: else the first steps are signs of gradients, and rounding decides about the small ones.
            "decoder": {"lr": 0.002, "betas": [0.9, 0.95], "eps": 0.001, "ema": 0.9, "schedule": {"warmup_steps": 3}},
            "critic": {"lr": 0.002, "betas": [0.5, 0.9], "eps": 0.001, "weight_decay": 0.1},
        },
        **changes,
    }


def encoder(made: Mapping[str, str], run: str | Path, **changes: Any) -> dict[str, Any]:
    """Stage `encoder`."""
    sizes = {"width": 24, "depth": 2, "heads": 2, "mlp": 48, "text_tokens": 80, "tokenizer": made["language_model"]}
    return {
        **_shared("encoder", run, 20, 32),
        "model": sizes,
        "transform": {"type": "squash", "size": 32},
        "data": {"sources": [_source(made, "decoder", "caption")], "order": {"streams": 4}},
        "optim": {"encoder": {"lr": 0.002, "clip": 1.0, "weight_decay": 0.01}},
        **changes,
    }


def language(made: Mapping[str, str], run: str | Path, **changes: Any) -> dict[str, Any]:
    """Stage `language`."""
    sources = [_source(made, "pretrain", "caption"), _source(made, "language", "conversation")]
    return {
        **_shared("language", run, 20, 16),
        "model": {
            "width": 32,
            "depth": 2,
            "heads": 4,
            "key_value_heads": 2,
            "mlp": 48,
            "tokenizer": {"vocabulary": 400, "sources": sources, "samples": 96},
        },
        "chat": {"length": 128, "system": "", "answer_prefix": ""},
        "data": {"sources": sources[1:], "order": {"streams": 4}},
        "optim": {"language": {"lr": 0.005, "clip": 1.0}},
        **changes,
    }


def resolve(values: Mapping[str, Any]) -> StageRecipe:
    """Plain values -> the stage's recipe, through the loader that files go through."""
    recipe = load_text(json.dumps(values), STAGES)
    assert isinstance(recipe, StageRecipe)
    return recipe


def open_stage(values: Mapping[str, Any]) -> tuple[Task, Runtime]:
    """The Task of a recipe on the devices that it asks for."""
    recipe = resolve(values)
    runtime = open_runtime(recipe.runtime, recipe.mesh)
    return open_task(recipe, runtime), runtime


def save_model(made: Mapping[str, str], root: Path) -> Path:
    """A pretrained model's artifact after two steps of `pretrain`."""
    task, runtime = open_stage(pretrain(made, root / "run"))
    run_steps(task, runtime, 2)
    task.export(root / "model", {"step": 2})
    return root / "model"


@dataclass
class Trace:
    """What some steps left behind."""

    scalars: list[dict[str, float]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    compilations: list[int] = field(default_factory=list)
    """Total after each step."""
    cursors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [values["loss"] for values in self.scalars]


def run_steps(
    task: Task, runtime: Runtime, last: int, first: int = 0, cursor: Mapping[str, Any] | None = None
) -> Trace:
    """Steps `first` to `last` - 1 of a Task, as the loop takes them but without its directory."""
    trace, compiled = Trace(), {}
    with task.open_loader(cursor) as loader:
        for step in range(first, last):
            batch, phase = next(loader), task.phase(step)
            if phase not in compiled:
                compiled[phase] = runtime.compile_step(
                    partial(task.train_step, phase), lambda: list(task.state().values())
                )
            placed = runtime.put(batch.arrays, task.accumulate)
            trace.scalars.append(compiled[phase](placed, task.controls(step)).read())
            trace.phases.append(phase)
            trace.compilations.append(runtime.counters().compilations)
            trace.cursors.append(batch.cursor)
    return trace


def golden_curves(root: Path) -> dict[str, list[float]]:
    """Stage -> the losses of its first 20 steps on the tiny world, eager."""
    made = world(root / "world")
    recipes = {
        "encoder": encoder(made, root / "encoder"),
        "language": language(made, root / "language"),
        "decoder": decoder(
            made, root / "decoder", train={"steps": 20, "global_batch_images": 16}, critic_from_step=5,
            adversarial_from_step=10,
        ),
        "pretrain": pretrain(made, root / "pretrain"),
        "finetune": finetune(made, root / "finetune", save_model(made, root / "start")),
    }  # fmt: skip
    return {stage: run_steps(*open_stage(values), 20).losses for stage, values in recipes.items()}
