"""Plain PyTorch behind the runtime protocol: CPU or CUDA, one device a process, data-parallel over processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from raexla.recipe import UserError
from raexla.runtime.base import (
    Counters,
    EagerRecipe,
    Part,
    Piece,
    Remat,
    Scalars,
    StepFunction,
    check_rows,
)
from raexla.runtime.mesh import MeshRecipe
from raexla.runtime.peak import measured_peak
from raexla.runtime.processes import Processes
from raexla.runtime.sharding import Table, resolve


class EagerRuntime:
    """See `raexla.runtime.base.Runtime`."""

    type = "eager"

    def __init__(self, recipe: EagerRecipe, mesh: MeshRecipe) -> None:
        if recipe.device == "cuda" and not torch.cuda.is_available():
            raise UserError("runtime.device: cuda is asked for, but PyTorch sees no CUDA device; use cpu or auto")
        cuda = recipe.device != "cpu" and torch.cuda.is_available()
        self._processes = Processes(timeout_seconds=recipe.peer_timeout_seconds)
        self.process_index, self.process_count = self._processes.index, self._processes.count
        self.device = torch.device(f"cuda:{self.process_index % torch.cuda.device_count()}" if cuda else "cpu")
        self.device_count = self.process_count
        if mesh.tensor not in (None, 1):
            raise UserError(
                f"mesh.tensor is {mesh.tensor}: the eager runtime splits batches only; use runtime.type xla"
            )
        self.mesh = {"data": self.process_count, "fsdp": 1, "tensor": 1}
        self._dtype = torch.bfloat16 if recipe.dtype == "bfloat16" else None
        self._remat = recipe.remat

    @property
    def batch_shards(self) -> int:
        return self.process_count

    @property
    def row_parts(self) -> int:
        return 1

    @property
    def loss_shards(self) -> int:
        return self.process_count

    def place(self, module: nn.Module, table: Table | None = None) -> None:
        if table is not None:
            resolve(table, {name: tuple(p.shape) for name, p in module.named_parameters()})
        module.to(self.device)
        for owner in module.modules():
            if self._remat != "none" and "runner" in vars(owner):  # raexla.nn.stack
                owner.runner = partial(_again, self._remat)  # type: ignore[assignment]

    def prime(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def copy_of(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def put(self, arrays: Mapping[str, np.ndarray], accumulate: int = 1) -> dict[str, Tensor]:
        out = {}
        for name, array in arrays.items():
            check_rows(name, len(array), accumulate, 1)
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            out[name] = tensor.reshape(accumulate, -1, *tensor.shape[1:]).to(self.device, non_blocking=True)
        return out

    def replicate(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape).to(self.device)

    def compile_step(
        self, step: StepFunction, state: Callable[[], Sequence[Tensor]]
    ) -> Callable[[dict[str, Tensor], Mapping[str, float]], Scalars]:
        def run(batch: dict[str, Tensor], controls: Mapping[str, float]) -> Scalars:
            scalars = step(batch, {name: torch.tensor(value) for name, value in controls.items()})
            return Scalars(list(scalars), torch.stack([value.detach().float() for value in scalars.values()]))

        return run

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def to_host(self, tensor: Tensor) -> np.ndarray:
        return tensor.detach().cpu().numpy()

    def reduce_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        return [self._processes.sum(g) for g in gradients] if self.process_count > 1 else gradients

    def sum_over_processes(self, value: Tensor) -> Tensor:
        return self._processes.sum(value)

    @property
    def holds_all(self) -> bool:
        return True

    def local_pieces(self, tensor: Tensor) -> Iterator[Piece]:
        yield Piece((0,) * tensor.ndim, tensor.detach(), live=True)

    def parts(self, tensor: Tensor) -> list[Part]:
        into = tensor.detach() if tensor.device.type == "cpu" else torch.empty_like(tensor, device="cpu")
        return [Part(tuple(slice(0, size) for size in tensor.shape), into)]

    @torch.no_grad()
    def take(self, tensor: Tensor, parts: Sequence[Part]) -> None:
        if tensor.device.type != "cpu":
            tensor.copy_(parts[0].into)

    @torch.no_grad()
    def assign(self, tensor: Tensor, values: np.ndarray) -> None:
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(values)).reshape(values.shape))

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=self._dtype) if self._dtype else nullcontext()

    def whole(self, parameter: Tensor) -> Tensor:
        return parameter

    def agree(self, flag: bool) -> bool:
        return self._processes.any(flag)

    def exchange(self, value: Any) -> list[Any]:
        return self._processes.exchange(value)

    def barrier(self) -> None:
        self._processes.barrier()

    def another_group(self) -> Processes:
        return self._processes.another()

    def finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        self.finish()
        with torch.profiler.profile(activities=kinds) as traced:
            yield
            self.finish()
        folder.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(folder / f"process-{self.process_index:05d}.pt.trace.json.gz"))

    def peak_flops(self) -> tuple[float, str]:
        value, source = measured_peak(self.device)
        return value * self.process_count, source

    def counters(self) -> Counters:
        return Counters()


_LINEARS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
"""What a selective remat keeps the results of; attention's products are batched, `bmm`."""


def _again(
    remat: Remat, blocks: Sequence[nn.Module], x: Tensor, shared: Sequence[Tensor], fixed: Mapping[str, Any]
) -> Tensor:
    """A runner of `raexla.nn.stack` whose backward pass begins with a block's forward pass."""
    keep: dict[str, Any] = {}
    if remat == "selective":
        keep["context_fn"] = partial(create_selective_checkpoint_contexts, _LINEARS)
    for block in blocks:
        x = checkpoint(block, x, *shared, use_reentrant=False, preserve_rng_state=False, **keep, **fixed)
    return x
