"""Which buffers stand in a chip's memory when most of it is taken, from the schedule of the program.

A buffer lives from the instruction that makes it to the last one that reads it. Results that take an argument's or an
operand's memory (donated arguments, loops' states, in-place updates, bitcasts) add nothing. The compiler also rounds,
packs and leaves gaps: its own figure of the peak stands beside this one, and is the one to trust.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from raexla.plan.hlo.products import source_of
from raexla.plan.hlo.text import Computation, HloError, Instruction, Module, Shape
from raexla.plan.hlo.walk import Walk


@dataclass(frozen=True)
class Buffer:
    """Memory that an instruction's result takes, padded as it stands there."""

    name: str
    computation: str
    shape: str
    bytes: int
    op_name: str
    source: str


@dataclass(frozen=True)
class Peak:
    """The fullest moment. at: the instruction then running. temporaries: what stands beside the arguments."""

    at: str
    bytes: int
    temporaries: tuple[Buffer, ...]


@dataclass
class _Live:
    """A buffer while its life is worked out: made at `first`, read for the last time at `last`."""

    instruction: Instruction
    shape: Shape
    bytes: int
    first: int
    last: int


_Leaves = list[_Live | None]
"""Of a value, each array's buffer; None for memory that isn't this computation's, or isn't HBM."""

_SAME = frozenset({"bitcast", "opt-barrier", "while", "domain", "add-dependency"})
_IN_PLACE = frozenset({"dynamic-update-slice", "scatter"})
_BORROWED = frozenset({"constant", "parameter"})
"""Constants stand with the program, parameters with the caller."""


def peak(walked: Walk) -> Peak:
    """Of a scheduled program; arguments are not in it.

    Raises:
        HloError: the instructions are in no schedule.
    """
    if "is_scheduled=true" not in walked.module.header:
        raise HloError("the HLO module isn't scheduled: when a buffer lives can't be told")
    return _Liveness(walked.module).of(walked.module.entry)


class _Liveness:
    def __init__(self, module: Module) -> None:
        self._module = module
        self._known: dict[str, Peak] = {}

    def of(self, computation: Computation) -> Peak:
        """The peak of what a computation makes, loops and calls in it included."""
        if computation.name not in self._known:
            self._known[computation.name] = self._find(computation)
        return self._known[computation.name]

    def _find(self, computation: Computation) -> Peak:
        buffers = self._lives(computation)
        born: dict[int, list[_Live]] = {}
        dying: dict[int, list[_Live]] = {}
        for buffer in buffers:
            born.setdefault(buffer.first, []).append(buffer)
            dying.setdefault(buffer.last, []).append(buffer)
        standing, most, at, within = 0, -1, 0, Peak("", 0, ())
        for time, instruction in enumerate(computation.instructions):
            inner = self._inner(instruction)
            standing += sum(buffer.bytes for buffer in born.get(time, ()))
            # an element-wise result may be written over an operand that nobody reads again
            ending = sum(b.bytes for b in dying.get(time, ()) if b.first < time)
            new = sum(buffer.bytes for buffer in born.get(time, ()))
            here = standing + inner.bytes - (min(new, ending) if instruction.opcode == "fusion" else 0)
            if here > most:
                most, at, within = here, time, inner
            standing -= sum(buffer.bytes for buffer in dying.get(time, ()))
        alive = [_buffer(computation, b) for b in buffers if b.bytes and b.first <= at <= b.last]
        place = within.at or (computation.instructions[at].name if computation.instructions else "")
        return Peak(place, max(most, 0), tuple(sorted((*alive, *within.temporaries), key=lambda b: -b.bytes)))

    def _inner(self, instruction: Instruction) -> Peak:
        """The largest peak among the computations that an instruction runs one after another."""
        nothing = Peak("", 0, ())
        if instruction.opcode not in ("while", "call", "conditional", "async-start"):
            return nothing
        names = [name for names in instruction.called().values() for name in names]
        return max((self.of(self._module.computations[name]) for name in names), key=lambda p: p.bytes, default=nothing)

    def _lives(self, computation: Computation) -> list[_Live]:
        buffers: list[_Live] = []
        values: dict[str, _Leaves] = {}
        for time, instruction in enumerate(computation.instructions):
            for operand in instruction.operands:
                for held in values[operand]:
                    if held is not None:
                        held.last = time
            known = self._others(computation, instruction, values)
            for number, shape in enumerate(instruction.shape.leaves):
                if number not in known:
                    known[number] = None
                    if shape.space == 0:
                        known[number] = made = _Live(instruction, shape, shape.padded_bytes, time, time)
                        buffers.append(made)
            values[instruction.name] = [known[number] for number in range(len(known))]
        self._return(computation, values[computation.root.name])
        return buffers

    def _return(self, computation: Computation, root: _Leaves) -> None:
        """What is returned lives to the end, and where it takes the caller's memory it takes none of its own."""
        for number, held in enumerate(root):
            if held is not None:
                held.last = len(computation.instructions) - 1
                if not computation.entry or number in self._module.aliases:
                    held.bytes = 0

    def _others(
        self, computation: Computation, instruction: Instruction, values: Mapping[str, _Leaves]
    ) -> dict[int, _Live | None]:
        """Leaves of a result that stand in memory which stood before."""
        opcode = instruction.opcode
        if opcode in _BORROWED:
            return dict.fromkeys(range(len(instruction.shape.leaves)))
        if not instruction.operands:
            return {}
        first = values[instruction.operands[0]]
        if opcode in _SAME or opcode in _IN_PLACE:
            return dict(enumerate(first))
        if opcode == "tuple":
            return dict(enumerate(held for name in instruction.operands for held in values[name]))
        if opcode == "get-tuple-element":
            return _part(computation, instruction, values, int(instruction.attribute("index") or 0))
        if opcode.endswith("-done"):  # copy-start holds (to, from, flag), others (from, to, flags) or the result alone
            parts = computation.operand(instruction, 0).shape.elements
            place = 0 if opcode == "copy-done" else 1
            return dict(enumerate(first)) if parts is None else _part(computation, instruction, values, place)
        if opcode == "copy-start":
            return {1: first[0]}
        if opcode.endswith("-start") and instruction.shape.elements is not None:
            return dict(enumerate(held for name in instruction.operands for held in values[name]))
        if opcode == "fusion":
            return self._written_over(instruction, values)
        return {}

    def _written_over(self, fusion: Instruction, values: Mapping[str, _Leaves]) -> dict[int, _Live | None]:
        """Results of a fusion that stand where an operand stood: as the compiler says, and updates of a part."""
        found: dict[int, _Live | None] = {}
        said = fusion.attribute("output_to_operand_aliasing") or ""
        for out, operand, inside in _WRITTEN.findall(said):
            held = values[fusion.operands[int(operand)]]
            found[int(out or 0)] = held[int(inside or 0)]
        inner = self._module.computations[fusion.called()["calls"][0]]
        roots = [inner.operand(inner.root, n) for n in range(len(inner.root.operands))]
        for number, root in enumerate(roots if inner.root.opcode == "tuple" else [inner.root]):
            while root.opcode == "bitcast":
                root = inner.operand(root, 0)
            source = _parameter(inner, root) if root.opcode in _IN_PLACE else None
            if source is not None and number not in found and len(held := values[fusion.operands[source]]) == 1:
                found[number] = held[0]
        return found


_WRITTEN = re.compile(r"\{(\d*)\}: \((\d+), \{(\d*)\}")


def _parameter(computation: Computation, instruction: Instruction) -> int | None:
    """The number of the parameter that an instruction is a view of."""
    while instruction.opcode in ("bitcast", *_IN_PLACE):
        instruction = computation.operand(instruction, 0)
    return int(instruction.arguments) if instruction.opcode == "parameter" else None


def _part(
    computation: Computation, instruction: Instruction, values: Mapping[str, _Leaves], index: int
) -> dict[int, _Live | None]:
    """Leaves of one element of the first operand."""
    source = computation.operand(instruction, 0)
    elements = source.shape.elements or ()
    start = sum(len(element.leaves) for element in elements[:index])
    return dict(enumerate(values[source.name][start : start + len(elements[index].leaves)]))


def _buffer(computation: Computation, live: _Live) -> Buffer:
    made = live.instruction
    return Buffer(
        made.name, computation.name, str(live.shape), live.bytes, made.metadata.get("op_name", ""), source_of(made)
    )
