"""Replaying a traced step.

torch_xla traces a step anew each time it is called, which costs the host as long as a small step takes, and for models
of many layers more than the devices need. A step of a Task is the same program every time: its inputs are the state,
the batch and the controls, its outputs the new state and the scalars. So it is traced once, and from then on its
compiled program is run on whatever the state and the batch are now. torch_xla's dynamo bridge runs its graphs in the
same way; what is new here is that the state is updated in place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch_xla
import torch_xla.core.xla_model as xm
from torch import Tensor


@dataclass(frozen=True)
class _Program:
    """A compiled step and where its inputs and outputs go.

    sources: one for each input, `("state", i)`, `("input", i)` or `("constant", tensor)`. updated: the state tensors
    that its outputs replace, in order; the outputs end with the result.
    """

    graph: Any
    sources: tuple[tuple[str, Any], ...]
    updated: tuple[int, ...]


class ReplayedStep:
    """`step(*inputs) -> result` that also updates `state()` in place; traced once for each shape of its inputs.

    Args:
        step: reads `inputs` and state, overwrites state, returns one tensor. What else it reads is taken as constant.
        state: the tensors that it may overwrite, always the same ones.
    """

    def __init__(self, step: Callable[..., Tensor], state: Callable[[], Sequence[Tensor]]) -> None:
        self._step, self._state = step, state
        self._programs: dict[tuple[Any, ...], _Program] = {}

    def __call__(self, batch: Mapping[str, Tensor], values: Tensor, *rest: Any) -> Tensor:
        """Run the step on `batch` and `values`; `rest` is handed through and must not change."""
        inputs = [*batch.values(), values]
        shapes = tuple((tuple(x.shape), x.dtype) for x in inputs)
        state = list(self._state())
        program = self._programs.get(shapes)
        if program is None:
            program, arguments = self._trace(state, batch, inputs, values, rest)
            self._programs[shapes] = program
        else:
            known = {"state": state, "input": inputs}
            arguments = [where if kind == "constant" else known[kind][where] for kind, where in program.sources]
        outputs = torch_xla._XLAC._run_cached_graph(program.graph, arguments)
        for index, new in zip(program.updated, outputs, strict=False):
            state[index].data = new  # the tensor keeps its identity; copy_ would run a program
        return outputs[len(program.updated)]

    def _trace(
        self, state: list[Tensor], batch: Mapping[str, Tensor], inputs: list[Tensor], values: Tensor, rest: Any
    ) -> tuple[_Program, list[Tensor]]:
        torch_xla.sync()
        xm.wait_device_ops()
        identity = torch_xla._XLAC._xla_get_tensor_id
        where: dict[int, tuple[str, Any]] = {identity(x): ("state", i) for i, x in enumerate(state)}
        where |= {identity(x): ("input", i) for i, x in enumerate(inputs)}
        allowed = torch_xla._XLAC._get_allow_execution()
        torch_xla._XLAC._set_allow_execution(False)  # a step that reads a value on the host is an error
        try:
            result = self._step(batch, values, *rest)
        finally:
            torch_xla._XLAC._set_allow_execution(allowed)
        changed = torch_xla._XLAC._check_tensor_need_materialization(state)
        updated = tuple(i for i, new in enumerate(changed) if new)
        roots = [*(state[i] for i in updated), result]
        numbers, data = torch_xla._XLAC._get_tensors_xla_device_data_node(roots)
        sources = tuple(where.get(n, ("constant", d)) for n, d in zip(numbers, data, strict=True))
        graph = torch_xla._XLAC._get_graph_hash(roots)
        torch_xla._XLAC._xla_warm_up_cache(roots, [])
        return _Program(graph, sources, updated), list(data)
