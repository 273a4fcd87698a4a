"""A Task's step as `plan` traces it and as `train` runs it; for fresh processes, where torch_xla is first imported."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from raexla.plan.trace import Program
from raexla.runtime.xla import XlaRuntime
from raexla.train.base import StageRecipe
from raexla.train.task import Task


def planned(recipe: StageRecipe, phase: str) -> Program:
    """What `raexla plan` compiles: the step traced on placeholders, of an outline without weights."""
    from raexla.plan.abstract import AbstractRuntime
    from raexla.plan.outline import outline_task
    from raexla.plan.trace import trace_step

    runtime = AbstractRuntime(recipe.runtime.devices or 1, recipe.mesh, recipe.runtime)  # type: ignore[arg-type]
    return trace_step(outline_task(recipe, runtime), runtime, phase)


class _Seen(Exception):
    """The step was traced; it need not be compiled."""


def trained(task: Task, runtime: XlaRuntime, phase: str) -> tuple[str, list[list[Any]]]:
    """What `raexla train` compiles, taken where it hands it to the compiler.

    Returns:
        The program as StableHLO, and its arguments as (shape, type, sharding).
    """
    import torch_xla
    import torch_xla.core.xla_model as xm

    lowlevel: Any = torch_xla._XLAC
    placed = runtime.put(batch(task), task.accumulate)
    known = {lowlevel._xla_get_tensor_id(t): _described(t) for t in (*task.state().values(), *placed.values())}
    seen: list[Any] = []

    def look(roots: list[Tensor], _: list[Tensor]) -> None:
        numbers, data = lowlevel._get_tensors_xla_device_data_node(roots)
        seen.append([known.get(number) or _described(d) for number, d in zip(numbers, data, strict=True)])
        seen.append(xm.get_stablehlo(roots))
        raise _Seen

    with _instead(lowlevel, "_xla_warm_up_cache", look):
        step = runtime.compile_step(partial(task.train_step, phase), lambda: list(task.state().values()))
        try:
            step(placed, task.controls(0))
        except _Seen:
            arguments, text = seen
            return text, arguments
    raise AssertionError("the step never came to the compiler")


def _described(tensor: Tensor) -> list[Any]:
    """Shape, type and sharding of a tensor that holds values, not operations."""
    import torch_xla

    split = torch_xla._XLAC._get_xla_sharding_spec(tensor.detach())
    return [list(tensor.shape), str(tensor.dtype), split or "{replicated}"]


def batch(task: Task) -> Mapping[str, np.ndarray]:
    """Rows of zeros, in the shapes of the recipe's batches."""
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in task.batch_shapes().items()}


@contextmanager
def _instead(owner: Any, name: str, function: Callable[..., Any]) -> Any:
    kept = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, kept)
