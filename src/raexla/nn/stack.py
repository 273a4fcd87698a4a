"""Blocks of one shape, and how they are run: in turn, unless a runtime knows better."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

Runner = Callable[[Sequence[nn.Module], Tensor, Sequence[Tensor], Mapping[str, Any]], Tensor]
"""(blocks, x, shared, fixed) -> what comes out of the last block.

x is passed from block to block and keeps its shape and type; `shared` are tensors that every block reads and gradients
flow to; `fixed` are other arguments by name, the same for all blocks.
"""


def in_turn(blocks: Sequence[nn.Module], x: Tensor, shared: Sequence[Tensor], fixed: Mapping[str, Any]) -> Tensor:
    """One after the other, everything kept for the backward pass."""
    for block in blocks:
        x = block(x, *shared, **fixed)
    return x


class Stacked(nn.Module):
    """A module that runs blocks of one shape through `self.runner`; a runtime puts another runner there when it places
    the module (`runtime.place`): one that recomputes activations, or one that loops over the blocks in the program."""

    runner: Runner

    def __init__(self) -> None:
        super().__init__()
        self.runner = in_turn


class BlockStack(Stacked, nn.ModuleList):
    """A list of blocks that runs itself; parameters are called `<stack>.<i>.<name>`."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        nn.ModuleList.__init__(self, blocks)
        self.runner = in_turn

    def forward(self, x: Tensor, *shared: Tensor, **fixed: Any) -> Tensor:
        """See `Runner`."""
        return self.runner(list(self), x, shared, fixed)
