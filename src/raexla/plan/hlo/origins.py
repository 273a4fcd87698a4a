"""Which arguments a value of a program is a copy of, and which weight's gradient a matrix product is.

The front end's names of operations don't survive loops and differentiation; the program's arguments have names that
do. A weight reaches a product through casts, slices, gathers, stacks and loops that leave it as it is. A gradient
reaches the optimiser's first moment of its weight; where the compiler has fused the updates of two weights of one
shape, both are named.
"""

import re
from collections.abc import Iterator, Sequence

from raexla.plan.hlo.text import Computation, Instruction, Module
from raexla.plan.hlo.walk import Walk

_COPIES = frozenset(
    {"copy", "bitcast", "reshape", "transpose", "convert", "slice", "dynamic-slice", "all-gather", "copy-start"}
    | {"copy-done", "all-gather-start", "all-gather-done", "opt-barrier", "pad", "reduce-precision"}
)
"""Of their first operand."""
_JOINS = frozenset({"concatenate", "maximum", "dynamic-update-slice"})
"""Of all operands; the TPU compiler concatenates by padding and taking the larger."""
_GRADIENT = _COPIES | {"all-reduce", "reduce-scatter", "all-to-all", "collective-permute"}
_MIXES = _JOINS | {"add", "multiply", "subtract", "divide", "select"}
_PRODUCTS = frozenset({"dot", "convolution"})

_Value = tuple[str, str, int]
"""Computation, instruction, element of its tuple or -1."""


class Origins:
    """Of one program.

    Args:
        names: of its arguments, in order.
    """

    def __init__(self, walked: Walk, names: Sequence[str]) -> None:
        self._module: Module = walked.module
        self._names = names
        self._callers: dict[str, tuple[Computation, Instruction]] = {}
        for computation in walked.module.computations.values():
            for instruction in computation.instructions if walked.times[computation.name] else ():
                if instruction.opcode in ("fusion", "while", "call"):
                    for called in instruction.called().values():
                        for name in called:
                            self._callers.setdefault(name, (computation, instruction))
        self._known: dict[_Value, frozenset[str] | None] = {}
        self._gradients: dict[tuple[str, str], set[str]] | None = None

    def of(self, computation: Computation, instruction: Instruction) -> frozenset[str]:
        """Arguments that a value consists of; none if it was computed."""
        return self._of((computation.name, instruction.name, -1)) or frozenset()

    def gradient_of(self, computation: Computation, product: Instruction) -> frozenset[str]:
        """Weights whose gradient a product is; none if it is none."""
        if self._gradients is None:
            self._gradients = {}
            for name, value in self._moments():
                for found in self._sources(value):
                    self._gradients.setdefault(found, set()).add(name)
        return frozenset(self._gradients.get((computation.name, product.name), ()))

    def _of(self, value: _Value) -> frozenset[str] | None:
        """None for what says nothing: constants, memory not yet written."""
        if value not in self._known:
            self._known[value] = frozenset()  # what goes round in a loop ends here
            self._known[value] = self._find(value)
        return self._known[value]

    def _find(self, value: _Value) -> frozenset[str] | None:
        computation, instruction = self._at(value)
        opcode = instruction.opcode
        if opcode == "parameter" and computation.entry:
            number = int(instruction.arguments)
            return frozenset({self._names[number]}) if number < len(self._names) else frozenset()
        if opcode in ("constant", "iota") or "AllocateBuffer" in instruction.rest:
            return None
        if opcode == "broadcast":
            return None if self._of((computation.name, instruction.operands[0], -1)) is None else frozenset()
        if opcode in _JOINS:
            many = instruction.operands[:2] if opcode == "dynamic-update-slice" else instruction.operands
            parts = [part for name in many if (part := self._of((computation.name, name, -1))) is not None]
            return frozenset().union(*parts) if parts and all(parts) else (None if not parts else frozenset())
        before = self._before(value)
        return frozenset() if before is None else self._of(before)

    def _at(self, value: _Value) -> tuple[Computation, Instruction]:
        computation = self._module.computations[value[0]]
        return computation, computation.by_name[value[1]]

    def _before(self, value: _Value, copies: frozenset[str] = _COPIES) -> _Value | None:
        """The one value that a value is, under another name or in another place."""
        computation, instruction = self._at(value)
        here, element, opcode = computation.name, value[2], instruction.opcode
        if opcode in copies:
            return (here, instruction.operands[0], element if opcode == "opt-barrier" else -1)
        if opcode == "get-tuple-element":
            return (here, instruction.operands[0], int(instruction.attribute("index") or 0))
        if opcode == "tuple" and element >= 0:
            return (here, instruction.operands[element], -1)
        if opcode in ("fusion", "call"):
            called = instruction.called()
            inner = self._module.computations[(called.get("calls") or called["to_apply"])[0]]
            return (inner.name, inner.root.name, element)
        if opcode == "custom-call" and "AsyncCollective" in instruction.rest:
            return (here, instruction.operands[2 if len(instruction.operands) > 2 else 0], -1)
        if opcode == "while":
            body = self._module.computations[instruction.called()["body"][0]]
            return (here, instruction.operands[0], element) if self._kept(body, element) else None
        if opcode == "parameter" and here in self._callers:
            outer, caller = self._callers[here]
            if caller.opcode != "while":
                return (outer.name, caller.operands[int(instruction.arguments)], element)
            body = self._module.computations[caller.called()["body"][0]]
            return (outer.name, caller.operands[0], element) if self._kept(body, element) else None
        return None

    @staticmethod
    def _kept(body: Computation, element: int) -> bool:
        """Whether a loop leaves an element of its state as it is."""
        if body.root.opcode != "tuple" or element < 0:
            return False
        value = body.operand(body.root, element)
        while value.opcode in ("copy", "bitcast"):
            value = body.operand(value, 0)
        if value.opcode != "get-tuple-element" or int(value.attribute("index") or 0) != element:
            return False
        return body.operand(value, 0).opcode == "parameter"

    def _moments(self) -> Iterator[tuple[str, _Value]]:
        """Weights with values that update their first moment and aren't arguments: their gradients."""
        entry = self._module.entry
        numbers = {p.name: number for number, p in entry.parameters.items()}
        for instruction in entry.instructions:
            held = [self._argument(entry, name) for name in instruction.operands]
            for argument in held:
                name = self._names[numbers[argument]] if argument is not None else ""
                if not name.endswith("/exp_avg"):
                    continue
                weight = name.split("/", 2)[2].removesuffix("/exp_avg")
                moment = entry.by_name[str(argument)].shape
                for operand, source in zip(instruction.operands, held, strict=True):
                    if source is None and _stacks(entry.by_name[operand].shape.dims, moment.dims):
                        yield weight, (entry.name, operand, -1)

    @staticmethod
    def _argument(entry: Computation, name: str) -> str | None:
        """The argument that an operand is, if no more than moved."""
        instruction = entry.by_name[name]
        while instruction.opcode in ("copy", "bitcast", "copy-start", "copy-done"):
            instruction = entry.operand(instruction, 0)
        return instruction.name if instruction.opcode == "parameter" else None

    def _sources(self, value: _Value) -> Iterator[tuple[str, str]]:
        """Products that a value is a sum of, scaled and moved."""
        open_, seen = [value], set[_Value]()
        while open_:
            value = open_.pop()
            if value in seen:
                continue
            seen.add(value)
            computation, instruction = self._at(value)
            if instruction.opcode in _PRODUCTS:
                yield computation.name, instruction.name
            elif instruction.opcode in _MIXES:
                open_ += [(computation.name, name, -1) for name in instruction.operands]
            elif instruction.opcode == "while":
                body = self._module.computations[instruction.called()["body"][0]]
                open_.append((body.name, body.root.name, value[2]))
            elif instruction.opcode == "all-reduce" and value[2] >= 0:
                open_.append((computation.name, instruction.operands[value[2]], -1))
            else:
                before = self._before(value, _GRADIENT)
                open_ += [before] if before is not None else []


def _stacks(dims: tuple[int, ...], one: tuple[int, ...]) -> bool:
    """Whether an array is of a matrix's shape or some of them (a loop's results), transposed or not."""
    many, single = (sorted(d for d in shape if d > 1) for shape in (dims, one))
    if len(single) < 2:
        return False
    return many == single or any(many[:n] + many[n + 1 :] == single for n in range(len(many)))


def pattern(names: frozenset[str]) -> str:
    """Names of arguments as one: numbers that differ become `*`, what is kept of it goes without its first folder.

    `model/dit.blocks.0.attn.qkv.weight` ... -> `dit.blocks.*.attn.qkv.weight`; unlike names are listed, three at most.
    """
    short = sorted({re.sub(r"(?<=\.)\d+(?=\.)", "*", name.removeprefix("model/")) for name in names})
    return ", ".join(short[:3]) + (f" and {len(short) - 3} more" if len(short) > 3 else "")
