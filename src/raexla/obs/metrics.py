"""`metrics.jsonl`: one JSON object a line, in step order, cut back on resume; TensorBoard and wandb mirror it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raexla.obs.lines import Lines, read_lines
from raexla.recipe import Recipe

FILE = "metrics.jsonl"
CONSUMED = "consumed.jsonl"


class ObsRecipe(Recipe):
    """What is logged, and where to."""

    log_every_steps: Annotated[int, Field(ge=1)] = 10
    record_uids: bool = False
    """Name the samples of every step in `consumed.jsonl`: what the run has seen, no more and no less."""
    tensorboard: bool = True
    """Event files in the run directory's `events/`."""
    wandb_project: str | None = None
    """Mirror to this Weights & Biases project (needs the extra `wandb`)."""


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """The records of a run, oldest first; a last line that a kill has cut is left out."""
    return read_lines(run / FILE)


class Metrics:
    """Writes a run's metrics. Only process 0 has one that writes.

    Args:
        run: the run directory.
        step: the step that the run goes on from; later records of a former lineage are cut.
    """

    def __init__(self, run: Path, recipe: ObsRecipe, step: int, recipe_values: Mapping[str, Any]) -> None:
        self._lines = Lines(run / FILE, step)
        self._board: Any = None
        self._wandb: Any = None
        if recipe.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "events"), purge_step=step + 1)  # drops that step and later ones
        if recipe.wandb_project:
            from raexla.obs.wandb_mirror import open_wandb

            self._wandb = open_wandb(recipe.wandb_project, run, recipe_values)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One record; `step` is the number of optimiser steps done."""
        self._lines.write(step, values)
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def keep(self) -> None:
        """Make the file survive the end of this machine."""
        self._lines.keep()

    def close(self) -> None:
        """Flush everything to disk."""
        self._lines.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
