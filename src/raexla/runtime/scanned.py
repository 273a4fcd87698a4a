"""Runners of equal blocks (`raexla.nn.stack`) that keep a block's input alone and run the block again backward.

`scanned` makes one loop of a stack: it is traced once and compiled once, whatever its depth. torch_xla's own `scan`
keeps what autograd would keep of every block, the values that only pass through among it. `recomputed` stays unrolled.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch_xla.core.xla_model as xm
from torch import Tensor, nn
from torch.func import functional_call
from torch_xla.experimental.scan import _scan_impl_pytree

Body = Callable[[dict[str, Tensor], Tensor, Sequence[Tensor]], Tensor]


def scanned(blocks: Sequence[nn.Module], x: Tensor, shared: Sequence[Tensor], fixed: Mapping[str, Any]) -> Tensor:
    """As one loop; see `raexla.nn.stack.Runner`. `fixed` may hold tensors that no gradient flows to."""
    names = [name for name, _ in blocks[0].named_parameters()]
    each = [dict(block.named_parameters()) for block in blocks]
    stacked = [torch.stack([parameters[name] for parameters in each]) for name in names]
    made: Tensor = _Scan.apply(_body(blocks[0], fixed), names, len(shared), x, *shared, *stacked)
    return made


def recomputed(blocks: Sequence[nn.Module], x: Tensor, shared: Sequence[Tensor], fixed: Mapping[str, Any]) -> Tensor:
    """In turn, each block run again backward; see `raexla.nn.stack.Runner`."""
    for block in blocks:
        named = dict(block.named_parameters())
        x = _Again.apply(_body(block, fixed), list(named), len(shared), x, *shared, *named.values())
    return x


def _body(block: nn.Module, fixed: Mapping[str, Any]) -> Body:
    def run(parameters: dict[str, Tensor], x: Tensor, shared: Sequence[Tensor]) -> Tensor:
        made: Tensor = functional_call(block, parameters, (x, *shared), dict(fixed))
        return made.to(x.dtype)

    return run


class _Again(torch.autograd.Function):
    """One block whose backward pass begins with its forward pass."""

    @staticmethod
    def forward(ctx: Any, body: Body, names: list[str], count: int, x: Tensor, *rest: Tensor) -> Tensor:
        ctx.block = _Block(body, names, rest[:count], x)
        ctx.count = count
        ctx.save_for_backward(x, *rest)
        return body(dict(zip(names, rest[count:], strict=True)), x, rest[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        kept = [tensor.clone() for tensor in ctx.saved_tensors]
        gradient = gradients[0].clone()
        xm.optimization_barrier_([*kept, gradient])  # the compiler would merge the two runs of the block
        x, *rest = kept
        to_x, to_shared, to_weights = ctx.block.differentiate(x, rest[: ctx.count], rest[ctx.count :], gradient)
        return None, None, None, to_x, *ctx.block.spread(to_shared), *to_weights


class _Block:
    """How a block is run again and differentiated: in the compute type of its forward pass."""

    def __init__(self, body: Body, names: list[str], shared: Sequence[Tensor], x: Tensor) -> None:
        device = x.device.type
        self.body, self.names, self.count = body, names, len(shared)
        self.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self.wanted = [number for number, tensor in enumerate(shared) if tensor.requires_grad]

    def differentiate(
        self, x: Tensor, shared: Sequence[Tensor], weights: Sequence[Tensor], gradient: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Gradients of x, of the shared tensors that want one, of the weights."""
        with torch.enable_grad(), torch.autocast(*self.autocast, cache_enabled=False):
            here = x.detach().requires_grad_()
            others = [tensor.detach() for tensor in shared]
            for number in self.wanted:
                others[number].requires_grad_()
            own = [weight.detach().requires_grad_() for weight in weights]
            made = self.body(dict(zip(self.names, own, strict=True)), here, others)
        sources = [here, *(others[number] for number in self.wanted), *own]
        found = torch.autograd.grad(made, sources, gradient, allow_unused=True)
        full = [torch.zeros_like(s) if g is None else g for g, s in zip(found, sources, strict=True)]
        first = 1 + len(self.wanted)
        return full[0], full[1:first], full[first:]

    def spread(self, gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of the wanted shared tensors at their places, None elsewhere."""
        out: list[Tensor | None] = [None] * self.count
        for number, gradient in zip(self.wanted, gradients, strict=True):
            out[number] = gradient
        return out


class _Scan(torch.autograd.Function):
    """All blocks as a loop, and a loop back."""

    @staticmethod
    def forward(ctx: Any, body: Body, names: list[str], count: int, x: Tensor, *rest: Tensor) -> Tensor:
        shared, stacked = rest[:count], rest[count:]

        def step(carry: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Any, Any]:
            value, *others = carry
            made = body(dict(zip(names, weights, strict=True)), value, others)
            return (made, *(t * 1 for t in others)), (value * 1,)

        with torch.no_grad():
            (last, *_), (inputs,) = _scan_impl_pytree(step, (x, *shared), tuple(stacked))
        ctx.block = _Block(body, names, shared, x)
        ctx.save_for_backward(inputs, *shared, *stacked)
        return last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        block: _Block = ctx.block
        inputs, *rest = ctx.saved_tensors
        shared, stacked = rest[: block.count], rest[block.count :]
        wanted = len(block.wanted)

        def step(carry: tuple[Tensor, ...], xs: tuple[Tensor, ...]) -> tuple[Any, Any]:
            gradient, sums, others = carry[0], carry[1 : 1 + wanted], carry[1 + wanted :]
            to_x, to_shared, to_weights = block.differentiate(xs[0], others, xs[1:], gradient)
            added = [total + new for total, new in zip(sums, to_shared, strict=True)]
            return (to_x, *added, *(t * 1 for t in others)), tuple(to_weights)

        start = (gradients[0], *(torch.zeros_like(shared[number]) for number in block.wanted), *shared)
        with torch.no_grad():
            carry, to_weights = _scan_impl_pytree(step, start, (inputs, *stacked), reverse=True)
        return None, None, None, carry[0], *block.spread(carry[1 : 1 + wanted]), *to_weights
