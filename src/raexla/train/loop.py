"""The loop: restore, next batch, step, log, evaluate, save, stop. The mathematics is in the Tasks."""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from raexla.checkpoint import prune, save
from raexla.data import TooMuchBadData
from raexla.obs import Clock, Metrics, Progress
from raexla.recipe import Recipe, StopRequested, UserError, digest
from raexla.runtime import Runtime, Scalars
from raexla.train.base import StageRecipe
from raexla.train.directory import RunDirectory, versions
from raexla.train.task import Task


class StopFlag:
    """Set by SIGTERM or the first Ctrl-C; the second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.set = False
        self._old = {number: signal.signal(number, self._on) for number in (signal.SIGTERM, signal.SIGINT)}

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self.set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.set = True

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)


def fit(
    recipe: StageRecipe,
    task: Task,
    runtime: Runtime,
    stages: Mapping[str, type[Recipe]],
    evaluate_every: int | None,
    fresh: bool = False,
) -> RunDirectory:
    """Train `task` to the recipe's last step and write its artifact.

    Raises:
        StopRequested: after a stop signal, once everything is saved.
    """
    first = runtime.process_index == 0
    run = RunDirectory(recipe, stages, fresh, first)
    clock, stop = Clock(), StopFlag()
    checkpoint = run.latest()
    step = 0
    if checkpoint is not None:
        checkpoint.restore(task.state(), runtime)
        step = checkpoint.step
    loader = task.open_loader(checkpoint.meta["cursor"] if checkpoint else None)
    cursor: dict[str, Any] = dict(checkpoint.meta["cursor"]) if checkpoint else {}
    metrics = Metrics(run.path, recipe.obs, step, recipe.model_dump(mode="json")) if first else None
    progress = Progress(recipe.stage, recipe.train.steps, step, quiet=not first)
    for line in task.describe():
        progress.say(f"  {line}")
    if checkpoint is not None:
        progress.say(f"  going on from {checkpoint.path} (step {step})")
    flops, (peak, peak_source) = task.flops_per_step(), runtime.peak_flops()
    meta = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": digest(recipe),
        "versions": versions(),
    }
    if first:
        run.note(meta | {"mesh": runtime.mesh, "flops_per_step": flops, "peak_flops": [peak, peak_source]})

    def save_now() -> None:
        with clock.measure("save"):
            path = save(run.checkpoints, step, task.state(), meta | {"cursor": cursor}, runtime)
            prune(run.checkpoints, recipe.checkpoint.keep)
            progress.say(f"  saved {path}")

    def evaluate_now() -> None:
        with clock.measure("evaluate"):
            values = task.evaluate(step, run.samples)
        if metrics and values:
            metrics.write(step, values)
            progress.say(f"  step {step}: " + "  ".join(f"{key} {value:.4g}" for key, value in values.items()))

    window = _Window(runtime, clock, recipe.train.global_batch_images, flops, peak)
    compiled: dict[str, Callable[..., Scalars]] = {}
    pending: tuple[int, str, Scalars] | None = None
    try:
        if evaluate_every and step == 0:
            evaluate_now()
        while step < recipe.train.steps:
            try:
                batch = next(loader)
            except TooMuchBadData as error:
                if first:  # those that no batch brought
                    run.quarantine([refusal.as_dict() for refusal in error.refused])
                raise
            clock.add("input_wait", batch.wait_seconds)
            window.waited += batch.wait_seconds
            if first:
                run.quarantine([refusal.as_dict() for refusal in batch.refused])
            phase = task.phase(step)
            if phase not in compiled:
                compiled[phase] = runtime.compile_step(
                    partial(task.train_step, phase), lambda: list(task.state().values())
                )
                if len(compiled) > 1:
                    progress.say(f"  step {step}: phase {phase} begins")
            scalars = compiled[phase](runtime.put(batch.arrays, recipe.train.accumulate), task.controls(step))
            cursor = batch.cursor
            step += 1
            window.steps += 1
            shown = None
            if pending is not None:  # read a step late: the device is never waited for in between
                shown = window.record(metrics, pending)
                pending = None
            last = step == recipe.train.steps
            if step % recipe.obs.log_every_steps == 0 or last:
                pending = (step, phase, scalars)
            progress.advance(shown)
            stopping = runtime.agree(stop.set)
            evaluating = evaluate_every is not None and (step % evaluate_every == 0 or last)
            saving = stopping or last or step % recipe.checkpoint.every_steps == 0
            if not (evaluating or saving):
                continue
            with window.pause():
                if pending is not None:
                    progress.show(window.record(metrics, pending))
                    pending = None
                if evaluating:
                    evaluate_now()
                if saving:
                    save_now()
            if stopping and not last:
                raise StopRequested(
                    f"stopped as asked at step {step} of {recipe.train.steps}; the same command resumes"
                )
        if first:
            counters = runtime.counters()
            clock.seconds["compile"] = counters.compile_seconds
            task.export(run.artifact, meta | {"step": step})
            seconds = {"elapsed": clock.elapsed, **clock.seconds}
            run.note({"goodput": clock.goodput(), "seconds": seconds, "finished": time.time(), "step": step})
            progress.say(f"  artifact {run.artifact}  (goodput {clock.goodput():.0%}, {clock.elapsed:.0f} s)")
        return run
    finally:
        progress.close()
        loader.close()
        stop.release()
        if metrics:
            metrics.close()


class _Window:
    """The steps since the last record: their time and rates."""

    def __init__(self, runtime: Runtime, clock: Clock, images: int, flops: float, peak: float) -> None:
        self._runtime, self._clock, self._images, self._flops, self._peak = runtime, clock, images, flops, peak
        self._rates: dict[str, float] = {}
        self._restart()

    def _restart(self) -> None:
        self.steps, self.waited, self._began = 0, 0.0, time.perf_counter()
        self._compiled = self._runtime.counters().compile_seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside is no training: wait for the device, then leave the time out."""
        self._runtime.finish()
        paused = time.perf_counter()
        compiled = self._runtime.counters().compile_seconds
        yield
        self._began += time.perf_counter() - paused
        self._compiled += self._runtime.counters().compile_seconds - compiled

    def record(self, metrics: Metrics | None, pending: tuple[int, str, Scalars]) -> dict[str, float]:
        """Write one record; returns what a person sees beside the bar."""
        step, phase, scalars = pending
        values = scalars.read()
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"the loss is {values['loss']} at step {step}: nothing since the last checkpoint is kept; "
                "lower the learning rates, or look at the data that came last"
            )
        counters = self._runtime.counters()
        self._clock.seconds["compile"] = counters.compile_seconds
        if self.steps:
            compile_seconds = counters.compile_seconds - self._compiled
            seconds = max(time.perf_counter() - self._began - compile_seconds, 1e-9) / self.steps
            self._rates = {
                "seconds": seconds,
                "images_per_second": self._images / seconds,
                "input_wait_seconds": self.waited / self.steps,
                "mfu": self._flops / seconds / self._peak,
            }
            self._restart()
        rates = self._rates | {
            "compile_seconds": counters.compile_seconds,
            "compilations": counters.compilations,
            "goodput": self._clock.goodput(),
        }
        if metrics:
            metrics.write(step, {"phase": phase, **values, **rates})
        return {"loss": values["loss"], "images/s": rates.get("images_per_second", 0.0)}
