"""When and how a run is disturbed: a plan drawn from a seed, and the hunt for its instants."""

import random
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from chaos_runs.start import Job

STEP_LINE = re.compile(rb'\{"step": (\d+),')
KINDS = {"start": "in the start", "step": "in the steps", "save": "aimed at a save"}
PATIENCE = 1200.0
"""Seconds in which a start of a run must have got somewhere; far more than it takes on an idle machine."""


@dataclass(frozen=True)
class Aim:
    """An instant: `later` of the typical duration after the event that `kind` names, at or after step `step`."""

    kind: str
    step: int
    later: float
    victim: float
    """Which of the processes, as a part of them."""


def plan(kills: int, steps: int, rng: random.Random) -> list[Aim]:
    """Aims over the whole run in the order of their steps: half of them in saves, a few while the program starts."""
    places = sorted(rng.randrange(max(1, steps - 3)) for _ in range(kills))
    kinds = [("save", "step", "save", "start", "step", "save")[number % 6] for number in range(kills)]
    rng.shuffle(kinds)
    if kinds and kinds[0] == "start" and kills > 1:  # nothing is there yet that could be lost
        kinds[0], kinds[-1] = kinds[-1], kinds[0]
    return [Aim(kind, place, rng.random(), rng.random()) for kind, place in zip(kinds, places, strict=True)]


@dataclass
class Hit:
    """What happened."""

    aim: Aim
    step: int
    """Steps that the run had recorded by then."""
    seconds: float
    """Since the start of the processes."""
    codes: list[int | None]
    left: list[str] = field(default_factory=list)
    """What lay half done in `checkpoints` afterwards."""
    others_seconds: float = 0.0
    """How long the other processes lived on."""
    victim: int = 0
    resumes: int = 0
    """Step of the newest complete checkpoint afterwards."""

    @property
    def in_save(self) -> bool:
        """Whether a checkpoint was being written."""
        return bool(self.left)


class Hunter:
    """Watches a run directory and strikes.

    Args:
        step_seconds, save_seconds, start_seconds: typical durations, for aims.
    """

    def __init__(self, run: Path, number: signal.Signals, times: dict[str, float]) -> None:
        self._run, self._signal, self._times = run, number, times
        self._file, self._folder = run / "consumed.jsonl", run / "checkpoints"
        self._old = set(self.writing())

    def step(self) -> int:
        """The last step that the run has recorded; 0 for none."""
        try:
            with self._file.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - 65536))
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return 0
        found = [STEP_LINE.match(line) for line in lines]
        return int(found[-1][1]) if found and found[-1] else 0

    def writing(self) -> list[tuple[str, int]]:
        """Half-done checkpoints, and what tells each from another of its name."""
        found = []
        try:
            for path in self._folder.iterdir():
                if path.name.startswith("."):
                    found.append((path.name, path.stat().st_ctime_ns))
        except FileNotFoundError:
            pass  # no folder yet, or gone while looking
        return found

    def strike(self, job: Job, aim: Aim, before: tuple[int, int] | None) -> Hit | None:
        """Wait for the instant and send the signal to one process; None if the run ended first.

        Raises:
            TimeoutError: the run gets nowhere.
        """
        if not self._until(job, aim, before):
            return None
        time.sleep(aim.later * self._times[aim.kind])
        victim = job.processes[int(aim.victim * len(job.processes))]
        if victim.poll() is not None:
            return None
        victim.send(self._signal)
        struck = time.monotonic()
        if not job.wait(PATIENCE):
            raise TimeoutError(f"{PATIENCE:.0f} s after the signal some processes still run: {job.codes}")
        lived = time.monotonic() - struck
        number = job.processes.index(victim)
        left = sorted(set(self.writing()) - self._old)
        return Hit(aim, self.step(), struck - job.began, job.codes, [name for name, _ in left], lived, number)

    def identity(self) -> tuple[int, int] | None:
        """What tells the file of this start from that of the one before."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _until(self, job: Job, aim: Aim, before: tuple[int, int] | None) -> bool:
        """Wait for the event; False if the run has ended."""
        if aim.kind == "start" and self._signal == signal.SIGKILL and len(job.processes) == 1:
            return True  # any time from the very beginning
        deadline, at_step = time.monotonic() + PATIENCE, False
        beat = self._run / "heartbeat" / f"process-{int(aim.victim * len(job.processes)):05d}.json"
        while not job.ended():
            if aim.kind == "start":  # from when it listens, and has met the others
                if f'"pid": {self._pid(job, aim)},' in _text(beat):
                    return True
            elif not at_step:
                now = self.identity()
                at_step = now is not None and now != before and self.step() >= aim.step
            if at_step and (aim.kind == "step" or self.writing()):
                return True
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run got nowhere in {PATIENCE:.0f} s (at step {self.step()}): see {job.log}")
            time.sleep(0.0005 if at_step else 0.002)
        return False

    @staticmethod
    def _pid(job: Job, aim: Aim) -> int:
        return job.processes[int(aim.victim * len(job.processes))].pid


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
