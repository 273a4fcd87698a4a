"""What chips send each other in a program: kind, bytes, group, mesh axis.

Bytes are what one chip sends under the ring algorithm on n chips, of an array of b bytes (the whole, not the piece):
all-gather and reduce-scatter b (n - 1) / n, all-reduce twice that, all-to-all b (n - 1) / n of its own b, a permute its
b (Patarasuk and Yuan 2009; the compiler may choose another algorithm; none sends less).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import prod

import numpy as np

from raexla.plan.hlo.products import source_of
from raexla.plan.hlo.text import Computation, HloError, Instruction
from raexla.plan.hlo.walk import Walk

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Collective:
    """One collective of one chip's program. array_bytes: of the whole array that the group holds together.
    sent_bytes: by one chip in one run. axis: the mesh axes along which it runs, `fsdp`, `data+fsdp`; `?` if they are no
    axes of the mesh. hidden: it runs beside other work (start and done)."""

    name: str
    kind: str
    computation: str
    shape: str
    array_bytes: int
    sent_bytes: int
    group_size: int
    axis: str
    times: int
    hidden: bool
    op_name: str
    source: str

    @property
    def total(self) -> int:
        """Bytes that one chip sends in all its runs."""
        return self.sent_bytes * self.times


def collectives(walked: Walk, chips: int, mesh: Mapping[str, int] | None = None) -> Iterator[Collective]:
    """Every collective that runs. One in flight stands in several fusions (start, steps, done) under one channel: it
    counts once.

    Args:
        chips: of the program.
        mesh: axis -> size in the mesh's order (devices row-major), to name axes.
    """
    seen: dict[str, int] = {}
    names = axes_of(mesh or {})
    for computation in walked.module.computations.values():
        times = walked.times[computation.name]
        if not times:
            continue
        for instruction in computation.instructions:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            channel = instruction.attribute("channel_id")
            if channel is not None and seen.setdefault(channel, id(computation)) != id(computation):
                continue
            made = _read(computation, instruction, kind, computation.name in walked.inside, times, chips, names)
            if made.group_size > 1:
                yield made


def _read(
    computation: Computation,
    instruction: Instruction,
    kind: str,
    inside: bool,
    times: int,
    chips: int,
    names: Mapping[frozenset[frozenset[int]], str],
) -> Collective:
    groups = _groups(instruction, kind, chips)
    size = max(map(len, groups), default=1)
    inputs = sum(computation.by_name[name].shape.bytes for name in instruction.operands)
    if kind == "all-reduce" and inside and _scattered(computation, instruction, inputs, size):
        kind = "reduce-scatter"
    whole = inputs * size if kind == "all-gather" else inputs
    ring = {"all-reduce": 2 * (size - 1) / size, "collective-permute": 1.0, "collective-broadcast": 1.0}
    return Collective(
        instruction.name,
        kind,
        computation.name,
        ", ".join(str(computation.by_name[name].shape) for name in instruction.operands[:3]),
        whole,
        round(whole * ring.get(kind, (size - 1) / size)),
        size,
        names.get(frozenset(map(frozenset, groups)), "?") if kind != "collective-permute" else _line(groups, names),
        times,
        instruction.opcode.endswith("-start") or _in_flight(computation),
        instruction.metadata.get("op_name", ""),
        source_of(instruction),
    )


def _in_flight(computation: Computation) -> bool:
    return any("AsyncCollective" in i.rest for i in computation.instructions if i.opcode == "custom-call")


def _scattered(computation: Computation, instruction: Instruction, inputs: int, size: int) -> bool:
    """Whether a fusion keeps only this chip's piece of an all-reduce: the TPU compiler writes a reduce-scatter so."""
    kept, reached = 0, {instruction.name}
    for user in computation.instructions:
        if not reached.intersection(user.operands):
            continue
        if user.opcode == "dynamic-slice":
            kept += user.shape.bytes
        elif user.opcode in ("get-tuple-element", "bitcast", "reshape"):
            reached.add(user.name)
        else:
            return False
    return kept * size == inputs


_LIST = re.compile(r"\{([\d,\s]*)\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


def _groups(instruction: Instruction, kind: str, chips: int) -> Groups:
    if kind == "collective-permute":
        pairs = _LIST.findall((instruction.attribute("source_target_pairs") or "{}")[1:-1])
        return tuple((int(a), int(b)) for a, b in (pair.split(",") for pair in pairs))
    return parse_groups(instruction.attribute("replica_groups") or "{}", chips)


def parse_groups(text: str, chips: int) -> Groups:
    """`{{0,1},{2,3}}`, or `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)` (an iota, reshaped, transposed, reshaped); `{}` is all.

    Raises:
        HloError: it is neither.
    """
    iota = _IOTA.match(text)
    if iota is not None:
        out, shape = (tuple(int(n) for n in iota[k].split(",")) for k in (1, 2))
        numbers = np.arange(prod(shape)).reshape(shape)
        if iota[3]:
            numbers = numbers.transpose([int(n) for n in iota[3].split(",")])
        return tuple(tuple(map(int, row)) for row in numbers.reshape(out[0], -1))
    if not text.startswith("{"):
        raise HloError(f"replica_groups that can't be read: {text[:80]!r}")
    groups = tuple(tuple(int(n) for n in group.split(",")) for group in _LIST.findall(text[1:-1]) if group.strip())
    return groups or (tuple(range(chips)),)


def axes_of(mesh: Mapping[str, int]) -> dict[frozenset[frozenset[int]], str]:
    """How a mesh's devices fall into groups along each set of its axes -> the axes' names, joined by `+`."""
    axes = {name: size for name, size in mesh.items() if size > 1}
    numbers = np.arange(prod(axes.values())).reshape(tuple(axes.values()))
    found = {}
    for many in range(1, len(axes) + 1):
        for chosen in combinations(range(len(axes)), many):
            rest = [n for n in range(len(axes)) if n not in chosen]
            rows = numbers.transpose([*rest, *chosen]).reshape(-1, prod(numbers.shape[n] for n in chosen))
            key = frozenset(frozenset(map(int, row)) for row in rows)
            found[key] = "+".join(list(axes)[n] for n in chosen)
    return found


def _line(pairs: Groups, names: Mapping[frozenset[frozenset[int]], str]) -> str:
    """The fewest axes within which all pairs of a permute stay."""
    for groups, name in names.items():  # fewest axes first
        if all(any({*pair} <= group for group in groups) for pair in pairs):
            return name
    return "?"
