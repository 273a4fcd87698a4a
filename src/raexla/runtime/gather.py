"""Weights that are split over `fsdp` are put together where they are used, and their gradients split again.

Left to itself, the compiler sees a batch and a weight that are split over the same devices and may as well move the
batch. Said outright: a weight goes to the compute type on the device that owns its part, is gathered, used, and its
gradient, a sum over the rows of all devices, is scattered. What is split over `tensor` stays split. What goes from
block to block is split by rows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from raexla.runtime.mesh import BATCH_AXES
from raexla.runtime.sharding import Axes

#: Functions of (input, weight, ...) whose weight is gathered, and whether in the compute type.
_USERS: Mapping[Any, bool] = {F.linear: True, F.conv2d: True, F.embedding: False}


class Gatherer:
    """Knows how parameters are split.

    Args:
        annotate: says how the result of an operation is split.
        shards: parts into which a batch is split.
    """

    def __init__(self, annotate: Callable[[Tensor, Axes], None], shards: int) -> None:
        self._annotate, self._shards = annotate, shards
        self._axes = WeakIdKeyDictionary()

    def note(self, parameter: Tensor, axes: Axes) -> None:
        """Remember how a placed parameter is split."""
        self._axes[parameter] = axes

    def axes(self, parameter: Tensor) -> Axes | None:
        """How a parameter is split; None for one that is not gathered."""
        found: Axes | None = self._axes.get(parameter)
        if found is None or parameter.ndim < 2:
            return None
        return found if any("fsdp" in _names(entry) for entry in found) else None

    def gather(self, weight: Tensor, axes: Axes, compute: bool = True) -> Tensor:
        """The whole weight, but for what is split over `tensor`, in the type that autocast computes in."""
        device = weight.device.type
        cast = compute and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if cast else weight.dtype
        made: Tensor = _Gather.apply(self._annotate, weight, dtype, axes, not compute)
        return made

    def whole(self, parameter: Tensor) -> Tensor:
        """The same for a parameter, by what was noted of it."""
        axes = self.axes(parameter)
        return parameter if axes is None else self.gather(parameter, axes)

    def rows(self, tensor: Tensor) -> Tensor:
        """The tensor [B, ...], it and its gradient split by rows as the batch is; left alone where B doesn't divide."""
        if self._shards == 1 or tensor.shape[0] % self._shards:
            return tensor
        made: Tensor = _Rows.apply(self._annotate, tensor)
        return made

    def stacked(self, tensor: Tensor, axes: Axes) -> None:
        """Say that parameters of several blocks, on top of each other, are split as each is."""
        self._annotate(tensor, (None, *axes))


class GatheringMode(TorchFunctionMode):
    """While it is on, layers gather their own weights."""

    def __init__(self, gatherer: Gatherer) -> None:
        super().__init__()
        self._gatherer = gatherer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _USERS and len(args) > 1 and isinstance(args[1], torch.nn.Parameter):
            axes = self._gatherer.axes(args[1])
            if axes is not None:
                args = (args[0], self._gatherer.gather(args[1], axes, _USERS[func]), *args[2:])
        return func(*args, **(kwargs or {}))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, annotate: Callable[[Tensor, Axes], None], weight: Tensor, dtype: Any, axes: Axes, table: bool
    ) -> Tensor:
        ctx.annotate, ctx.axes, ctx.dtype, ctx.table = annotate, axes, weight.dtype, table
        made = weight.to(dtype) * 1  # never the parameter itself
        annotate(made, tuple(_without_fsdp(entry) for entry in axes))
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        gradient = gradients[0] * 1
        if ctx.table:  # each device adds up its own rows' gradients in a whole table, instead of getting all rows
            ctx.annotate(gradient, tuple(_without_fsdp(entry) for entry in ctx.axes))
            gradient = gradient * 1
        ctx.annotate(gradient, ctx.axes)
        return None, gradient.to(ctx.dtype), None, None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, annotate: Callable[[Tensor, Axes], None], tensor: Tensor) -> Tensor:
        ctx.annotate = annotate
        made = tensor * 1
        annotate(made, (BATCH_AXES, *(None,) * (tensor.ndim - 1)))
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        gradient = gradients[0] * 1
        ctx.annotate(gradient, (BATCH_AXES, *(None,) * (gradient.ndim - 1)))
        return None, gradient


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry or ()


def _without_fsdp(entry: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    left = tuple(name for name in _names(entry) if name != "fsdp")
    return left if len(left) > 1 else left[0] if left else None
