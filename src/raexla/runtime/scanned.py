"""Runners of equal blocks (`raexla.nn.stack`) on XLA: what the backward pass keeps, and whether they are one loop.

A block is differentiated by running it again and differentiating that run. What was kept of the first run stands in for
its own results in the second, and whatever nobody reads then is not in the program: with `blocks` only a block's input
is kept and all of it runs again; with `selective` also what its linear layers return, so that attention, norms and
element-wise operations run again; with `none` everything that autograd keeps.

As a loop (`scan`), a stack is traced once and compiled once, whatever its depth.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch_xla.core.xla_model as xm
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch_xla.experimental.scan import _scan_impl_pytree

from raexla.runtime.attention import splash_attention
from raexla.runtime.base import Remat
from raexla.runtime.gather import Gatherer


@dataclass(frozen=True)
class Way:
    """How stacks are run."""

    scan: bool
    remat: Remat
    gatherer: Gatherer

    def runner(self) -> Callable[..., Tensor]:
        """For a placed stack."""
        if self.scan:
            return partial(_scanned, self)
        return partial(_in_turn if self.remat == "none" else _again, self)


def _scanned(
    way: Way, blocks: Sequence[nn.Module], x: Tensor, shared: Sequence[Tensor], fixed: Mapping[str, Any]
) -> Tensor:
    """As one loop; `fixed` may hold tensors that no gradient flows to."""
    x, shared = way.gatherer.rows(x), [way.gatherer.rows(tensor) for tensor in shared]
    each = [dict(block.named_parameters()) for block in blocks]
    block = _Block(way, blocks[0], fixed, shared, x)
    stacked = [torch.stack([parameters[name] for parameters in each]) for name in block.names]
    for tensor, axes in zip(stacked, block.axes, strict=True):
        if axes is not None:
            way.gatherer.stacked(tensor, axes)
    made: Tensor
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *shared, *stacked)):
        made = _Scan.apply(block, x, *shared, *stacked)
        return way.gatherer.rows(made)

    def step(carry: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Any, Any]:
        value, *others = carry
        return (block.body(weights, value, others), *(t * 1 for t in others)), ()

    (made, *_), _ = _scan_impl_pytree(step, (x, *shared), tuple(stacked))
    return made


def _in_turn(
    way: Way, blocks: Sequence[nn.Module], x: Tensor, shared: Sequence[Tensor], fixed: Mapping[str, Any]
) -> Tensor:
    """In turn, everything kept."""
    shared = [way.gatherer.rows(tensor) for tensor in shared]
    for block in blocks:
        x = block(way.gatherer.rows(x), *shared, **fixed)
    return way.gatherer.rows(x)


def _again(
    way: Way, blocks: Sequence[nn.Module], x: Tensor, shared: Sequence[Tensor], fixed: Mapping[str, Any]
) -> Tensor:
    """In turn, each block run again backward."""
    if not torch.is_grad_enabled():
        return _in_turn(way, blocks, x, shared, fixed)
    for block in blocks:
        x = _Again.apply(_Block(way, block, fixed, shared, x), x, *shared, *block.parameters())
    return x


class _Results:
    """What is kept of a first run; in a second run, given it, what is put in its place, in the same order."""

    def __init__(self, given: Sequence[Tensor] | None = None) -> None:
        self.all = list(given or ())
        self._left = None if given is None else iter(self.all)

    @property
    def again(self) -> bool:
        """Whether this is the second run."""
        return self._left is not None

    def add(self, tensor: Tensor) -> None:
        """Keep a result of the first run."""
        self.all.append(tensor.detach())

    def next(self) -> Tensor:
        """What the first run had here."""
        assert self._left is not None
        return next(self._left)


class _KeepLinears(TorchFunctionMode):
    """Keeps what linear layers and the attention kernel return. In a second run they return it without computing it,
    and are differentiated as ever."""

    def __init__(self, results: _Results) -> None:
        super().__init__()
        self.results = results

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        again = self.results.again
        if func is F.linear:
            if again:
                return _KnownLinear.of(self.results.next(), *args, **kwargs)
            made = func(*args, **kwargs)
            self.results.add(made)
            return made
        if func is splash_attention:
            known = (self.results.next(), self.results.next()) if again else None
            found = func(*args, **{**kwargs, "known": known})
            for tensor in () if again else found:
                self.results.add(tensor)
            return found
        return func(*args, **kwargs)


class _KnownLinear(torch.autograd.Function):
    """A linear layer whose result is known."""

    @classmethod
    def of(cls, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`F.linear(input, weight, bias)`, in the result's type as autocast had it."""
        sources = (input.to(result.dtype), weight.to(result.dtype), None if bias is None else bias.to(result.dtype))
        made: Tensor = cls.apply(result, *sources)
        return made

    @staticmethod
    def forward(ctx: Any, result: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.has_bias = bias is not None
        return result * 1

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        input, weight = ctx.saved_tensors
        gradient = gradients[0]
        rows, columns = gradient.flatten(0, -2), input.flatten(0, -2)
        return None, gradient @ weight, rows.T @ columns, rows.sum(0) if ctx.has_bias else None


class _KeepAll(torch.autograd.graph.saved_tensors_hooks):
    """Keeps everything that autograd keeps, but weights and their casts."""

    def __init__(self, results: _Results, weights: Sequence[Tensor]) -> None:
        leaves = {id(weight) for weight in weights}
        self._seen: dict[Any, Tensor] = {}
        seen = self._seen

        def pack(tensor: Tensor) -> Tensor:
            constant = tensor.grad_fn is None
            if constant or _leaf(tensor) in leaves:
                return tensor.detach()
            key = _origin(tensor)
            if key not in seen:
                if not results.again:
                    results.add(tensor)
                seen[key] = results.next() if results.again else tensor.detach()
            return seen[key]

        super().__init__(pack, lambda tensor: tensor)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._seen.clear()  # the graph holds the hooks, which would hold the graph


def _leaf(tensor: Tensor) -> int | None:
    """The id of the leaf that a tensor is a cast or a view of."""
    node = tensor.grad_fn
    while node is not None:
        if hasattr(node, "variable"):
            return id(node.variable)
        if len(node.next_functions) != 1:
            return None
        node = node.next_functions[0][0]
    return None


def _origin(tensor: Tensor) -> Any:
    """What made a tensor; the same for all casts of one tensor to one type."""
    node = tensor.grad_fn
    assert node is not None
    cast = node.name() == "ToCopyBackward0"
    return (node.next_functions[0], tensor.dtype) if cast else (node, tensor.output_nr)


class _Block:
    """How a block is run, run again and differentiated: in the compute type of its forward pass."""

    def __init__(
        self, way: Way, block: nn.Module, fixed: Mapping[str, Any], shared: Sequence[Tensor], x: Tensor
    ) -> None:
        device = x.device.type
        self.module, self.fixed, self.count = block, dict(fixed), len(shared)
        self.remat, self.gatherer = way.remat, way.gatherer
        self.names = [name for name, _ in block.named_parameters()]
        self.axes = [way.gatherer.axes(parameter) for parameter in block.parameters()]
        self.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self.wanted = [number for number, tensor in enumerate(shared) if tensor.requires_grad]

    def body(self, weights: Sequence[Tensor], x: Tensor, shared: Sequence[Tensor]) -> Tensor:
        """The block with these weights, gathered."""
        whole = {
            name: weight if axes is None else self.gatherer.gather(weight, axes)
            for name, weight, axes in zip(self.names, weights, self.axes, strict=True)
        }
        rows = self.gatherer.rows
        made: Tensor = functional_call(self.module, whole, (rows(x), *map(rows, shared)), self.fixed)
        return rows(made.to(x.dtype))

    def run(
        self, x: Tensor, shared: Sequence[Tensor], weights: Sequence[Tensor], kept: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What comes out, what it is differentiated by (x, the wanted shared tensors, the weights), what was kept."""
        results = _Results(kept)
        with torch.enable_grad(), torch.autocast(*self.autocast, cache_enabled=False):
            here = x.detach().requires_grad_()
            others = [tensor.detach() for tensor in shared]
            for number in self.wanted:
                others[number].requires_grad_()
            own = [weight.detach().requires_grad_() for weight in weights]
            with self._keeping(results, own):
                made = self.body(own, here, others)
        return made, [here, *(others[number] for number in self.wanted), *own], results.all

    def _keeping(self, results: _Results, weights: Sequence[Tensor]) -> AbstractContextManager[Any]:
        if self.remat == "none":
            return _KeepAll(results, weights)
        return _KeepLinears(results) if self.remat == "selective" else nullcontext()

    def differentiate(
        self,
        x: Tensor,
        shared: Sequence[Tensor],
        weights: Sequence[Tensor],
        kept: Sequence[Tensor],
        gradient: Tensor,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Gradients of x, of the shared tensors that want one, of the weights."""
        made, sources, _ = self.run(x, shared, weights, kept)
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

    def split(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Shared tensors, weights, kept results, from one list."""
        end = self.count + len(self.names)
        return list(tensors[: self.count]), list(tensors[self.count : end]), list(tensors[end:])


class _Again(torch.autograd.Function):
    """One block whose backward pass begins with its forward pass."""

    @staticmethod
    def forward(ctx: Any, block: _Block, x: Tensor, *rest: Tensor) -> Tensor:
        shared, weights, _ = block.split(rest)
        made, _, kept = block.run(x, shared, weights)
        ctx.block = block
        ctx.save_for_backward(x, *rest, *kept)
        return made.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        block: _Block = ctx.block
        saved = [tensor.clone() for tensor in ctx.saved_tensors]
        gradient = gradients[0].clone()
        xm.optimization_barrier_([*saved, gradient])  # the compiler would merge the two runs of the block
        x, *rest = saved
        to_x, to_shared, to_weights = block.differentiate(x, *block.split(rest), gradient)
        return None, to_x, *block.spread(to_shared), *to_weights


class _Scan(torch.autograd.Function):
    """All blocks as a loop, and a loop back."""

    @staticmethod
    def forward(ctx: Any, block: _Block, x: Tensor, *rest: Tensor) -> Tensor:
        shared, stacked, _ = block.split(rest)

        def step(carry: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> tuple[Any, Any]:
            value, *others = carry
            made, _, kept = block.run(value, others, weights)
            return (made.detach(), *(t * 1 for t in others)), (value * 1, *kept)

        with torch.no_grad():
            (last, *_), (inputs, *kept) = _scan_impl_pytree(step, (x, *shared), tuple(stacked))
        ctx.block, ctx.kept = block, len(kept)
        ctx.save_for_backward(inputs, *shared, *stacked, *kept)
        return last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        block: _Block = ctx.block
        inputs, *rest = ctx.saved_tensors
        shared, stacked, kept = block.split(rest)
        wanted, own = len(block.wanted), len(stacked)

        def step(carry: tuple[Tensor, ...], xs: tuple[Tensor, ...]) -> tuple[Any, Any]:
            gradient, sums, others = carry[0], carry[1 : 1 + wanted], carry[1 + wanted :]
            to_x, to_shared, to_weights = block.differentiate(xs[0], others, xs[1 : 1 + own], xs[1 + own :], gradient)
            added = [total + new for total, new in zip(sums, to_shared, strict=True)]
            return (to_x, *added, *(t * 1 for t in others)), tuple(to_weights)

        start = (gradients[0], *(torch.zeros_like(shared[number]) for number in block.wanted), *shared)
        with torch.no_grad():
            carry, to_weights = _scan_impl_pytree(step, start, (inputs, *stacked, *kept), reverse=True)
        return None, carry[0], *block.spread(carry[1 : 1 + wanted]), *to_weights
