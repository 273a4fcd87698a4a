"""How often each computation of a module runs: bodies of loops by their trip counts.

A trip count is what the compiler left in `known_trip_count`, else the loop's own condition is followed: the few scalars
that it reads are computed from their initial values, turn by turn, until it says stop.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raexla.plan.hlo.text import Computation, HloError, Instruction, Module

MOST_TURNS = 1_000_000
"""A loop that runs longer is one whose count isn't known."""

_KNOWN = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"?(\d+)')


@dataclass(frozen=True)
class Loop:
    """A `while`: its body runs `trips` times whenever the instruction runs, which it does `times` times."""

    name: str
    body: str
    trips: int
    times: int
    op_name: str


@dataclass(frozen=True)
class Walk:
    """times: computation -> how often it runs in one run of the program. inside: computations that are part of another
    instruction (of a fusion): what they hold has no memory of its own."""

    module: Module = field(repr=False)
    times: Mapping[str, int]
    inside: frozenset[str]
    loops: tuple[Loop, ...]


def walk(module: Module) -> Walk:
    """Follow a program from its ENTRY. Of a conditional every branch counts: an upper bound.

    Raises:
        HloError: a loop whose trip count can't be told; it is named.
    """
    times = dict.fromkeys(module.computations, 0)
    times[module.entry.name] = 1
    inside = set[str]()
    loops = []
    for computation in reversed(list(module.computations.values())):  # callers stand behind what they call
        here = times[computation.name]
        if not here:
            continue
        for instruction in computation.instructions:
            for kind, names in _called(instruction):
                trips = 1
                if kind == "body":
                    trips = trip_count(module, computation, instruction)
                    op_name = instruction.metadata.get("op_name", "")
                    loops.append(Loop(instruction.name, names[0], trips, here, op_name))
                for name in names:
                    times[name] += here * trips
                    if instruction.opcode == "fusion" or computation.name in inside:
                        inside.add(name)
    return Walk(module, times, frozenset(inside), tuple(loops))


_CALLERS = frozenset({"fusion", "while", "call", "conditional", "async-start"})
"""Others (`reduce`, `sort`) apply a computation to single elements."""


def _called(instruction: Instruction) -> list[tuple[str, tuple[str, ...]]]:
    return list(instruction.called().items()) if instruction.opcode in _CALLERS else []


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int:
    """How often a loop's body runs.

    Raises:
        HloError: that depends on data.
    """
    said = _KNOWN.search(loop.attribute("backend_config") or "")
    if said is not None:
        return int(said[1])
    called = loop.called()
    condition, body = module.computations[called["condition"][0]], module.computations[called["body"][0]]
    try:
        read = _read(condition)
        state = {n: _evaluate(module, computation, _element(computation, loop, n), {}) for n in read}
        while len(read) != len(read := _closed(body, read)):  # what the next value of a scalar depends on
            state = {n: _evaluate(module, computation, _element(computation, loop, n), {}) for n in read}
        for turn in range(MOST_TURNS):
            if not _evaluate(module, condition, condition.root, state):
                return turn
            state = {n: _evaluate(module, body, body.operand(body.root, n), state) for n in read}
    except _Unknown as reason:
        raise HloError(
            f"loop {loop.name} ({loop.metadata.get('op_name', 'no op_name')}): its trip count can't be told: {reason}"
        ) from reason
    raise HloError(f"loop {loop.name}: more than {MOST_TURNS} turns")


class _Unknown(Exception):
    """A value that depends on data."""


def _element(computation: Computation, loop: Instruction, number: int) -> Instruction:
    """What a loop begins with in one element of its state."""
    state = computation.operand(loop, 0)
    while state.opcode in ("copy", "opt-barrier", "bitcast"):
        state = computation.operand(state, 0)
    if state.opcode != "tuple":
        raise _Unknown(f"it begins with {state.opcode} {state.name}")
    return computation.operand(state, number)


def _read(computation: Computation) -> frozenset[int]:
    """Elements of its tuple parameter that its root depends on."""
    return _behind(computation, [computation.root])


def _closed(body: Computation, read: frozenset[int]) -> frozenset[int]:
    if body.root.opcode != "tuple":
        raise _Unknown(f"its body returns {body.root.opcode} {body.root.name}")
    return read | _behind(body, [body.operand(body.root, number) for number in read])


def _behind(computation: Computation, open_: list[Instruction]) -> frozenset[int]:
    found, seen = set[int](), set[str]()
    while open_:
        instruction = open_.pop()
        if instruction.name in seen:
            continue
        seen.add(instruction.name)
        if instruction.opcode == "get-tuple-element":
            source = computation.operand(instruction, 0)
            if source.opcode == "parameter":
                found.add(int(instruction.attribute("index") or 0))
                continue
        open_ += [computation.by_name[name] for name in instruction.operands]
    return frozenset(found)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "maximum": max,
    "minimum": min,
    "shift-left": operator.lshift,
    "shift-right-logical": operator.rshift,
}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}
_SAME = frozenset({"copy", "bitcast", "reshape", "convert", "bitcast-convert", "copy-done", "opt-barrier"})


def _evaluate(
    module: Module, computation: Computation, instruction: Instruction, state: Mapping[int, int], element: int = -1
) -> int:
    """An integer scalar. `state`: elements of the tuple parameter, or parameters, by number."""

    def of(number: int) -> int:
        return _evaluate(module, computation, computation.operand(instruction, number), state)

    opcode = instruction.opcode
    value: int
    if opcode == "constant":
        return _literal(instruction)
    if opcode == "parameter":
        return _given(state, int(instruction.arguments), instruction)
    if opcode == "get-tuple-element":
        index = int(instruction.attribute("index") or 0)
        source = computation.operand(instruction, 0)
        if source.opcode == "parameter":
            return _given(state, index, instruction)
        return _evaluate(module, computation, source, state, index)
    if opcode in ("tuple", "copy-start"):
        return of(element if opcode == "tuple" else 0)
    if opcode in _SAME:
        value = of(0)
    elif opcode in _BINARY:
        value = _BINARY[opcode](of(0), of(1))
    elif opcode == "compare":
        return int(_COMPARE[instruction.attribute("direction") or "EQ"](of(0), of(1)))
    elif opcode == "not":
        return int(not of(0)) if instruction.shape.dtype == "pred" else ~of(0)
    elif opcode == "negate":
        value = -of(0)
    elif opcode == "select":
        value = of(1) if of(0) else of(2)
    elif opcode in ("fusion", "call"):
        inner = module.computations[(instruction.called().get("calls") or instruction.called()["to_apply"])[0]]
        given = _Lazy(of)
        return _evaluate(module, inner, inner.root, given, element)
    else:
        raise _Unknown(f"it depends on {opcode} {instruction.name}")
    return _wrapped(value, instruction)


class _Lazy(dict[int, int]):
    """A fusion's parameters, each computed when it is read."""

    def __init__(self, of: Callable[[int], int]) -> None:
        super().__init__()
        self._of = of

    def __missing__(self, number: int) -> int:
        self[number] = self._of(number)
        return self[number]


def _given(state: Mapping[int, int], number: int, instruction: Instruction) -> int:
    try:
        return state[number]
    except KeyError:
        raise _Unknown(f"it depends on element {number} of {instruction.name}") from None


def _literal(instruction: Instruction) -> int:
    text = instruction.arguments.strip()
    try:
        return int(json.loads(text))
    except ValueError:
        raise _Unknown(f"constant {instruction.name} is {text[:40]}") from None


def _wrapped(value: int, instruction: Instruction) -> int:
    """Modulo its type's width."""
    dtype = instruction.shape.dtype
    if dtype == "pred" or not dtype.lstrip("su").isdigit():
        return value
    bits = int(dtype.lstrip("su"))
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype.startswith("s") and value >> (bits - 1) else value
