"""An HLO module as text -> computations, instructions, shapes. One pass, a few string searches a line.

The text is what `hlo_modules()[0].to_string()` prints: one instruction a line, callees before callers, `ENTRY` last.
Attributes stay text until they are asked for. Grammar: openxla/xla, `hlo/parser/hlo_parser.cc`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import ceil, prod

BITS = {
    **{name: 4 for name in ("s4", "u4", "f4e2m1fn")},
    **{name: 8 for name in ("pred", "s8", "u8", "f8e5m2", "f8e4m3fn", "f8e4m3", "f8e4m3b11fnuz", "f8e8m0fnu")},
    **{name: 16 for name in ("s16", "u16", "f16", "bf16")},
    **{name: 32 for name in ("s32", "u32", "f32")},
    **{name: 64 for name in ("s64", "u64", "f64", "c64")},
    **{"s2": 2, "u2": 2, "c128": 128, "token": 0, "opaque": 0},
}
"""Of one element."""

_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_LEAF = re.compile(r"[a-z]\w*\[[^\]]*\](?:\{[^}]*\})?|\(|\)|token|opaque")
_TILES = re.compile(r"T((?:\([\d,*]*\))+)")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([^\s,(){}=]+)")
_PARENTHESES = re.compile(r"[()\"]")


class HloError(ValueError):
    """Text that is no HLO, or a program of which something must be known and isn't."""


@dataclass(frozen=True)
class Shape:
    """An array, or a tuple of shapes (`elements`).

    layout: dimensions from minor to major. tiles: outermost first, `T(8,128)(2,1)`; a 0 stands for `*`. space: 0 is the
    chip's memory (HBM), 1 the vector memory on the die, others are smaller still.
    """

    dtype: str = ""
    dims: tuple[int, ...] = ()
    layout: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()
    space: int = 0
    elements: tuple["Shape", ...] | None = None

    @property
    def leaves(self) -> tuple["Shape", ...]:
        """Its arrays, in order."""
        if self.elements is None:
            return (self,)
        return tuple(leaf for element in self.elements for leaf in element.leaves)

    @property
    def count(self) -> int:
        """Elements of an array."""
        return prod(self.dims)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return sum(leaf.count * BITS.get(leaf.dtype, 32) for leaf in self.leaves) // 8

    @property
    def padded_bytes(self) -> int:
        """As it stands in memory: each tile is full, so f32[24,40]{1,0:T(8,128)} takes 24 x 128 x 4 bytes."""
        return sum(_padded(leaf) * BITS.get(leaf.dtype, 32) // 8 for leaf in self.leaves)

    def __str__(self) -> str:
        if self.elements is not None:
            return f"({', '.join(map(str, self.elements))})"
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


def _padded(shape: Shape) -> int:
    dims = [shape.dims[n] for n in reversed(shape.layout)] if len(shape.layout) == len(shape.dims) else [*shape.dims]
    for tile in shape.tiles:
        sizes = list(tile)
        while 0 in sizes:  # a `*` joins its dimension to the next minor one
            at = sizes.index(0)
            place = len(dims) - len(sizes) + at
            if 0 <= place < len(dims) - 1:
                dims[place : place + 2] = [dims[place] * dims[place + 1]]
            del sizes[at]
        dims = [1] * (len(sizes) - len(dims)) + dims
        outer = dims[: len(dims) - len(sizes)]
        inner = dims[len(dims) - len(sizes) :]
        dims = [*outer, *(ceil(d / s) for d, s in zip(inner, sizes, strict=True)), *sizes]
    return prod(dims)


@cache
def parse_shape(text: str) -> Shape:
    """`bf16[4,96]{1,0:T(8,128)(2,1)S(1)}`, or a tuple of such.

    Raises:
        HloError: it is none.
    """
    stack: list[list[Shape]] = [[]]
    for found in _LEAF.finditer(text):
        token = found[0]
        if token == "(":
            stack.append([])
        elif token == ")":
            inner = stack.pop()
            stack[-1].append(Shape(elements=tuple(inner)))
        elif token in ("token", "opaque"):
            stack[-1].append(Shape(token))
        else:
            stack[-1].append(_array(token))
    if len(stack) != 1 or len(stack[0]) != 1:
        raise HloError(f"no shape: {text[:80]!r}")
    return stack[0][0]


def _array(text: str) -> Shape:
    found = _ARRAY.fullmatch(text)
    if found is None:
        raise HloError(f"no shape: {text[:80]!r}")
    dtype, dims, layout = found[1], found[2], found[3] or ""
    order, _, physical = layout.partition(":")
    tiles = _TILES.search(physical)
    space = _SPACE.search(physical)
    return Shape(
        dtype,
        tuple(int(d.lstrip("<=")) for d in dims.split(",") if d),
        tuple(int(d) for d in order.split(",") if d),
        tuple(tuple(0 if d == "*" else int(d) for d in tile.split(",") if d) for tile in tiles[1][1:-1].split(")("))
        if tiles
        else (),
        int(space[1]) if space else 0,
    )


@dataclass(frozen=True)
class Instruction:
    """One line. `arguments` is what stands in its parentheses (operands, a literal), `rest` what follows."""

    name: str
    opcode: str
    result: str
    arguments: str = field(repr=False)
    rest: str = field(repr=False)
    root: bool = False

    @cached_property
    def shape(self) -> Shape:
        """Of its result."""
        return parse_shape(self.result)

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of instructions of the same computation."""
        return () if self.opcode in ("constant", "parameter") else tuple(_NAME.findall(self.arguments))

    def attribute(self, name: str) -> str | None:
        """Its text, `{0,1}` with its braces; None where there is no such attribute."""
        start = self.rest.find(f", {name}=")
        if start < 0:
            return None
        start += len(name) + 3
        depth, at = 0, start
        while at < len(self.rest):
            letter = self.rest[at]
            if letter == '"':
                at = _quoted(self.rest, at)
                continue
            if letter in "{([":
                depth += 1
            elif letter in "})]":
                depth -= 1
            elif letter == "," and depth == 0:
                break
            at += 1
        return self.rest[start:at]

    def called(self) -> dict[str, tuple[str, ...]]:
        """Attribute -> computations, of those that call some."""
        found = {}
        for name in ("calls", "body", "condition", "to_apply", "branch_computations", "called_computations"):
            text = self.attribute(name)
            if text is not None:
                found[name] = tuple(_NAME.findall(text))
        branches = [self.attribute(name) for name in ("true_computation", "false_computation")]
        if any(branches):
            found["branch_computations"] = tuple(_NAME.findall(" ".join(text for text in branches if text)))
        return found

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """`op_name`, `source_file`, `source_line`, where the front end said so."""
        text = self.attribute("metadata") or ""
        return {key: quoted or plain for key, quoted, plain in _METADATA.findall(text)}


_METADATA = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s}]+))')


@dataclass(frozen=True)
class Computation:
    """Instructions in their order; in a scheduled module that is the order of execution."""

    name: str
    instructions: Sequence[Instruction] = field(repr=False)
    entry: bool = False

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """Its instructions."""
        return {instruction.name: instruction for instruction in self.instructions}

    @cached_property
    def root(self) -> Instruction:
        """Its result."""
        return next((i for i in self.instructions if i.root), self.instructions[-1])

    @cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        """By number."""
        return {int(i.arguments): i for i in self.instructions if i.opcode == "parameter"}

    def operand(self, instruction: Instruction, number: int) -> Instruction:
        """One operand of an instruction."""
        return self.by_name[instruction.operands[number]]


@dataclass(frozen=True)
class Module:
    """A program. `header` is its first line."""

    header: str = field(repr=False)
    computations: Mapping[str, Computation] = field(repr=False)

    @cached_property
    def entry(self) -> Computation:
        """Where it begins."""
        return next(c for c in self.computations.values() if c.entry)

    @cached_property
    def aliases(self) -> Mapping[int, int]:
        """Result number -> the parameter whose memory it takes."""
        return {int(out): int(parameter) for out, parameter in _ALIAS.findall(self.header)}


_ALIAS = re.compile(r"\{(\d+)\}: \((\d+), \{\}")


def parse(text: str) -> Module:
    """Read a module.

    Raises:
        HloError: no module, a line that can't be read, no ENTRY.
    """
    if not text.startswith("HloModule"):
        raise HloError(f"no HLO module: it begins with {text[:40]!r}")
    header, computations = text[: text.index("\n")], {}
    name, entry, held = "", False, list[Instruction]()
    for line in text.splitlines():
        if line.startswith("  "):
            if name:
                held.append(parse_instruction(line))
        elif line.startswith("}"):
            if name:
                computations[name] = Computation(name, held, entry)
            name, held = "", []
        elif line.endswith("{") and (line.startswith("%") or line.startswith("ENTRY ")):
            entry = line.startswith("ENTRY ")
            found = _NAME.search(line)
            if found is None:
                raise HloError(f"a computation without a name: {line[:80]!r}")
            name = found[1]
    if not any(computation.entry for computation in computations.values()):
        raise HloError("the HLO module has no ENTRY")
    return Module(header, computations)


def parse_instruction(line: str) -> Instruction:
    """`  ROOT %name = shape opcode(operands), attributes`.

    Raises:
        HloError: it isn't one.
    """
    left, equals, right = line.partition(" = ")
    if not equals:
        raise HloError(f"no instruction: {line[:80]!r}")
    root = left.startswith("  ROOT ")
    name = left[7:] if root else left[2:]
    end = _closing(right, 0) if right.startswith("(") else right.find(" ")
    result = right[:end]
    start = right.find("(", end)
    if end < 0 or start < 0:
        raise HloError(f"no instruction: {line[:80]!r}")
    close = _closing(right, start)
    return Instruction(
        name.lstrip("%"), right[end:start].strip(), result, right[start + 1 : close - 1], right[close:], root
    )


def _closing(text: str, start: int) -> int:
    """One past the parenthesis that closes the one at `start`."""
    first = text.find(")", start)
    if first > 0 and not _PARENTHESES.search(text, start + 1, first):
        return first + 1
    depth, at = 0, start
    while True:
        found = _PARENTHESES.search(text, at)
        if found is None:
            raise HloError(f"an open parenthesis: {text[:80]!r}")
        at = found.end()
        if found[0] == '"':
            at = _quoted(text, found.start())
            continue
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return at


def _quoted(text: str, start: int) -> int:
    """One past the quote that closes the one at `start`."""
    at = start + 1
    while True:
        at = text.find('"', at)
        if at < 0:
            raise HloError(f"an open quote: {text[start : start + 40]!r}")
        backslashes = at - len(text[:at].rstrip("\\")) if text[at - 1] == "\\" else 0
        at += 1
        if backslashes % 2 == 0:
            return at


def every(module: Module) -> Iterator[tuple[Computation, Instruction]]:
    """All instructions with where they stand."""
    for computation in module.computations.values():
        for instruction in computation.instructions:
            yield computation, instruction
