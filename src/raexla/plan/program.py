"""What the compiled program of one chip says of itself: FLOPs, bytes on the links, what fills the memory.

The compiler's own analysis counts the body of a loop once; here each part counts as often as it runs.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from raexla.plan.hlo.collectives import Collective, collectives
from raexla.plan.hlo.memory import Buffer, Peak, peak
from raexla.plan.hlo.products import Product, products
from raexla.plan.hlo.text import HloError, Instruction, Module, parse
from raexla.plan.hlo.timing import Timed, timed
from raexla.plan.hlo.walk import Loop, Walk, walk
from raexla.plan.slices import GIB

PARTS = ("weights", "optimiser", "averages", "frozen", "batch", "constants")
"""Of the arguments, in the order of a table."""


class Named(Protocol):
    """An argument of the program as `plan/trace.py` names it."""

    @property
    def name(self) -> str:
        """`model/...`, `optim/...`, `ema/...`, `batch`, a network's class."""
        ...


@dataclass(frozen=True)
class Kernel:
    """A kernel of our own (Pallas) that the program calls. flops: what its author declared, if anything."""

    name: str
    result: str
    times: int
    flops: int | None
    op_name: str


@dataclass(frozen=True)
class ProgramFacts:
    """Facts of one chip's program. All FLOPs and bytes count loops by their trip counts.

    arguments: part (`PARTS`) -> bytes, padded. peak: the fullest moment, beside the arguments.
    operations: opcode -> runs.
    """

    products: tuple[Product, ...] = field(repr=False)
    kernels: tuple[Kernel, ...]
    collectives: tuple[Collective, ...] = field(repr=False)
    loops: tuple[Loop, ...]
    arguments: Mapping[str, int]
    peak: Peak = field(repr=False)
    operations: Mapping[str, int]
    timed: tuple[Timed, ...] = field(repr=False)
    """What takes time, collectives apart; for a roofline."""

    @property
    def product_flops(self) -> int:
        """Of matrix products, those of kernels with a declared count included."""
        return sum(p.total for p in self.products) + sum((k.flops or 0) * k.times for k in self.kernels)

    @property
    def sent_bytes(self) -> int:
        """What this chip sends in a step."""
        return sum(c.total for c in self.collectives)

    @property
    def sent_by_kind(self) -> dict[tuple[str, str], int]:
        """(kind, mesh axes) -> bytes, the largest first."""
        return _sums(((c.kind, c.axis), c.total) for c in self.collectives)

    @property
    def flops_by_place(self) -> dict[str, int]:
        """Where matrix products come from -> FLOPs, the largest first; see `place`."""
        return _sums((place(p), p.total) for p in self.products)

    @property
    def flops_by_type(self) -> dict[str, int]:
        """Element type of the operands -> FLOPs: float32 products are several times slower than bf16's."""
        return _sums((p.dtype, p.total) for p in self.products)

    @property
    def peak_bytes(self) -> int:
        """Arguments and temporaries at the fullest moment, without what the compiler loses between buffers."""
        return sum(self.arguments.values()) + self.peak.bytes

    @property
    def temporaries(self) -> tuple[Buffer, ...]:
        """At the fullest moment, the largest first."""
        return self.peak.temporaries

    def as_dict(self, most: int = 20) -> dict[str, Any]:
        """JSON values; of products, collectives and temporaries the `most` largest."""
        return {
            "product_flops": self.product_flops,
            "flops_by_place": dict(list(self.flops_by_place.items())[:most]),
            "flops_by_type": self.flops_by_type,
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "sent_bytes": self.sent_bytes,
            "sent_by_kind": [
                {"kind": kind, "axis": axis, "bytes": sent} for (kind, axis), sent in self.sent_by_kind.items()
            ],
            "largest_collectives": [asdict(c) | {"total": c.total} for c in self.largest_collectives(most)],
            "arguments_bytes": dict(self.arguments),
            "peak_bytes": self.peak_bytes,
            "peak_at": self.peak.at,
            "largest_temporaries": [asdict(b) for b in self.temporaries[:most]],
            "loops": [asdict(loop) for loop in self.loops],
            "operations": dict(self.operations),
        }

    def largest_collectives(self, most: int) -> list[Collective]:
        """By what they send in a step."""
        return sorted(self.collectives, key=lambda c: -c.total)[:most]


def read_program(hlo: str, arguments: Sequence[Named] = (), mesh: Mapping[str, int] | None = None) -> ProgramFacts:
    """Read the optimised program of a compiled step (`Compiled.hlo`).

    Args:
        arguments: in the program's order (`Program.arguments`); without them all arguments are `constants`.
        mesh: axis -> size, in the mesh's order, to say along which axes a collective runs.

    Raises:
        HloError: text that is no HLO module, names of another program's arguments, a loop whose trip count can't be
            told.
    """
    module = parse(hlo)
    standing = _arguments(module, arguments)
    walked = walk(module)
    chips = _chips(module)
    kernels = tuple(_kernels(walked))
    return ProgramFacts(
        products=tuple(products(walked, [argument.name for argument in arguments])),
        kernels=kernels,
        collectives=tuple(collectives(walked, chips, mesh)),
        loops=walked.loops,
        arguments=standing,
        peak=peak(walked),
        operations=_operations(walked),
        timed=tuple(timed(walked, {kernel.name: kernel.flops or 0 for kernel in kernels})),
    )


def place(product: Product) -> str:
    """Where a product comes from, as well as the program says: its weight, else the front end's name and line, and its
    shapes."""
    if product.weight:
        return f"{product.weight} (gradient)" if product.gradient else product.weight
    shapes = f"{product.left} x {product.right}"
    named = " ".join(part for part in (scope(product.op_name), product.source) if part)
    return f"{named} {shapes}".strip()


def scope(op_name: str) -> str:
    """A front end's name for an operation, without the numbers that make it unique: `xla__scan/call.7/aten__mm` ->
    `scan/mm`."""
    parts = [re.sub(r"\.\d+$", "", part).replace("aten__", "").replace("xla__", "") for part in op_name.split("/")]
    kept = [part for n, part in enumerate(parts) if part != "call" and (n == 0 or part != parts[n - 1])]
    return "/".join(part for part in kept if part)


def _sums(pairs: Any) -> dict[Any, int]:
    found: Counter[Any] = Counter()
    for key, value in pairs:
        found[key] += value
    return dict(found.most_common())


def _chips(module: Module) -> int:
    found = re.search(r"num_partitions=(\d+)", module.header)
    return int(found[1]) if found else 1


def part_of(name: str) -> str:
    """One of `PARTS`, by an argument's name."""
    kind = name.partition("/")[0]
    known = {
        "model": "weights",
        "optim": "optimiser",
        "optimiser state": "optimiser",
        "ema": "averages",
        "average": "averages",
        "batch": "batch",
        "controls": "constants",
        "constant": "constants",
    }
    return known.get(kind, "frozen")


def _arguments(module: Module, named: Sequence[Named]) -> dict[str, int]:
    parameters = module.entry.parameters
    if named and len(named) != len(parameters):
        raise HloError(f"the program has {len(parameters)} arguments, {len(named)} are named")
    sizes = dict.fromkeys(PARTS, 0)
    for number, parameter in parameters.items():
        sizes[part_of(named[number].name) if named else "constants"] += parameter.shape.padded_bytes
    return sizes


_PLUMBING = frozenset({"parameter", "constant", "get-tuple-element", "tuple", "bitcast"})


def _operations(walked: Walk) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for computation in walked.module.computations.values():
        times = walked.times[computation.name]
        if times:
            kinds = Counter(i.opcode for i in computation.instructions if i.opcode not in _PLUMBING)
            for kind, many in kinds.items():
                counts[kind] += many * times
    return dict(counts.most_common())


def _kernels(walked: Walk) -> list[Kernel]:
    found = []
    for computation in walked.module.computations.values():
        for instruction in computation.instructions:
            if instruction.opcode == "custom-call" and '"tpu_custom_call"' in instruction.rest:
                times = walked.times[computation.name]
                if times:
                    op_name = instruction.metadata.get("op_name", "")
                    found.append(
                        Kernel(instruction.name, str(instruction.shape), times, _declared(instruction), op_name)
                    )
    return found


def _declared(instruction: Instruction) -> int | None:
    found = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', instruction.rest)
    return int(found[1]) if found else None


def lines(facts: ProgramFacts, model_flops: float | None = None, most: int = 8) -> list[str]:
    """For a person; see `work_lines`."""
    return [*work_lines(facts, model_flops, most), *memory_lines(facts, most)]


def work_lines(facts: ProgramFacts, model_flops: float | None = None, most: int = 8) -> list[str]:
    """Matrix products and what is sent, for a person.

    Args:
        model_flops: of one chip in a step, to name what the program does beyond them.
        most: rows of a table.
    """
    total = facts.product_flops
    out = [f"  matrix products: {_flops(total)} a chip and step"]
    if model_flops:
        out[0] += f", {total / model_flops - 1:+.1%} of the model's own {_flops(model_flops)}"
    wide = facts.flops_by_type
    if len(wide) > 1:
        out.append("    " + ", ".join(f"{dtype} {flops / total:.1%}" for dtype, flops in wide.items()))
    for name, flops in list(facts.flops_by_place.items())[:most]:
        out.append(f"    {flops / max(total, 1):6.1%}  {name}")
    undeclared = [kernel for kernel in facts.kernels if kernel.flops is None]
    if undeclared:
        out.append(f"    {len(undeclared)} kernels that declare no FLOPs are not in it")
    out.append(f"  sent by a chip in a step: {_bytes(facts.sent_bytes)}")
    for (kind, axis), sent in facts.sent_by_kind.items():
        out.append(f"    {_bytes(sent):>10}  {kind} along {axis}")
    for one in facts.largest_collectives(most):
        where = " ".join(part for part in (scope(one.op_name), one.source) if part)
        often = f" x {one.times}" if one.times > 1 else ""
        out.append(f"    {_bytes(one.total):>10}  {one.kind} {one.shape}{often} {where}".rstrip())
    return out


def memory_lines(facts: ProgramFacts, most: int = 8) -> list[str]:
    """What stands in memory at the fullest moment, for a person."""
    standing = {name: size for name, size in facts.arguments.items() if size}
    out = [f"  memory at the fullest moment ({facts.peak.at}): {_bytes(facts.peak_bytes)}"]
    for name, size in standing.items():
        out.append(f"    {_bytes(size):>10}  {name}")
    out.append(f"    {_bytes(facts.peak.bytes):>10}  activations and temporaries, of which")
    for shape, count, size, where in alike(facts.temporaries)[:most]:
        many = f"{count} x " if count > 1 else ""
        out.append(f"      {_bytes(size):>10}  {many}{shape} {where}".rstrip())
    return out


def alike(buffers: Sequence[Buffer]) -> list[tuple[str, int, int, str]]:
    """Shape, count, bytes together and where from, of buffers that differ in nothing else; the largest first."""
    found: dict[tuple[str, str], list[int]] = {}
    for buffer in buffers:
        where = " ".join(part for part in (scope(buffer.op_name), buffer.source) if part) or buffer.name.split(".")[0]
        found.setdefault((buffer.shape, where), []).append(buffer.bytes)
    rows = [(shape, len(sizes), sum(sizes), where) for (shape, where), sizes in found.items()]
    return sorted(rows, key=lambda row: -row[2])


def _flops(count: float) -> str:
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if count >= size:
            return f"{count / size:.3f} {unit}"
    return f"{count / 1e6:.3f} MFLOP"


def _bytes(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 100 else f"{count / 2**20:.2f} MiB"
