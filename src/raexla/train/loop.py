"""The loop: restore, next batch, step, log, evaluate, save, stop. The mathematics is in the Tasks.

Scalars are read a step late, so that the device is never waited for in between. A step that turns out not to be finite
takes the run back to its last checkpoint and leaves that step's batch out (`guards.py`); since every step is looked at
before anything is saved, a checkpoint never holds what such a step left behind.
"""

import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any

from raexla.checkpoint import Checkpoint, prune, save
from raexla.data import Loader, TooMuchBadData
from raexla.data.batches import Batch
from raexla.obs import Clock, Metrics, Progress
from raexla.recipe import Recipe, StopRequested, UserError, digest
from raexla.runtime import Runtime, Scalars
from raexla.train.base import StageRecipe
from raexla.train.directory import RunDirectory, versions
from raexla.train.guards import NotFiniteError, SkipList, Taken, quarantined, read
from raexla.train.task import Task
from raexla.train.window import Window


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
        UserError: training can't go on: a guard has stopped it.
    """
    run = RunDirectory(recipe, stages, fresh, runtime.process_index == 0)
    loop = _Loop(recipe, task, runtime, run, evaluate_every)
    try:
        loop.begin()
        while loop.step < loop.steps:
            try:
                loop.take_step()
                loop.after_step()
            except NotFiniteError as bad:
                loop.go_back(bad)
        loop.end()
        return run
    finally:
        loop.close()


class _Loop:
    """Where a run stands, and the events of a step in their order."""

    def __init__(
        self, recipe: StageRecipe, task: Task, runtime: Runtime, run: RunDirectory, evaluate_every: int | None
    ) -> None:
        self.recipe, self.task, self.runtime, self.run = recipe, task, runtime, run
        self.first, self.evaluate_every = runtime.process_index == 0, evaluate_every
        self.step, self.steps = 0, recipe.train.total_steps
        self.cursor: dict[str, Any] = {}
        self.batches = 0
        """Batches that the loader has given, those that were left out included."""
        self.loader: Loader | None = None
        self.metrics: Metrics | None = None
        self.unread: list[Taken] = []
        """Steps whose scalars nobody has looked at yet."""
        self.pending: Taken | None = None
        """The one of them that is to be logged."""
        self.compiled: dict[str, Callable[..., Scalars]] = {}
        self.clock, self.stop = Clock(), StopFlag()
        self.progress = Progress(recipe.stage, self.steps, quiet=not self.first)
        flops, (peak, peak_source) = task.flops_per_step(), runtime.peak_flops()
        self.window = Window(runtime, self.clock, recipe.train.global_batch_images, flops, peak)
        self.meta = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_sha256": digest(recipe),
            "versions": versions(),
        }
        if self.first:
            facts = {"mesh": runtime.mesh, "flops_per_step": flops, "peak_flops": [peak, peak_source]}
            run.note(self.meta | facts)

    def begin(self) -> None:
        """Go on from the last checkpoint, or begin; the very start is saved too, for a rollback in the first steps."""
        checkpoint = self.run.latest()
        self.skips = SkipList(self.run.path, checkpoint.meta.get("skipped", ()) if checkpoint else (), self.first)
        for line in self.task.describe():
            self.progress.say(f"  {line}")
        self._stand_at(checkpoint)
        if checkpoint is not None:
            self.progress.say(f"  going on from {checkpoint.path} (step {self.step})")
            return
        if self.evaluate_every:
            self._evaluate()
        if self.recipe.guards.rollbacks:
            self._save()
            saved = self.run.latest()
            assert saved is not None
            # On XLA, a step traced right after its state was first read takes other tensors for that state than were
            # read (seen with torch_xla 2.9 and fresh, all-zero optimiser states); restored tensors are their own.
            saved.restore(self.task.state(), self.runtime)

    def take_step(self) -> None:
        """The next batch through the step; nothing is waited for but the scalars of the step before."""
        batch, number = self._next_batch()
        phase = self.task.phase(self.step)
        if self.step and phase != self.task.phase(self.step - 1):
            self.progress.say(f"  step {self.step}: phase {phase} begins")
            self._event(self.step + 1, "phase", phase=phase)
        if phase not in self.compiled:
            self.compiled[phase] = self.runtime.compile_step(
                partial(self.task.train_step, phase), lambda: list(self.task.state().values())
            )
        placed = self.runtime.put(batch.arrays, self.recipe.train.accumulate)
        scalars = self.compiled[phase](placed, self.task.controls(self.step))
        self.cursor = batch.cursor
        self.step += 1
        self.window.steps += 1
        uids = tuple(uid for group in batch.uids.values() for uid in group)
        self.unread.append(Taken(self.step, phase, number, uids, sum(self._refused().values()), scalars))
        shown = self._record()
        if self.step % self.recipe.obs.log_every_steps == 0 or self.step == self.steps:
            self.pending = self.unread[-1]
        self.progress.advance(shown)

    def after_step(self) -> None:
        """Evaluate, save and stop, where it is time to.

        Raises:
            StopRequested: saved after a stop signal.
        """
        last, every = self.step == self.steps, self.evaluate_every
        stopping = self.runtime.agree(self.stop.set)
        evaluating = every is not None and (self.step % every == 0 or last)
        saving = stopping or last or self.step % self.recipe.checkpoint.every_steps == 0
        if not (evaluating or saving):
            return
        with self.window.pause():
            if self.pending is not None:
                self.progress.show(self._record())
            elif self.unread:
                self._observe(self._look_until(self.unread[-1]))
            if evaluating:
                self._evaluate()
            if saving:
                self._save()
        if stopping and not last:
            raise StopRequested(f"stopped as asked at step {self.step} of {self.steps}; the same command resumes")

    def go_back(self, found: NotFiniteError) -> None:
        """To the last checkpoint, leaving out the batch of the step that was not finite.

        Raises:
            UserError: this has happened as often as the recipe allows, or there is nothing to go back to.
        """
        limit, checkpoint = self.recipe.guards.rollbacks, self.run.latest()
        hint = "lower the learning rates, or look at the samples that quarantine.jsonl names"
        if self.first:
            self.run.quarantine(quarantined(found))
        if len(self.skips) >= limit:
            raise UserError(
                f"{found}, and guards.rollbacks allows {limit} (batches left out so far: {len(self.skips)}): {hint}"
            )
        if checkpoint is None:
            raise UserError(f"{found}, and there is no checkpoint to go back to: {hint}")
        entry = self.skips.add(found)
        with self.clock.measure("rollback"):
            self._stand_at(checkpoint)
        self._event(
            self.step, "rollback", skipped_batch=entry["batch"], reason=entry["reason"], samples=found.taken.uids
        )
        self.progress.say(
            f"  {found}: back to step {self.step}, batch {entry['batch']} is left out "
            f"({len(self.skips)} of at most {limit})"
        )

    def end(self) -> None:
        """Write what the run was for."""
        if not self.first:
            return
        counters = self.runtime.counters()
        self.clock.seconds["compile"] = counters.compile_seconds
        self.task.export(self.run.artifact, self.meta | {"step": self.step})
        seconds = {"elapsed": self.clock.elapsed, **self.clock.seconds}
        finished = {"goodput": self.clock.goodput(), "seconds": seconds, "finished": time.time(), "step": self.step}
        self.run.note(finished | {"refused": self._refused(), "skipped_batches": self.skips.as_list()})
        goodput = f"(goodput {self.clock.goodput():.0%}, {self.clock.elapsed:.0f} s)"
        self.progress.say(f"  artifact {self.run.artifact}  {goodput}")

    def close(self) -> None:
        """Give everything back, however the run ended."""
        self.progress.close()
        self.stop.release()
        if self.loader is not None:
            self.loader.close()
        if self.metrics is not None:
            self.metrics.close()

    # -- the parts --

    def _stand_at(self, checkpoint: Checkpoint | None) -> None:
        """State, data and metrics as they were at a checkpoint, or at the very start."""
        meta: Mapping[str, Any] = {}
        if checkpoint is not None:
            checkpoint.restore(self.task.state(), self.runtime)
            meta = checkpoint.meta
        self.step = checkpoint.step if checkpoint is not None else 0
        self.cursor = dict(meta.get("cursor", {}))
        self.batches = meta.get("batches", self.step)
        self.task.recall(meta.get("memory", {}))
        self.unread, self.pending = [], None
        for old in (self.loader, self.metrics):
            if old is not None:
                old.close()
        self.loader = self.task.open_loader(self.cursor or None)
        if self.first:
            recipe = self.recipe
            self.metrics = Metrics(self.run.path, recipe.obs, self.step, recipe.model_dump(mode="json"))
        self.progress.stand_at(self.step)
        self.window.restart()

    def _next_batch(self) -> tuple[Batch, int]:
        """The next batch that isn't left out, and its number."""
        assert self.loader is not None
        while True:
            try:
                batch = next(self.loader)
            except TooMuchBadData as error:
                if self.first:  # those that no batch brought
                    self.run.quarantine([refusal.as_dict() for refusal in error.refused])
                raise
            self.clock.add("input_wait", batch.wait_seconds)
            self.window.waited += batch.wait_seconds
            if self.first:
                self.run.quarantine([refusal.as_dict() for refusal in batch.refused])
            self.batches += 1
            if self.batches - 1 not in self.skips:
                return batch, self.batches - 1

    def _record(self) -> Mapping[str, float] | None:
        """Look at the step that is pending, if there is one, and write its record; what a person sees of it.

        Raises:
            NotFiniteError: it, or a step before it that nobody has looked at, is not finite.
        """
        taken, self.pending = self.pending, None
        if taken is None:
            return None
        seen = self._look_until(taken)
        values = self.task.legible(seen[-1][1])
        rates = self.window.rates()
        if self.metrics:
            self.metrics.write(taken.step, {"phase": taken.phase, **values, "refused": taken.refused, **rates})
        self._observe(seen)
        return {"loss": values["loss"], "images/s": rates.get("images_per_second", 0.0)}

    def _refused(self) -> dict[str, int]:
        """Samples of each source that were refused for their content, by the cursor."""
        return {name: sum(counts.values()) for name, counts in self.cursor.get("skips", {}).items()}

    def _look_until(self, last: Taken) -> list[tuple[Taken, dict[str, float]]]:
        """Read the scalars of all steps up to `last`, oldest first."""
        seen = []
        while self.unread and self.unread[0].step <= last.step:
            seen.append((self.unread[0], read(self.unread[0])))
            del self.unread[0]
        return seen

    def _observe(self, seen: list[tuple[Taken, dict[str, float]]]) -> None:
        """Let the task look at steps that have been read."""
        for taken, values in seen:
            said = self.task.observe(taken.step, taken.phase, values, self.step)
            if said is not None:
                self.progress.say(f"  step {self.step}: {said}")
                self._event(self.step, "guard", says=said)

    def _event(self, step: int, event: str, **values: Any) -> None:
        if self.metrics:
            self.metrics.write(step, {"event": event, **values})

    def _save(self) -> None:
        with self.clock.measure("save"):
            where = {"cursor": self.cursor, "batches": self.batches, "skipped": self.skips.as_list()}
            meta = self.meta | where | {"memory": self.task.memory()}
            path = save(self.run.checkpoints, self.step, self.task.state(), meta, self.runtime)
            prune(self.run.checkpoints, self.recipe.checkpoint.keep)
            self.progress.say(f"  saved {path}")

    def _evaluate(self) -> None:
        with self.clock.measure("evaluate"):
            values = self.task.evaluate(self.step, self.run.samples)
        if self.metrics and values:
            self.metrics.write(self.step, values)
            shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            self.progress.say(f"  step {self.step}: {shown}")
