"""The step that a Task trains with, as a StableHLO program with its arguments named, split and donated."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raexla.plan.abstract import AbstractRuntime, Held, rename
from raexla.train.task import Task


@dataclass(frozen=True)
class Program:
    """A traced step.

    arguments: in the program's order. donated: argument number -> the result that overwrites it. results: shardings.
    """

    stablehlo: str
    arguments: tuple[Held, ...]
    donated: dict[int, int]
    results: tuple[str, ...]


def trace_step(task: Task, runtime: AbstractRuntime, phase: str) -> Program:
    """Trace `task.train_step` of a phase.

    Args:
        task: opened on `runtime`.
    """
    lowlevel: Any = runtime._xla._XLAC
    state = task.state()
    rename(runtime, state)
    placed = runtime.put(_zeros(task), task.accumulate)
    controls = task.controls(1)
    values = runtime.hold("controls", (len(controls),), torch.float32, (None,))
    identity = lowlevel._xla_get_tensor_id
    before = {identity(tensor): number for number, tensor in enumerate(state.values())}
    shardings = [lowlevel._get_xla_sharding_spec(tensor) for tensor in state.values()]
    scalars = task.train_step(phase, placed, dict(zip(controls, values.unbind(), strict=True)))
    result = torch.stack([value.detach().float() for value in scalars.values()])
    changed = lowlevel._check_tensor_need_materialization(list(state.values()))
    updated = [number for number, new in enumerate(changed) if new]
    roots = [*(list(state.values())[n] for n in updated), result]
    numbers, data = lowlevel._get_tensors_xla_device_data_node(roots)
    arguments = tuple(
        runtime.held.get(n) or Held("constant", tuple(d.shape), d.dtype, "{replicated}")
        for n, d in zip(numbers, data, strict=True)
    )
    place = {n: out for out, n in enumerate(updated)}
    donated = {i: place[before[n]] for i, n in enumerate(numbers) if n in before and before[n] in place}
    import torch_xla.core.xla_model as xm

    text: str = xm.get_stablehlo(roots)
    results = (*(shardings[n] or "{replicated}" for n in updated), "{replicated}")
    return Program(text, arguments, donated, results)


def _zeros(task: Task) -> dict[str, Any]:
    return {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (shape, dtype) in task.batch_shapes().items()}
