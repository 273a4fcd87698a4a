"""What a runtime offers: the protocol that `xla` and `eager` fulfil, and the recipe that chooses between them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from raexla.recipe import Recipe, UserError
from raexla.runtime.processes import Processes
from raexla.runtime.sharding import Table

Attention = Literal["auto", "sdpa", "flash"]
Remat = Literal["none", "selective", "blocks"]
StepFunction = Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]


class XlaRecipe(Recipe):
    """PyTorch/XLA with SPMD sharding."""

    type: Literal["xla"] = "xla"
    platform: Literal["auto", "tpu", "cpu"] = "auto"
    """`auto` takes the TPU where the machine has one, else the CPU."""
    devices: Annotated[int, Field(ge=1)] | None = None
    """Virtual devices on the CPU (1 if left out); on a TPU the slice's own number, checked if given."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of matrix products; parameters, norms, softmax and losses stay float32."""

    peer_timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Several processes: how long one waits for the others before it gives up. A process that dies is noticed at once;
    this is for machines that vanish."""

    remat: Remat = "none"
    """What the backward pass of transformer blocks computes again instead of keeping it: nothing; `selective` all but
    the linear layers' results; `blocks` everything but each block's input. The results are the same."""
    scan: bool = False
    """Run transformer blocks of one shape as one loop of the program: traced and compiled once, whatever the depth."""
    attention: Attention = "auto"
    """What computes attention: PyTorch's operations (`sdpa`), whose scores stand in memory, or a TPU kernel (`flash`),
    whose don't. `auto` takes the kernel on TPUs, where jax is installed and the shapes allow it. Heads' results are the
    same up to rounding."""
    replay: bool = True
    """Trace a training step once and run its program from then on; false traces it again at every step."""
    compile_cache: str | None = None
    """Folder in which compiled programs are kept, so that a restart need not compile them again."""


class EagerRecipe(Recipe):
    """Plain PyTorch: for inference, debugging, small training and parity."""

    type: Literal["eager"] = "eager"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one, else the CPU."""
    devices: Literal[1] | None = None
    """One device a process."""
    remat: Remat = "none"
    """What the backward pass of transformer blocks computes again instead of keeping it: nothing; `selective` all but
    the linear layers' results; `blocks` everything but each block's input. The results are the same."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of matrix products; parameters, norms, softmax and losses stay float32."""
    peer_timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Several processes: how long one waits for the others before it gives up. A process that dies is noticed at once;
    this is for machines that vanish."""


RuntimeRecipe = Annotated[XlaRecipe | EagerRecipe, Field(discriminator="type")]


@dataclass
class Counters:
    """What a steady step must not increase: compilations, and operations that fell back to the CPU by name."""

    compilations: int = 0
    compile_seconds: float = 0.0
    fallbacks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A rectangular part of a global tensor: where it starts and its values.

    live: the values are the tensor's own memory, on whatever device, and the next step overwrites them; else they are a
    copy on the host.
    """

    offset: tuple[int, ...]
    values: Tensor
    live: bool = False


@dataclass(frozen=True)
class Part:
    """A rectangular part of a global tensor that this process's devices hold, and host memory to put its values in."""

    region: tuple[slice, ...]
    into: Tensor


def check_rows(name: str, rows: int, accumulate: int, shards: int) -> None:
    """Refuse an array of a batch whose rows don't divide.

    Raises:
        UserError: with all three numbers.
    """
    if rows % (accumulate * shards):
        what = name.rpartition("/")[0] or "the batch"
        raise UserError(
            f"{what} has {rows} rows, which don't divide by train.accumulate {accumulate} x {shards} batch shards "
            "(data x fsdp): change train.global_batch_images, the sources' weights, or the mesh"
        )


class Scalars:
    """A step's scalars, still on the device. `read()` waits for the step and takes one transfer."""

    def __init__(self, names: list[str], values: Tensor) -> None:
        self.names, self._values = names, values

    def read(self) -> dict[str, float]:
        """Host floats by name."""
        return dict(zip(self.names, self._values.detach().cpu().tolist(), strict=True))


class Runtime(Protocol):
    """The one place that knows devices."""

    type: str
    process_index: int
    process_count: int
    device_count: int
    mesh: dict[str, int]

    @property
    def batch_shards(self) -> int:
        """Into how many parts the rows of a batch are split over all devices (data x fsdp)."""
        ...

    @property
    def row_parts(self) -> int:
        """Parts into which the rows of a tensor here are split: `batch_shards` where tensors are global, else 1."""
        ...

    @property
    def loss_shards(self) -> int:
        """Over how many processes a mean loss must be divided so that summed gradients are the global mean's."""
        ...

    def place(self, module: nn.Module, table: Table | None = None) -> None:
        """Move a module's parameters and buffers to the devices, in place, split as the table says (None: whole)."""
        ...

    def prime(self, optimizer: Optimizer) -> None:
        """Create an optimiser's state, split like its parameters, so that every step has the same graph."""
        ...

    def copy_of(self, tensor: Tensor) -> Tensor:
        """A tensor of its own with the same values, split in the same way."""
        ...

    def put(self, arrays: Mapping[str, np.ndarray], accumulate: int = 1) -> dict[str, Tensor]:
        """This process's rows [n, ...] of each array -> tensors [accumulate, N / accumulate, ...] split by rows."""
        ...

    def replicate(self, array: np.ndarray) -> Tensor:
        """The same array, whole, on every device."""
        ...

    def compile_step(
        self, step: StepFunction, state: Callable[[], Sequence[Tensor]]
    ) -> Callable[[dict[str, Tensor], Mapping[str, float]], Scalars]:
        """Compile `step(batch, controls) -> scalars`; controls go up as one transfer, scalars come down as one.

        Args:
            step: reads and overwrites the state; whatever else it reads must not change between steps.
            state: all tensors that the step may overwrite.
        """
        ...

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile a function of tensors that returns tensors (evaluation, sampling)."""
        ...

    def to_host(self, tensor: Tensor) -> np.ndarray:
        """The whole tensor as a numpy array on this host; waits for it."""
        ...

    def reduce_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """Sum gradients over the processes, where the compiler does not do it."""
        ...

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """Sum a scalar over the processes, where the tensor is not already global."""
        ...

    @property
    def holds_all(self) -> bool:
        """Whether every process holds the whole state, so that its pieces have to be dealt over them."""
        ...

    def local_pieces(self, tensor: Tensor) -> Iterator[Piece]:
        """The pieces of a tensor that this process has for a checkpoint: those of all processes together are each
        element once, or, where `holds_all`, those of each process alone."""
        ...

    def parts(self, tensor: Tensor) -> list[Part]:
        """The parts of a placed tensor that this process's devices hold, to be filled and handed to `take`."""
        ...

    def take(self, tensor: Tensor, parts: Sequence[Part]) -> None:
        """Overwrite a placed tensor with its filled `parts`, keeping its placement."""
        ...

    def assign(self, tensor: Tensor, values: np.ndarray) -> None:
        """Overwrite a placed tensor with a whole array, keeping its placement."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The compute type for matrix products; where weights are split over `fsdp`, layers gather them meanwhile."""
        ...

    def whole(self, parameter: Tensor) -> Tensor:
        """A parameter as a layer of its own would gather it, for those who use it without a layer."""
        ...

    def agree(self, flag: bool) -> bool:
        """True on every process if it is true on any."""
        ...

    def exchange(self, value: Any) -> list[Any]:
        """The JSON value that each process gave, in the order of the processes."""
        ...

    def barrier(self) -> None:
        """Wait for all processes."""
        ...

    def another_group(self) -> Processes:
        """The processes on connections of their own, for another thread; all call this, from the main thread."""
        ...

    def finish(self) -> None:
        """Wait until the devices have done all that was asked of them."""
        ...

    def profile(self, folder: Path) -> AbstractContextManager[None]:
        """What this process's devices do meanwhile is traced into `folder`; waits for them at both ends."""
        ...

    def peak_flops(self) -> tuple[float, str]:
        """Peak FLOP/s of all devices together, and where the figure comes from."""
        ...

    def counters(self) -> Counters:
        """Totals since the process started."""
        ...
