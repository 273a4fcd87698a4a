"""Matrix products of a program and their FLOPs: `dot`, and `convolution`, what the TPU compiler makes of it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

from raexla.plan.hlo.origins import Origins, pattern
from raexla.plan.hlo.text import Computation, HloError, Instruction, Shape
from raexla.plan.hlo.walk import Walk


@dataclass(frozen=True)
class Product:
    """A matrix product of one chip's program. flops: of one run, two for a multiplication and its addition. times: how
    often it runs."""

    name: str
    computation: str
    left: str
    right: str
    result: str
    dtype: str
    flops: int
    times: int
    op_name: str
    source: str
    """`file:line` where the front end said it."""
    weight: str = ""
    """Name of the weight that is multiplied, or whose gradient this is (`gradient`); of a loop's layers with a `*`."""
    gradient: bool = False

    @property
    def total(self) -> int:
        """FLOPs of all its runs."""
        return self.flops * self.times


def products(walked: Walk, names: Sequence[str] = ()) -> Iterator[Product]:
    """Every product that runs, those inside fusions too.

    Args:
        names: of the program's arguments, to name weights; see `raexla.plan.hlo.origins`.
    """
    origins = Origins(walked, names) if names else None
    for computation in walked.module.computations.values():
        times = walked.times[computation.name]
        if not times:
            continue
        for instruction in computation.instructions:
            if instruction.opcode in ("dot", "convolution"):
                left, right = (computation.operand(instruction, n).shape for n in (0, 1))
                weight, gradient = _weight(origins, computation, instruction) if origins else ("", False)
                yield Product(
                    instruction.name,
                    computation.name,
                    str(left),
                    str(right),
                    str(instruction.shape),
                    left.dtype,
                    flops(computation, instruction),
                    times,
                    instruction.metadata.get("op_name", ""),
                    source_of(instruction),
                    weight,
                    gradient,
                )


def _weight(origins: Origins, computation: Computation, instruction: Instruction) -> tuple[str, bool]:
    read = frozenset().union(*(origins.of(computation, computation.operand(instruction, n)) for n in (0, 1)))
    if read:
        return pattern(read), False
    found = origins.gradient_of(computation, instruction)
    return pattern(found), bool(found)


def source_of(instruction: Instruction) -> str:
    """`file:line`, empty where the front end left none that is true.

    Inside a loop of torch_xla's `scan` the lines are another computation's (2.9.0 puts the body in without the table
    that its line numbers point into), and a file `-` is the StableHLO text itself.
    """
    file = instruction.metadata.get("source_file", "-")
    return (
        ""
        if file == "-" or "xla__scan/" in instruction.metadata.get("op_name", "")
        else f"{file}:{instruction.metadata.get('source_line', '0')}"
    )


def flops(computation: Computation, instruction: Instruction) -> int:
    """Of one run of a `dot` or `convolution`."""
    left, right = (computation.operand(instruction, n).shape for n in (0, 1))
    if instruction.opcode == "dot":
        contracted = [int(n) for n in re.findall(r"\d+", instruction.attribute("lhs_contracting_dims") or "")]
        return 2 * instruction.shape.count * prod(left.dims[n] for n in contracted)
    return 2 * _multiplications(instruction, left, right)


def _multiplications(instruction: Instruction, left: Shape, right: Shape) -> int:
    """Those of a convolution that meet data: neither padding nor the holes of a dilated input.

    The same count as XLA's (`hlo_cost_analysis.cc`, HandleConvolution): batched products come as windows that slide
    over a dilated input and meet one element each.
    """
    labels = re.fullmatch(r"(\w+)_(\w+)->(\w+)", instruction.attribute("dim_labels") or "")
    if labels is None:
        raise HloError(f"convolution {instruction.name}: no dim_labels")
    source, kernel, result = labels[1], labels[2], labels[3]
    window = _window(instruction.attribute("window") or "{}")
    out = instruction.shape
    groups = int(instruction.attribute("feature_group_count") or 1)
    batches = int(instruction.attribute("batch_group_count") or 1)
    met = 1
    for axis in range(sum(label.isdigit() for label in kernel)):
        label = str(axis)
        met *= _met(
            left.dims[source.index(label)],
            right.dims[kernel.index(label)],
            out.dims[result.index(label)],
            int(window["stride"][axis]) if window["stride"] else 1,
            int(window["pad"][axis].partition("_")[0]) if window["pad"] else 0,
            int(window["lhs_dilate"][axis]) if window["lhs_dilate"] else 1,
            int(window["rhs_dilate"][axis]) if window["rhs_dilate"] else 1,
        )
    features = left.dims[source.index("f")] // groups * out.dims[result.index("f")]
    return features * (left.dims[source.index("b")] // batches) * met


def _window(text: str) -> dict[str, list[str]]:
    found = dict(part.split("=", 1) for part in text.strip("{}").split())
    return {
        name: found[name].split("x") if name in found else [] for name in ("stride", "pad", "lhs_dilate", "rhs_dilate")
    }


@cache
def _met(size: int, kernel: int, out: int, stride: int, pad: int, dilate: int, kernel_dilate: int) -> int:
    """Pairs of an output position and a kernel position that meet an element of the input, along one axis."""
    reach = (size - 1) * dilate + 1
    count = 0
    for tap in range(kernel):
        first = tap * kernel_dilate - pad
        if dilate == 1:  # positions p with 0 <= p * stride + first < reach
            low, high = max(0, -(first // stride)), (reach - 1 - first) // stride
            count += max(0, min(high, out - 1) - low + 1)
        else:
            places = (position * stride + first for position in range(out))
            count += sum(0 <= place < reach and place % dilate == 0 for place in places)
    return count
