"""PyTorch/XLA with SPMD: a TPU slice, or several virtual devices on one CPU, behind the runtime protocol."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raexla.recipe import UserError
from raexla.runtime.base import Counters, Part, Piece, Scalars, StepFunction, XlaRecipe, check_rows
from raexla.runtime.compile_cache import open_compile_cache
from raexla.runtime.gather import Gatherer, GatheringMode
from raexla.runtime.mesh import AXES, BATCH_AXES, MeshRecipe
from raexla.runtime.peak import measured_peak, tpu_peak
from raexla.runtime.processes import Processes
from raexla.runtime.sharding import Axes, Table, resolve

#: How many parts each dim of a tensor is split into, in XLA's notation `{devices=[4,1]0,1,2,3}`.
_TILES = re.compile(r"devices=\[([\d,]+)\]")


def has_tpu() -> bool:
    """Whether this machine has TPU chips; asks the kernel, starts nothing."""
    return any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))


def _start_client(recipe: XlaRecipe) -> int:
    """Bring up the PJRT client with SPMD on; returns the number of devices of the whole job."""
    tpu = recipe.platform == "tpu" or (recipe.platform == "auto" and has_tpu())
    os.environ["PJRT_DEVICE"] = "TPU" if tpu else "CPU"
    if not tpu:
        os.environ["CPU_NUM_DEVICES"] = str(recipe.devices or 1)
        _optimise_lightly()
    # GSPMD announces its own retirement at every compilation; nothing a user could do about it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import torch_xla.runtime as xr
    except ImportError as missing:
        raise UserError(
            "runtime.type is xla, but torch_xla is not installed: pip install 'raexla[xla]' (torch 2.9), "
            "or use --set runtime.type=eager"
        ) from missing
    if recipe.compile_cache is not None:
        open_compile_cache(recipe.compile_cache, tpu)
    if not xr.is_spmd():
        xr.use_spmd()
    count = xr.global_runtime_device_count()
    if recipe.devices not in (None, count):
        raise UserError(f"runtime.devices is {recipe.devices}, but this program runs on {count} XLA devices")
    return count


def _optimise_lightly() -> None:
    """Compile for the CPU at LLVM's level 1 unless the user's XLA_FLAGS say otherwise.

    A nano step compiles in 20 s instead of 31 and runs as fast: its time is in matrix products, which LLVM does not
    compile.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_optimization_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=1".strip()


class XlaRuntime:
    """See `raexla.runtime.base.Runtime`."""

    type = "xla"

    def __init__(self, recipe: XlaRecipe, mesh: MeshRecipe) -> None:
        self.device_count = _start_client(recipe)
        import torch_xla
        import torch_xla.distributed.spmd as xs
        import torch_xla.runtime as xr

        self._xla, self._xs = torch_xla, xs
        self.mesh = mesh.resolve(self.device_count)
        self._mesh = xs.Mesh(np.arange(self.device_count), tuple(self.mesh[axis] for axis in AXES), AXES)
        self._processes = Processes(xr.process_index(), xr.process_count(), recipe.peer_timeout_seconds)
        self.process_index, self.process_count = self._processes.index, self._processes.count
        self.device = torch_xla.device()
        self._local_devices: list[str] = torch_xla._XLAC._xla_get_runtime_devices()
        self._replay = recipe.replay
        self._dtype = torch.bfloat16 if recipe.dtype == "bfloat16" else None
        from raexla.runtime.attention import open_attention
        from raexla.runtime.scanned import Way

        self._gatherer = Gatherer(self._annotate, self.batch_shards)
        self._way = Way(recipe.scan, recipe.remat, self._gatherer)

        self.attention = open_attention(recipe.attention, self.for_tpu, self._mesh, self.mesh)

    @property
    def for_tpu(self) -> bool:
        """Whether the programs that are made here are to run on TPUs."""
        import torch_xla.core.xla_model as xm

        return bool(xm.xla_device_hw(self.device) == "TPU")

    @property
    def batch_shards(self) -> int:
        return self.mesh["data"] * self.mesh["fsdp"]

    def _annotate(self, tensor: Tensor, axes: Axes) -> None:
        """Say how the result of an operation is split."""
        self._xla._XLAC._xla_annotate_custom_sharding(tensor, self._mesh.get_op_sharding(axes))

    def _up(self, tensor: Tensor, axes: Axes) -> Tensor:
        # Under SPMD .to() keeps the data on the host until mark_sharding sends each device its own part.
        placed = tensor.to(self.device)
        self._xs.mark_sharding(placed, self._mesh, axes)
        return placed

    def _up_rows(self, tensor: Tensor, axes: Axes) -> Tensor:
        """This host's rows of a batch that is split over all hosts."""
        if self.process_count == 1:
            return self._up(tensor, axes)
        import torch_xla.core.xla_model as xm

        spec = self._xs.ShardingSpec(self._mesh, axes, minibatch=True)
        return xm.send_cpu_data_to_device([tensor], self.device, input_sharding=spec)[0]

    @property
    def row_parts(self) -> int:
        return self.batch_shards

    @property
    def loss_shards(self) -> int:
        return 1

    def place(self, module: nn.Module, table: Table | None = None) -> None:
        # Module.to() gives tied parameters one copy each on XLA: move every tensor once and hand it to all owners.
        axes = resolve(table, {n: tuple(p.shape) for n, p in module.named_parameters()}) if table is not None else {}
        moved: dict[int, Tensor] = {}
        for prefix, owner in module.named_modules():
            for store in (owner._parameters, owner._buffers):
                for name, tensor in store.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in moved:
                        where = axes.get(f"{prefix}.{name}" if prefix else name, (None,) * tensor.ndim)
                        placed = self._up(tensor.detach().contiguous(), where)
                        if isinstance(tensor, nn.Parameter):
                            placed = nn.Parameter(placed, requires_grad=tensor.requires_grad)
                            self._gatherer.note(placed, where)
                        moved[id(tensor)] = placed
                    store[name] = moved[id(tensor)]  # type: ignore[assignment]
        for owner in module.modules():
            if "runner" in vars(owner):  # raexla.nn.stack
                owner.runner = self._way.runner()  # type: ignore[assignment]
        if self.attention is not None:
            self.attention.take_over(module)

    def _zeros_like(self, tensor: Tensor) -> Tensor:
        zeros = torch.zeros(tensor.shape, dtype=tensor.dtype, device=self.device)
        spec = self._xla._XLAC._get_xla_op_sharding(tensor)
        if spec is not None:
            self._xla._XLAC._xla_mark_sharding(zeros, spec)
        return zeros

    def prime(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            group["capturable"], group["foreach"] = True, False
            for parameter in group["params"]:
                optimizer.state[parameter] = {
                    "step": self.replicate(np.zeros((), dtype=np.float32)),
                    "exp_avg": self._zeros_like(parameter),
                    "exp_avg_sq": self._zeros_like(parameter),
                }
        self.finish()

    def copy_of(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def put(self, arrays: Mapping[str, np.ndarray], accumulate: int = 1) -> dict[str, Tensor]:
        out = {}
        for name, array in arrays.items():
            check_rows(name, len(array) * self.process_count, accumulate, self.batch_shards)
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            tensor = tensor.reshape(accumulate, -1, *tensor.shape[1:])
            axes: Axes = (None, BATCH_AXES, *(None,) * (tensor.ndim - 2))
            out[name] = self._up_rows(tensor, axes)
        return out

    def replicate(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return self._up(tensor.reshape(array.shape), (None,) * array.ndim)

    def compile_step(
        self, step: StepFunction, state: Callable[[], Sequence[Tensor]]
    ) -> Callable[[dict[str, Tensor], Mapping[str, float]], Scalars]:
        from raexla.runtime.replay import ReplayedStep

        names: list[str] = []

        def traced(batch: dict[str, Tensor], values: Tensor, controls: list[str]) -> Tensor:
            scalars = step(batch, dict(zip(controls, values.unbind(), strict=True)))
            names[:] = scalars
            return torch.stack([value.detach().float() for value in scalars.values()])

        run_once = ReplayedStep(traced, state) if self._replay else self.compile(traced)

        def run(batch: dict[str, Tensor], controls: Mapping[str, float]) -> Scalars:
            values = self.replicate(np.array(list(controls.values()), dtype=np.float32))
            stacked = run_once(batch, values, list(controls))
            return Scalars(list(names), stacked)

        return run

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._xla.compile(function, full_graph=True)

    def to_host(self, tensor: Tensor) -> np.ndarray:
        plain = tensor.device.type != "xla" or self.process_count > 1
        if plain or self._shard_shape(tensor) is None:
            return tensor.detach().cpu().numpy()
        self.finish()
        whole = torch.empty(tensor.shape, dtype=tensor.dtype)  # .cpu() would compile a program each time, to gather it
        for piece in self.local_pieces(tensor):
            where = tuple(slice(o, o + n) for o, n in zip(piece.offset, piece.values.shape, strict=True))
            whole[where] = piece.values
        return whole.numpy()

    def reduce_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        return gradients

    def sum_over_processes(self, value: Tensor) -> Tensor:
        return value

    @property
    def holds_all(self) -> bool:
        return False

    def local_pieces(self, tensor: Tensor) -> Iterator[Piece]:
        sharded = self._xs.wrap_if_sharded(tensor.detach())
        if not isinstance(sharded, self._xs.XLAShardedTensor):
            if self.process_index == 0:
                yield Piece((0,) * tensor.ndim, tensor.detach().cpu())
            return
        for shard in sharded.local_shards:
            if shard.replica_id != 0:
                continue
            if isinstance(shard.indices, type(Ellipsis)):
                yield Piece((0,) * tensor.ndim, shard.data.cpu())
                continue
            inside = tuple(slice(0, s.stop - s.start) for s in shard.indices)  # without the padding
            yield Piece(tuple(int(s.start) for s in shard.indices), shard.data[inside].cpu())

    def parts(self, tensor: Tensor) -> list[Part]:
        regions = self._regions(tensor) or [tuple(slice(0, size) for size in tensor.shape)]
        unique = {tuple((s.start, s.stop) for s in region): region for region in regions}
        return [
            Part(region, torch.empty([s.stop - s.start for s in region], dtype=tensor.dtype))
            for region in unique.values()
        ]

    @torch.no_grad()
    def take(self, tensor: Tensor, parts: Sequence[Part]) -> None:
        regions, shape = self._regions(tensor), self._shard_shape(tensor)
        if regions is None or shape is None:
            self._assign_whole(tensor, parts[0].into)
            return
        filled = {tuple((s.start, s.stop) for s in part.region): part.into for part in parts}
        shards = []
        for region in regions:
            values = filled[tuple((s.start, s.stop) for s in region)]
            if tuple(values.shape) != shape:  # the end of an uneven split
                padded = torch.zeros(shape, dtype=values.dtype)
                padded[tuple(slice(0, size) for size in values.shape)] = values
                values = padded
            shards.append(values)
        self._xla._XLAC._load_local_shards(tensor, shards, self._local_devices)

    def _regions(self, tensor: Tensor) -> list[tuple[slice, ...]] | None:
        """What each local device holds of a split tensor; None for one that stands whole on every device."""
        if self._shard_shape(tensor) is None:
            return None
        held = self._xla._XLAC._get_local_shard_replica_and_indices([tensor.detach()])[0]
        return [tuple(slice(int(s.start), int(s.stop)) for s in indices) for _, indices in held]

    def _shard_shape(self, tensor: Tensor) -> tuple[int, ...] | None:
        """Shape of a device's part of a split tensor, padding included; None for one that isn't split."""
        tiles = _TILES.search(self._xla._XLAC._get_xla_sharding_spec(tensor.detach()))
        if tiles is None:
            return None
        return tuple(-(-size // int(n)) for size, n in zip(tensor.shape, tiles[1].split(","), strict=False))

    @torch.no_grad()
    def assign(self, tensor: Tensor, values: np.ndarray) -> None:
        self._assign_whole(tensor, torch.from_numpy(np.ascontiguousarray(values)).reshape(values.shape))

    def _assign_whole(self, tensor: Tensor, values: Tensor) -> None:
        spec = self._xla._XLAC._get_xla_op_sharding(tensor)
        if spec is None:
            tensor.copy_(self._up(values.to(tensor.dtype), (None,) * values.ndim))
            return
        fresh = values.to(tensor.dtype).to(self.device)
        self._xla._XLAC._xla_mark_sharding(fresh, spec)  # a compiled step wants the pieces that it was made for
        tensor.copy_(fresh)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        with ExitStack() as modes:
            if self.mesh["fsdp"] > 1:
                modes.enter_context(GatheringMode(self._gatherer))
            if self._dtype:
                warnings.filterwarnings("ignore", message=".*XLA.*autocast.*")
                modes.enter_context(torch.autocast("xla", dtype=self._dtype))
            yield

    def whole(self, parameter: Tensor) -> Tensor:
        return self._gatherer.whole(parameter)

    def agree(self, flag: bool) -> bool:
        return self._processes.any(flag)

    def exchange(self, value: Any) -> list[Any]:
        return self._processes.exchange(value)

    def barrier(self) -> None:
        self._processes.barrier()

    def another_group(self) -> Processes:
        return self._processes.another()

    def finish(self) -> None:
        self._xla.sync()
        import torch_xla.core.xla_model as xm

        xm.wait_device_ops()

    @contextmanager
    def profile(self, folder: Path) -> Iterator[None]:
        import torch_xla.debug.profiler as xp

        self.finish()
        xp.start_trace(str(folder))
        try:
            yield
            self.finish()
        finally:
            xp.stop_trace()

    def peak_flops(self) -> tuple[float, str]:
        import torch_xla.core.xla_model as xm

        if xm.xla_device_hw(self.device) == "TPU":
            from torch_xla._internal import tpu

            return tpu_peak(tpu.get_tpu_env()["ACCELERATOR_TYPE"], self.device_count)
        return measured_peak(torch.device("cpu"))  # virtual devices share the one CPU

    def counters(self) -> Counters:
        import torch_xla.debug.metrics as met

        compile_time = met.metric_data("CompileTime")
        count, total = (compile_time[0], compile_time[1]) if compile_time else (0, 0.0)
        names = [n for n in met.counter_names() if n.startswith("aten::") and n != "aten::_local_scalar_dense"]
        return Counters(int(count), total / 1e9, {name: int(met.counter_value(name)) for name in names})
