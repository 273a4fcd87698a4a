"""A roofline for each instruction of a compiled program: matrix products at a part of the chip's peak, or the bytes
that it reads and writes at a part of its memory's bandwidth, whichever takes longer.

The compiler writes its own `estimated_cycles` on instructions, but for what is bound by memory they stand for some 400
GB/s on a v5p, a sixth of what the chip is sold with; so they are not taken.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from raexla.plan.hlo.products import products
from raexla.plan.hlo.text import Computation, Instruction, Shape
from raexla.plan.hlo.walk import Walk

_FREE = frozenset(
    {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "call", "after-all"}
    | {"opt-barrier", "partition-id", "replica-id", "domain"}
)
_LINKS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "send", "recv")
_TRANSFERS = frozenset({"copy-start", "slice-start"})
_SLICES = frozenset({"dynamic-slice", "slice", "gather"})
_THROUGH = frozenset({"bitcast", "reshape", "copy", "convert"})


@dataclass(frozen=True)
class Timed:
    """An instruction of the program, all its runs together."""

    name: str
    shape: str
    times: int
    flops: float
    bytes: float
    op_name: str
    beside: bool = False
    """A transfer that runs beside other instructions."""

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Of all runs."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def program_seconds(instructions: Iterable[Timed], flops_per_second: float, bytes_per_second: float) -> float:
    """Of a step on one chip, collectives apart: its instructions one after the other, or all bytes that are moved,
    those of transfers beside them too, whichever takes longer."""
    listed = list(instructions)
    in_turn = sum(t.seconds(flops_per_second, bytes_per_second) for t in listed if not t.beside)
    return max(in_turn, sum(t.bytes for t in listed) / bytes_per_second)


def timed(walked: Walk, kernels: dict[str, float] | None = None) -> list[Timed]:
    """Every instruction that takes time, collectives apart.

    Args:
        kernels: FLOPs of one run of a kernel call, by the instruction's name.
    """
    own: dict[str, float] = {}
    for product in products(walked):
        own[product.computation] = own.get(product.computation, 0.0) + product.flops
    computations = walked.module.computations

    @cache
    def flops(name: str) -> float:
        inner = (called for i in computations[name].instructions for called in _calls(i))
        return own.get(name, 0.0) + sum(flops(called) for called in inner)

    found = []
    for computation in computations.values():
        times = walked.times[computation.name]
        if not times or computation.name in walked.inside:
            continue
        alone = {p.name: float(p.flops) for p in products(walked) if p.computation == computation.name}
        for instruction in computation.instructions:
            if instruction.opcode in _FREE or instruction.opcode.startswith(_LINKS):
                continue
            if instruction.opcode.endswith(("-done", "-update")):
                continue
            made = alone.get(instruction.name, 0.0) + sum(flops(called) for called in _calls(instruction))
            made += (kernels or {}).get(instruction.name, 0.0)
            moved = _bytes(walked, computation, instruction)
            if made or moved:
                op_name = instruction.metadata.get("op_name", "")
                shape = str(instruction.shape)
                beside = instruction.opcode in _TRANSFERS
                found.append(Timed(instruction.name, shape, times, made * times, moved * times, op_name, beside))
    return found


def _calls(instruction: Instruction) -> Iterable[str]:
    if instruction.opcode not in ("fusion", "async-start"):
        return ()
    return [name for names in instruction.called().values() for name in names]


def _bytes(walked: Walk, computation: Computation, instruction: Instruction) -> float:
    """What one run reads and writes of the chip's memory; of slices, what is cut out or put in."""
    operands = [computation.operand(instruction, n) for n in range(len(instruction.operands))]
    if instruction.opcode == "fusion":
        inner = walked.module.computations[next(iter(_calls(instruction)))]
        kept, beside = _apart(instruction.shape.leaves)
        read = 0.0
        for number, parameter in inner.parameters.items():
            shape = str(operands[number].shape)
            if shape in beside:
                beside.remove(shape)
            else:
                read += _read(walked, inner, parameter, operands[number].shape)
        return read + _written(inner, instruction.shape, kept)
    if instruction.opcode in _SLICES:
        return 2 * _memory(instruction.shape)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _memory(operands[1].shape)
    if instruction.opcode in _TRANSFERS:  # the result is (to, from, counter) of a copy, (from, to, counter) of a slice
        to = instruction.shape.leaves[0 if instruction.opcode == "copy-start" else 1]
        return to.padded_bytes * ((to.space == 0) + (operands[0].shape.leaves[0].space == 0))
    reads = 0.0 if instruction.opcode in ("broadcast", "iota") else sum(_memory(o.shape) for o in operands)
    return reads + _memory(instruction.shape)


def _memory(shape: Shape) -> float:
    """Bytes of what stands in the chip's memory."""
    return float(sum(leaf.padded_bytes for leaf in shape.leaves if leaf.space == 0 and leaf.dtype != "token"))


def _users(inner: Computation, instruction: Instruction) -> Iterator[tuple[Instruction, int]]:
    for user in inner.instructions:
        for place, name in enumerate(user.operands):
            if name == instruction.name:
                if user.opcode in _THROUGH:
                    yield from _users(inner, user)
                else:
                    yield user, place


def _read(walked: Walk, inner: Computation, parameter: Instruction, shape: Shape) -> float:
    whole = _memory(shape)
    if not whole:
        return 0.0
    part = 0.0
    for user, place in _users(inner, parameter):
        if user.opcode in _SLICES and place == 0:
            part += user.shape.padded_bytes
        elif user.opcode == "fusion":
            nested = walked.module.computations[next(iter(_calls(user)))]
            part += _read(walked, nested, nested.parameters[place], shape)
        elif not (user.opcode == "dynamic-update-slice" and place == 0):
            return whole
    return min(part, whole)


def _apart(leaves: tuple[Shape, ...]) -> tuple[int, list[str]]:
    """A fusion with a step of a collective beside it returns its own results, then the collective's shard, its array
    twice and its counters, the first of them s32[2]: how many results are its own, and the shapes of the others."""
    for number, leaf in enumerate(leaves):
        if leaf.dtype == "s32" and leaf.dims == (2,) and number >= 3 and len(leaves) > number + 1:
            return number - 3, [str(other) for other in leaves[number - 3 :]]
    return len(leaves), []


def _written(inner: Computation, shape: Shape, kept: int) -> float:
    roots = [inner.root]
    if inner.root.opcode == "tuple":
        roots = [inner.operand(inner.root, n) for n in range(len(inner.root.operands))]
    total = 0.0
    for root, leaf in zip(roots[:kept], shape.leaves if len(roots) == len(shape.leaves) else [shape], strict=False):
        made = root
        while made.opcode in _THROUGH and made.operands:
            made = inner.operand(made, 0)
        if made.opcode == "dynamic-update-slice" and leaf.space == 0:
            total += inner.operand(made, 1).shape.padded_bytes
        else:
            total += _memory(leaf)
    return total
