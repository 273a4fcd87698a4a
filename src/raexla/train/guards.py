"""What a run does about a step whose loss or gradient is not finite: go back, leave the batch out, go on.

Batches are numbered in the order in which the loader gives them, from 0, those that are left out included; so the list
of skipped numbers and the cursor say exactly which samples a run has seen. The list is kept in the run directory, which
a checkpoint from before the bad step knows nothing of, and in every later checkpoint.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raexla.recipe import Recipe
from raexla.runtime import Scalars

FILE = "skipped.jsonl"
REASON = "non_finite_step"


class GuardsRecipe(Recipe):
    """When a run helps itself, and when it stops."""

    rollbacks: Annotated[int, Field(ge=0)] = 3
    """How often a run may go back to its last checkpoint because a loss or gradient was not finite, leaving out the
    batch of that step; the next time stops it. 0 stops at the first."""


@dataclass(frozen=True)
class Taken:
    """A step whose scalars are still on the device."""

    step: int
    """Counted from 1."""
    phase: str
    batch: int
    """Number of its batch."""
    uids: tuple[str, ...]
    """The batch's samples on this process."""
    scalars: Scalars
    epochs: Mapping[str, float] = field(default_factory=dict)
    """Source -> epochs of it that this process has gone through."""


class NotFiniteError(Exception):
    """A scalar of a step is not finite."""

    def __init__(self, taken: Taken, name: str, value: float) -> None:
        super().__init__(f"{name} is {value} at step {taken.step}")
        self.taken = taken


def read(taken: Taken) -> dict[str, float]:
    """The scalars of a step on the host.

    Raises:
        NotFiniteError: one of them is not finite.
    """
    values = taken.scalars.read()
    for name, value in values.items():
        if not math.isfinite(value):
            raise NotFiniteError(taken, name, value)
    return values


class SkipList:
    """The batches that a run leaves out, and why.

    Args:
        run: the run directory.
        saved: what the checkpoint that is gone on with knew of (`as_list`).
        write: whether this process keeps the file.
    """

    def __init__(self, run: Path, saved: Iterable[Mapping[str, Any]], write: bool) -> None:
        self._path, self._write = run / FILE, write
        self._entries = {int(entry["batch"]): dict(entry) for entry in saved}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):  # a kill may have cut the last one
                    entry = json.loads(line)
                    self._entries[int(entry["batch"])] = entry

    def __contains__(self, batch: int) -> bool:
        return batch in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, found: NotFiniteError) -> dict[str, Any]:
        """Leave the batch of a bad step out from now on; returns the entry."""
        entry = {"batch": found.taken.batch, "step": found.taken.step, "reason": str(found)}
        self._entries[found.taken.batch] = entry
        if self._write:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        return entry

    def as_list(self) -> list[dict[str, Any]]:
        """JSON values for a checkpoint, in the batches' order."""
        return [self._entries[batch] for batch in sorted(self._entries)]


def quarantined(found: NotFiniteError) -> list[dict[str, Any]]:
    """The samples of a bad step as they are named in `quarantine.jsonl`."""
    return [
        {"uid": uid, "source": uid.split("/")[0], "reason": REASON, "detail": str(found), "batch": found.taken.batch}
        for uid in found.taken.uids
    ]
