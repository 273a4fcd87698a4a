"""The loop: restore, next batch, step, log, evaluate, save, stop. The mathematics is in the Tasks.

Scalars are read a step late, so that the device is never waited for in between. A step that turns out not to be finite
takes the run back to its last checkpoint and leaves that step's batch out (`guards.py`); since every step is looked at
before anything is saved, a checkpoint never holds what such a step left behind.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from raexla.checkpoint import Checkpoint, open_saver
from raexla.data import Loader, TooMuchBadData
from raexla.data.batches import Batch
from raexla.obs import Clock, Metrics, Progress, read_metrics
from raexla.recipe import ProcessLost, Recipe, StopRequested, UserError, digest
from raexla.runtime import Runtime, Scalars
from raexla.train.base import StageRecipe
from raexla.train.begin_from import begin_from
from raexla.train.directory import RunDirectory, versions
from raexla.train.guards import NotFiniteError, SkipList, Taken, quarantined, read
from raexla.train.profiling import StepProfiler
from raexla.train.stop import StopRequest
from raexla.train.task import Task
from raexla.train.together import Together, open_run
from raexla.train.watch import STEP, Watch
from raexla.train.window import Window


def fit(
    recipe: StageRecipe,
    task: Task,
    runtime: Runtime,
    stages: Mapping[str, type[Recipe]],
    evaluate_every: int | None,
    stop: StopRequest,
    fresh: bool = False,
) -> RunDirectory:
    """Train `task` to the recipe's last step and write its artifact.

    Raises:
        StopRequested: once `stop` asks for it on any process, when everything is saved.
        UserError: training can't go on: a guard has stopped it.
        ProcessLost: another process is gone.
    """
    run = open_run(recipe, runtime, stages, fresh)
    loop = _Loop(recipe, task, runtime, run, evaluate_every, stop)
    ended = "failed"
    try:
        loop.begin()
        loop.stop_if_asked()
        while loop.step < loop.steps:
            try:
                loop.take_step()
                loop.after_step()
            except NotFiniteError as bad:
                loop.go_back(bad)
        loop.end()
        ended = "done"
        return run
    except StopRequested:
        ended = "stopped"
        raise
    except ProcessLost as lost:
        raise ProcessLost(f"{lost} ({loop.watch.others()})") from lost
    finally:
        loop.close(ended)


class _Loop:
    """Where a run stands, and the events of a step in their order."""

    def __init__(
        self,
        recipe: StageRecipe,
        task: Task,
        runtime: Runtime,
        run: RunDirectory,
        evaluate_every: int | None,
        stop: StopRequest,
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
        self.clock = Clock()
        self.watch = Watch(run.path, recipe.watch, runtime.process_index, runtime.process_count, self.steps)
        self.together = Together(runtime, run, stop, recipe.obs.record_uids)
        self.saver = open_saver(run.checkpoints, runtime, recipe.checkpoint)
        self.figures: dict[str, float] = {}
        """What is known of the step that was last taken."""
        self.owed = False
        """Whether the evaluation of this step was left out because the run was asked to stop."""
        task.tick = self._stop_evaluating
        self.progress = Progress(recipe.stage, self.steps, quiet=not self.first)
        flops, (peak, peak_source) = task.flops_per_step(), runtime.peak_flops()
        self.window = Window(runtime, self.clock, recipe.train.global_batch_images, flops, peak)
        self.profiler = StepProfiler(
            recipe.train.profile, run.path / "profile", runtime, self.window.pause, self.progress.say
        )
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
        self.watch.begin()
        checkpoint = self.saver.latest()
        self.skips = SkipList(self.run.path, checkpoint.meta.get("skipped", ()) if checkpoint else (), self.first)
        for line in self.task.describe():
            self.progress.say(f"  {line}")
        self._stand_at(checkpoint)
        if checkpoint is not None:
            self.progress.say(f"  going on from {checkpoint.url} (step {self.step})")
            if checkpoint.meta.get("evaluation_owed") and not self._evaluated():
                self._evaluate()
            return
        if self.recipe.checkpoint.start is not None:
            for line in begin_from(self.recipe.checkpoint.start, self.task.state(), self.runtime, self.run):
                self.progress.say(f"  {line}")
        if self.evaluate_every:
            self.owed = not self._evaluate()
        if self.recipe.guards.rollbacks:
            self._save()
            saved = self.saver.latest()
            assert saved is not None
            # On XLA, a step traced right after its state was first read takes other tensors for that state than were
            # read (seen with torch_xla 2.9 and fresh, all-zero optimiser states); restored tensors are their own.
            saved.restore(self.task.state(), self.runtime)

    def take_step(self) -> None:
        """The next batch through the step; nothing is waited for but the scalars of the step before."""
        batch, number = self._next_batch()
        phase = self.task.phase(self.step)
        self.watch.at(self.step, STEP if phase in self.compiled else "compile")
        if self.step and phase != self.task.phase(self.step - 1):
            self.progress.say(f"  step {self.step}: phase {phase} begins")
            self._event(self.step + 1, "phase", phase=phase)
        if phase not in self.compiled:
            self.compiled[phase] = self.runtime.compile_step(
                partial(self.task.train_step, phase), lambda: list(self.task.state().values())
            )
        self.profiler.before(self.step + 1)
        placed = self.runtime.put(batch.arrays, self.recipe.train.accumulate)
        scalars = self.compiled[phase](placed, self.task.controls(self.step))
        self.cursor = batch.cursor
        self.step += 1
        self.figures = {}
        self.window.steps += 1
        uids = tuple(uid for group in batch.uids.values() for uid in group)
        self.unread.append(Taken(self.step, phase, number, uids, scalars, batch.epochs))
        shown = self._record()
        if self.step % self.recipe.obs.log_every_steps == 0 or self.step == self.steps:
            self.pending = self.unread[-1]
        self.progress.advance(shown)
        self.profiler.after(self.step)
        self.together.after(self.step, batch, number)

    def after_step(self) -> None:
        """Evaluate, save and stop, where it is time to.

        Raises:
            StopRequested: saved after a stop request.
        """
        stopping, every = self.together.stopping is not None, self.evaluate_every
        evaluating = every is not None and (self.step % every == 0 or self.step == self.steps)
        saving = stopping or self.step == self.steps or self.step % self.recipe.checkpoint.every_steps == 0
        if not (evaluating or saving):
            return
        with self.window.pause():
            if self.pending is not None:
                self.progress.show(self._record())
            elif self.unread:
                self._observe(self._look_until(self.unread[-1]))
            self.owed = evaluating and (stopping or not self._evaluate())
            if saving or self.owed:
                self._save()
        if saving or self.owed:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Where everything is saved: end if any process has been asked to.

        Raises:
            StopRequested: so it is.
        """
        if self.together.asked():
            self._committed()
            why = f"stopped {self.together.stopping} at step {self.step} of {self.steps}"
            raise StopRequested(f"{why}; the same command resumes")

    def go_back(self, found: NotFiniteError) -> None:
        """To the last checkpoint, leaving out the batch of the step that was not finite.

        Raises:
            UserError: this has happened as often as the recipe allows, or there is nothing to go back to.
        """
        limit, checkpoint = self.recipe.guards.rollbacks, self.saver.latest()
        hint = "lower the learning rates, or look at the samples that quarantine.jsonl names"
        self.together.quarantine(quarantined(found))
        if len(self.skips) >= limit:
            raise UserError(
                f"{found}, and guards.rollbacks allows {limit} (batches left out so far: {len(self.skips)}): {hint}"
            )
        if checkpoint is None:
            raise UserError(f"{found}, and there is no checkpoint to go back to: {hint}")
        entry = self.skips.add(found)
        with self.clock.measure("rollback"), self.watch.during("rollback"):
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
        refused = self.together.refused_of_sources(self.cursor)
        self._committed()
        if not self.first:
            return
        self.watch.at(self.step, "export")
        counters = self.runtime.counters()
        self.clock.seconds["compile"] = counters.compile_seconds
        self.task.export(self.run.artifact, self.meta | {"step": self.step})
        seconds = {"elapsed": self.clock.elapsed, **self.clock.seconds}
        finished = {"goodput": self.clock.goodput(), "seconds": seconds, "finished": time.time(), "step": self.step}
        self.run.note(finished | {"refused": refused, "skipped_batches": self.skips.as_list()})
        self.run.note({"saves": self.saver.saves.as_dict()})
        self.run.push()
        goodput = f"(goodput {self.clock.goodput():.0%}, {self.clock.elapsed:.0f} s)"
        self.progress.say(f"  artifact {self.run.place}/artifact  {goodput}")

    def close(self, ended: str) -> None:
        """Give everything back; `ended` says how the run ended."""
        if (lost := self.saver.close()) is not None:  # else told by `save` or `end`
            self.progress.say(f"  {lost}")
        self.profiler.close()
        self.progress.close()
        self.together.close()
        if self.loader is not None:
            self.loader.close()
        if self.metrics is not None:
            self.metrics.close()
        self.watch.close(ended)
        if (unsent := self.run.close(failed=ended != "done")) is not None:
            self.progress.say(f"  {unsent}")

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
        kept = self.step if checkpoint is not None else -1  # at the very start, nothing of a former try
        self.together.stand_at(kept)
        if self.first:
            recipe = self.recipe
            self.metrics = Metrics(self.run.path, recipe.obs, kept, recipe.model_dump(mode="json"))
        self.progress.stand_at(self.step)
        self.window.restart()

    def _next_batch(self) -> tuple[Batch, int]:
        """The next batch that isn't left out, and its number."""
        assert self.loader is not None
        while True:
            try:
                batch = next(self.loader)
            except TooMuchBadData as error:
                self.run.quarantine([refusal.as_dict() for refusal in error.refused])  # those that no batch brought
                raise
            self.clock.add("input_wait", batch.wait_seconds)
            self.window.waited += batch.wait_seconds
            self.together.refuse([refusal.as_dict() for refusal in batch.refused])
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
            seen_of = {f"epochs/{source}": round(value, 6) for source, value in taken.epochs.items()}
            said = {"phase": taken.phase, **values, "refused": self.together.refused, **seen_of, **rates}
            self.metrics.write(taken.step, said)
        if taken.step == self.step:
            self.figures.update(values)
        self._observe(seen)
        return {"loss": values["loss"], "images/s": rates.get("images_per_second", 0.0)}

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
        self._committed()
        with self.clock.measure("save"), self.watch.during("save"):
            cursor = self.together.cursor(self.cursor)
            where = {"cursor": cursor, "batches": self.batches, "skipped": self.skips.as_list()}
            meta = self.meta | where | {"memory": self.task.memory(), "evaluation_owed": self.owed}
            for file in (self.metrics, self.together):
                if file is not None:
                    file.keep()
            self.run.push()
            self.saver.save(self.step, self.task.state(), meta, self.figures)
        self._say_saved()

    def _say_saved(self) -> None:
        for line in self.saver.told():
            self.progress.say(f"  {line}")

    def _committed(self) -> None:
        """Wait until what is being saved is there."""
        with self.clock.measure("save_wait"), self.watch.during("save"):
            self.saver.wait()
        self._say_saved()

    def _evaluate(self) -> bool:
        """False if the run was asked to stop meanwhile: then nothing is written."""
        try:
            with self.clock.measure("evaluate"), self.watch.during("evaluate"):
                values = self.task.evaluate(self.step, self.run.samples)
        except _StopEvaluating:
            return False
        self.figures.update(values)
        if self.metrics and values:
            self.metrics.write(self.step, values)
            shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            self.progress.say(f"  step {self.step}: {shown}")
        self.run.push()
        return True

    def _stop_evaluating(self) -> None:
        if self.together.asked():
            raise _StopEvaluating

    def _evaluated(self) -> bool:
        """Whether this step's evaluation, which was owed, has been made up for since."""
        last = [record for record in read_metrics(self.run.path) if record["step"] == self.step] if self.first else []
        found = any("loss" not in record and "event" not in record for record in last)
        return bool(self.runtime.exchange(found)[0])


class _StopEvaluating(Exception):
    """An evaluation is left in the middle, to save and stop at once."""
