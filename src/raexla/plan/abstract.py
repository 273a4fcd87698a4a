"""A runtime without memory: a Task that is opened on it is the Task of `raexla train`, down to its sharding tables and
its optimisers, but every tensor is a placeholder of torch_xla that has a shape and a sharding and no bytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raexla.runtime.base import Piece, XlaRecipe
from raexla.runtime.mesh import MeshRecipe
from raexla.runtime.sharding import Axes, Table
from raexla.runtime.xla import XlaRuntime


@dataclass(frozen=True)
class Held:
    """A placeholder: what it stands for."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    sharding: str
    """As XLA writes it, `{devices=[8,1]0,1,...}`; `{replicated}`."""


class AbstractRuntime(XlaRuntime):
    """As many virtual devices as the slice has; see `raexla.runtime.base.Runtime` for its methods."""

    def __init__(self, devices: int, mesh: MeshRecipe, recipe: XlaRecipe) -> None:
        settings = {"platform": "cpu", "devices": devices}
        super().__init__(recipe.model_copy(update=settings), mesh)
        self.held: dict[int, Held] = {}
        """torch_xla's id of a placeholder -> what it stands for."""
        self._name = ""

    @property
    def for_tpu(self) -> bool:
        return True

    def hold(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor | Axes) -> Tensor:
        """A placeholder, split as `like` is or as `like` says."""
        import torch_xla.core.xla_builder as xb

        lowlevel = self._xla._XLAC
        made: Tensor = xb.create_placeholder_tensor(shape, dtype)
        spec = lowlevel._get_xla_op_sharding(like) if isinstance(like, Tensor) else self._mesh.get_op_sharding(like)
        if spec is not None:
            lowlevel._xla_annotate_custom_sharding(made, spec)
        self.held[lowlevel._xla_get_tensor_id(made)] = Held(
            name, shape, dtype, lowlevel._get_xla_sharding_spec(made) or "{replicated}"
        )
        return made

    def _up(self, tensor: Tensor, axes: Axes) -> Tensor:
        return self.hold(self._name, tuple(tensor.shape), tensor.dtype, axes)

    def _up_rows(self, tensor: Tensor, axes: Axes) -> Tensor:
        return self._up(tensor, axes)

    def _zeros_like(self, tensor: Tensor) -> Tensor:
        return self.hold("optimiser state", tuple(tensor.shape), tensor.dtype, tensor)

    def place(self, module: nn.Module, table: Table | None = None) -> None:
        self._name = type(module).__name__
        super().place(module, table)

    def put(self, arrays: Mapping[str, np.ndarray], accumulate: int = 1) -> dict[str, Tensor]:
        self._name = "batch"
        return super().put(arrays, accumulate)

    def copy_of(self, tensor: Tensor) -> Tensor:
        return self.hold("average", tuple(tensor.shape), tensor.dtype, tensor)

    def finish(self) -> None:
        """There is nothing to wait for."""

    def local_pieces(self, tensor: Tensor) -> Iterator[Piece]:
        raise NotImplementedError("placeholders hold no values")

    def to_host(self, tensor: Tensor) -> np.ndarray:
        raise NotImplementedError("placeholders hold no values")

    def describe(self, tensor: Tensor) -> Held | None:
        """What a tensor that was made here stands for."""
        return self.held.get(self._xla._XLAC._xla_get_tensor_id(tensor))


def rename(runtime: AbstractRuntime, named: Mapping[str, Tensor]) -> None:
    """Give placeholders the names that they have in a Task's state."""
    identity: Any = runtime._xla._XLAC._xla_get_tensor_id
    for name, tensor in named.items():
        held = runtime.held.get(identity(tensor))
        if held is not None:
            runtime.held[identity(tensor)] = Held(name, held.shape, held.dtype, held.sharding)
