"""The watch over a run: a heartbeat that others can read, and stacks of all threads when a step takes far too long.

A thread does both, once a second. What the run is doing it is told by `at`; only steps are timed: compiling,
evaluating, saving and going back take what they take.
"""

import faulthandler
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from raexla.recipe import Recipe
from raexla.runtime.notice import MaintenanceNotice, on_google
from raexla.train.stop import StopRequest

ABORTED = 77
"""Exit code of a program that the watchdog has ended. Nothing was saved; the same command resumes."""
STEP = "step"


class WatchRecipe(Recipe):
    """Who looks after the run while nobody looks."""

    heartbeat_seconds: Annotated[float, Field(ge=1)] = 1.0
    """How often a process writes `heartbeat/process-XXXXX.json`."""
    slow_factor: Annotated[float, Field(gt=1)] = 20.0
    """A step is far too slow when it takes so many times the running median of the steps before it ..."""
    slow_floor_seconds: Annotated[float, Field(gt=0)] = 300.0
    """... and at least this long."""
    abort: bool = False
    """End such a program (exit code 77) instead of waiting for the step, so that a supervisor can start it again."""
    maintenance_notice: Literal["auto", "always", "never"] = "auto"
    """Listen to the metadata server for maintenance and preemption, and stop when told; `auto` on Google's machines."""


@dataclass(frozen=True)
class _Standing:
    step: int
    phase: str
    since: float
    """By the wall clock."""
    began: float
    """By the monotonic one."""


class Watch:
    """Looks after one process of a run, from `begin` to `close`.

    Args:
        run: the run directory; `heartbeat/` and `stacks/` are written into it.
        index: of this process. count: of processes. steps: of the whole run.
    """

    def __init__(self, run: Path, recipe: WatchRecipe, index: int, count: int, steps: int) -> None:
        self.recipe, self._index, self._count, self._steps = recipe, index, count, steps
        self._folder, self._stacks = run / "heartbeat", run / "stacks" / f"process-{index:05d}.txt"
        self._file = self._folder / f"process-{index:05d}.json"
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._standing = _Standing(0, "start", time.time(), time.monotonic())
        self._seconds: deque[float] = deque(maxlen=64)
        self._said: _Standing | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def begin(self) -> None:
        """Start watching."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._index == 0:
            for old in self._folder.glob("process-*.json"):
                if (
                    not old.stem.removeprefix("process-").isdigit()
                    or int(old.stem.removeprefix("process-")) >= self._count
                ):
                    old.unlink(missing_ok=True)  # of a former start with more processes
        self._thread.start()

    def at(self, step: int, phase: str = STEP) -> None:
        """The run is at `step` (steps done) and begins `phase`: `step` for one that is to be timed, or another word."""
        before, now = self._standing, time.monotonic()
        if before.phase == STEP and before is not self._said:  # a step that hung says nothing about the next
            self._seconds.append(now - before.began)
        self._standing = _Standing(step, phase, time.time(), now)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """What happens inside is `phase`; afterwards the run is where it was."""
        step, outer = self._standing.step, self._standing.phase
        self.at(step, phase)
        try:
            yield
        finally:
            self.at(step, "between steps" if outer == STEP else outer)

    @property
    def limit_seconds(self) -> float:
        """How long a step may take before it is far too slow."""
        median = statistics.median(self._seconds) if self._seconds else 0.0
        return max(self.recipe.slow_floor_seconds, self.recipe.slow_factor * median)

    def others(self) -> str:
        """What the heartbeats of the other processes say, the one that was heard of longest ago first."""
        heard = []
        for path in sorted(self._folder.glob("process-*.json")):
            try:
                beat = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if beat["process"] != self._index:
                place = f"process {beat['process']} (pid {beat['pid']} on {beat['host']})"
                age = time.time() - beat["time"]
                heard.append(
                    (age, f"{place} was last heard of {age:.1f} s ago: {beat['phase']} at step {beat['step']}")
                )
        return "; ".join(line for _, line in sorted(heard, reverse=True)[:4])

    def close(self, phase: str) -> None:
        """Stop watching; the last heartbeat says how the run ended."""
        if self._thread.is_alive():
            self.at(self._standing.step, phase)
            self._over.set()
            self._thread.join()
            self._beat()

    def _look(self) -> None:
        while True:
            self._beat()
            if self._over.wait(self.recipe.heartbeat_seconds):
                return
            self._check()

    def _beat(self) -> None:
        standing = self._standing
        beat = {
            "process": self._index,
            "processes": self._count,
            "host": self._host,
            "pid": self._pid,
            "step": standing.step,
            "steps": self._steps,
            "phase": standing.phase,
            "since": round(standing.since, 3),
            "time": round(time.time(), 3),
        }
        temporary = self._file.with_name(f".{self._file.name}.tmp")
        try:
            temporary.write_text(json.dumps(beat) + "\n", encoding="utf-8")
            temporary.replace(self._file)
        except OSError:
            return  # a full disk or a lost mount ends the run where it matters; the next beat may get through

    def _check(self) -> None:
        standing, limit = self._standing, self.limit_seconds
        if standing.phase != STEP or standing is self._said:
            return
        taken = time.monotonic() - standing.began
        if taken <= limit:
            return
        self._said = standing
        median = f", the median is {statistics.median(self._seconds):.3g} s" if self._seconds else ""
        what = f"step {standing.step + 1} has taken {taken:.0f} s (more than {limit:.3g} s{median})"
        try:
            self._dump(what)
            where = f"the stacks of all threads are in {self._stacks}"
        except OSError as error:
            where = f"their stacks could not be written to {self._stacks} ({error})"
        end = f"; ending this program with exit code {ABORTED} (watch.abort)" if self.recipe.abort else ""
        print(f"warning: process {self._index}: {what}: {where}{end}", file=sys.stderr, flush=True)
        if self.recipe.abort:
            os._exit(ABORTED)  # the main thread hangs: nothing else would end it

    def _dump(self, what: str) -> None:
        self._stacks.parent.mkdir(exist_ok=True)
        with self._stacks.open("a", encoding="utf-8") as file:
            file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} pid {self._pid} on {self._host}: {what}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)


@contextmanager
def listening(recipe: WatchRecipe, stop: StopRequest) -> Iterator[None]:
    """Inside, a maintenance notice asks the run to stop, where the recipe wants that."""
    wanted = recipe.maintenance_notice
    if wanted == "never" or (wanted == "auto" and not on_google()):
        yield
        return
    notice = MaintenanceNotice(stop.ask)
    try:
        yield
    finally:
        notice.close()
