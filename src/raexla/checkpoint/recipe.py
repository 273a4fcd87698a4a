"""When a run saves, and what it keeps."""

from typing import Annotated, Literal

from pydantic import Field

from raexla.recipe import Recipe


class BestRecipe(Recipe):
    """Checkpoints that are kept because of a figure."""

    metric: str
    """A name in the records of `metrics.jsonl`, such as `validation/loss`; a checkpoint has that of its step."""
    mode: Literal["min", "max"] = "min"
    """Whether the smallest or the largest value is the best."""
    keep: Annotated[int, Field(ge=1)] = 1
    """How many of the best."""


class StartRecipe(Recipe):
    """Tensors that a new run takes from another run's checkpoint. Only at its very start; a resume takes everything."""

    path: str
    """A run, its `checkpoints` folder or one checkpoint; any fsspec URL. A folder stands for its newest."""
    take: Annotated[tuple[str, ...], Field(min_length=1)] = ("model/*",)
    """Patterns of names, `*` for anything: what this run has of them must be in the checkpoint, in the same shape.
    `raexla ckpt show` lists the names: `model/...`, `ema/...`, `optim/...`."""
    leave: tuple[str, ...] = ()
    """Patterns of those that are left as this run made them all the same."""


class CheckpointRecipe(Recipe):
    """When to save, and what to keep. The newest checkpoint is never removed."""

    every_steps: Annotated[int, Field(ge=1)] = 1000
    keep: Annotated[int, Field(ge=1)] = 2
    """The newest ones that are kept."""
    keep_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Those of every so many steps are kept for good."""
    best: BestRecipe | None = None
    """The best by a figure are kept too."""
    start: StartRecipe | None = None
    """What a new run takes from another run's checkpoint."""
    background: bool = True
    """Write while training goes on; the step is held only for a copy to the host. False holds it until all is written:
    for hosts that have no memory for another copy of their part of the state."""
    file_mib: Annotated[int, Field(ge=1)] = 512
    """Largest file of pieces."""
