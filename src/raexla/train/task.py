"""What a Task is: modules, parts with their optimisers, and one step.

A Task owns what is trained and knows the mathematics; the loop knows the order of events; the runtime knows devices.
A step reads no value on the host: what it needs is in its arguments or in the Task's state, so that it compiles once
per phase and can be traced without memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raexla.data import Loader, open_loader
from raexla.data.batches import Collate, Transform
from raexla.optim import Part
from raexla.recipe import UserError
from raexla.runtime import Draws, Runtime
from raexla.train.base import StageRecipe

Batch = dict[str, Tensor]


class Task(ABC):
    """Base of the stages' Tasks.

    Subclasses build and place their modules in `__init__`, register what is trained or stateful with `own`, and
    create their `parts`.
    """

    def __init__(self, recipe: StageRecipe, runtime: Runtime) -> None:
        self.runtime = runtime
        self.seed = recipe.run.seed
        self.data = recipe.data
        self.train = recipe.train
        self.steps, self.epoch_steps = recipe.train.total_steps, recipe.train.epoch_steps
        self.accumulate = recipe.train.accumulate
        self.batch_images = recipe.train.global_batch_images
        self.tick: Callable[[], None] = lambda: None
        """For `evaluate` to call between its batches, as often on every process; raises where it is to be left."""
        self.parts: list[Part] = []
        self._owned: dict[str, Tensor] = {}
        shards = runtime.batch_shards
        if self.batch_images % (self.accumulate * shards):
            raise UserError(
                f"train.global_batch_images {self.batch_images} does not divide by accumulate {self.accumulate} x "
                f"{shards} batch shards (data x fsdp); the next that does is "
                f"{-(-self.batch_images // (self.accumulate * shards)) * self.accumulate * shards}"
            )

    def own(self, prefix: str, module: nn.Module, keep: Callable[[str], bool] = lambda name: True) -> None:
        """Put a placed module's parameters and persistent buffers into the checkpointed state."""
        unique: dict[int, str] = {}
        for name, tensor in module.state_dict(keep_vars=True).items():
            if keep(name) and id(tensor) not in unique:  # tied parameters once
                unique[id(tensor)] = name
                self._owned[f"model/{prefix}.{name}" if prefix else f"model/{name}"] = tensor

    # -- what the loop calls --

    def phase(self, step: int) -> str:
        """The phase that `step` belongs to; a change of phase compiles the step anew, once."""
        return "train"

    def controls(self, step: int) -> dict[str, float]:
        """Host values that the step needs: its number and the learning rates."""
        values = {"step": float(step)}
        for part in self.parts:
            values.update(part.controls(step))
        return values

    @abstractmethod
    def train_step(self, phase: str, batch: Batch, controls: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One optimiser step; returns device scalars, `loss` among them."""

    @abstractmethod
    def open_loader(self, cursor: Mapping[str, Any] | None) -> Loader:
        """The training data from `cursor` on."""

    def batch_shapes(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Array name -> (shape, dtype) of a batch, all processes together: what a step can be traced on."""
        raise NotImplementedError(f"{type(self).__name__} can't be planned")

    def legible(self, values: dict[str, float]) -> dict[str, float]:
        """What is written of a step's scalars."""
        return values

    def observe(self, step: int, phase: str, values: Mapping[str, float], coming: int) -> str | None:
        """Look at the scalars of a step; a line for a person if that changes what the steps from `coming` on do. What
        is decided here belongs into `memory`.

        Every step is looked at, in order, but late: when the next record is written, or something is saved.

        Args:
            step: steps done with it (the first one is 1). phase: its phase.
            coming: the next step to be taken, by the numbers of `phase` and `controls` (the first one is 0).

        Raises:
            UserError: the run should not go on.
        """
        return None

    def memory(self) -> dict[str, Any]:
        """JSON values that a checkpoint keeps beside the state: what `observe` has decided."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Take over what `memory` gave, or begin if it is empty."""
        del memory  # nothing to remember

    def evaluate(self, step: int, samples: Path) -> dict[str, float]:
        """Validation figures at `step`, and pictures into `samples`."""
        return {}

    @abstractmethod
    def export(self, path: Path, meta: Mapping[str, Any]) -> str:
        """Write the stage's artifact; returns its digest."""

    @abstractmethod
    def flops_per_step(self) -> float:
        """Model FLOPs of one step by the convention of `obs/timing.py`."""

    def describe(self) -> list[str]:
        """Lines for a person at the start of a run."""
        return [self.train.describe(), *(part.describe() for part in self.parts)]

    def state(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds, by name."""
        out = dict(self._owned)
        for part in self.parts:
            out.update(part.state())
        return out

    # -- help for subclasses --

    def loader(
        self,
        transform: Transform,
        collate: Collate,
        cursor: Mapping[str, Any] | None,
        groups: Mapping[str, str] | None = None,
    ) -> Loader:
        """The recipe's training data for this process; see `open_loader`."""
        return open_loader(
            self.data,
            transform=transform,
            collate=collate,
            global_batch_images=self.batch_images,
            seed=self.seed,
            process_index=self.runtime.process_index,
            process_count=self.runtime.process_count,
            cursor=cursor,
            groups=groups,
            exchange=self.runtime.exchange,
        )

    def draws(self, controls: Mapping[str, Tensor], rows: Tensor) -> Draws:
        """The step's random numbers for the samples of `rows`."""
        return Draws(self.seed, controls["step"].to(torch.int32), rows)

    def over_processes(self, scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars of this process's rows, each with its share of the whole batch -> those of all processes."""
        return {name: self.runtime.sum_over_processes(value) for name, value in scalars.items()}

    def micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """The micro-batches of a step: [accumulate, n, ...] -> accumulate times [n, ...]."""
        for index in range(self.accumulate):
            yield {name: value[index] for name, value in batch.items()}


def gradients(
    loss: Tensor, parameters: Sequence[Tensor], into: list[Tensor] | None = None, retain: bool = False
) -> list[Tensor]:
    """d loss / d parameters, added to `into` if given; `retain` keeps the graph for another loss.

    Raises:
        RuntimeError: a parameter that should be trained has no part in the loss (a bug).
    """
    new = torch.autograd.grad(loss, list(parameters), retain_graph=retain)
    return list(new) if into is None else [a + b for a, b in zip(into, new, strict=True)]


def summed(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The step's scalars from its micro-batches', each of which already carries its share of the whole batch."""
    return {name: torch.stack([p[name].detach().float() for p in parts]).sum() for name in parts[0]}
