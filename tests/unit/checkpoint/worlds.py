"""States and runtimes that tests of checkpoints share."""

from collections.abc import Iterator

import torch
from torch import Tensor

from raexla.runtime import EagerRecipe, MeshRecipe, Piece
from raexla.runtime.eager import EagerRuntime


def small_state(seed: int = 0) -> dict[str, Tensor]:
    """Several types and shapes, a scalar and an empty tensor among them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "model/weight": torch.randn(7, 5, generator=generator),
        "model/kernel": torch.randn(4, 3, 2, generator=generator),
        "optim/net/weight/step": torch.tensor(3.0 + seed),
        "model/count": torch.arange(6, dtype=torch.int32) + seed,
        "model/half": torch.randn(3, 3, generator=generator).to(torch.float16),
        "model/brain": torch.randn(5, 3, generator=generator).to(torch.bfloat16),
        "model/flags": torch.rand(3, generator=generator) > 0.5,
        "model/none": torch.zeros(0, 4),
        "ema/net/weight": torch.randn(7, 5, generator=generator).double(),
    }


def zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same shapes and types, nothing in them."""
    return {name: torch.zeros_like(value) for name, value in state.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal, types included."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def eager() -> EagerRuntime:
    """One process on the CPU."""
    return EagerRuntime(EagerRecipe(device="cpu"), MeshRecipe())


class SplitRuntime(EagerRuntime):
    """Hands out tensors in two uneven rows-and-columns splits, with an empty piece as padding leaves one."""

    def __init__(self) -> None:
        super().__init__(EagerRecipe(device="cpu"), MeshRecipe())

    def local_pieces(self, tensor: Tensor) -> Iterator[Piece]:
        values = tensor.detach()
        if tensor.ndim < 2:
            yield Piece((0,) * tensor.ndim, values)
            return
        rows, columns = 2 * tensor.shape[0] // 3, tensor.shape[1] // 2
        for row, height in ((0, rows), (rows, tensor.shape[0] - rows)):
            for column, width in ((0, columns), (columns, tensor.shape[1] - columns)):
                start = (row, column, *(0,) * (tensor.ndim - 2))
                yield Piece(start, values[row : row + height, column : column + width])
        yield Piece(tuple(tensor.shape), values[:0, :0])
