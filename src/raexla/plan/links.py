"""Which links of a slice a mesh axis runs over, and how long a collective takes on them.

Devices are numbered row by row over the torus and the mesh `data x fsdp x tensor` row by row over the devices, so that
`tensor` takes the last dims, `fsdp` those before it and `data` what is left; several slices are the outermost part of
`data` and talk over the data-centre network. That is the arrangement which is assumed; the compiler may do better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod

from raexla.plan.slices import Slice
from raexla.recipe import UserError

ALL_DIMS = 3
"""A group over so many dims of a torus gathers by all-reduces of zero-filled arrays, twice the bytes (docs/plan.md)."""


@dataclass(frozen=True)
class Links:
    """The box of chips within which a collective runs. dims: (chips, closed to a ring) of each dim that it spans."""

    dims: tuple[tuple[int, bool], ...]
    link: float
    """Bytes/s of one link in one direction."""

    @property
    def bandwidth(self) -> float:
        """Bytes/s that a chip can send with all links of the box at work: two a ring, one an open line."""
        return self.link * sum(2 if ring else 1 for _, ring in self.dims)

    @property
    def bisection(self) -> float:
        """Bytes/s across the narrowest middle of the box, one direction."""
        size = prod(length for length, _ in self.dims)
        ways = [size // length * (2 if ring else 1) for length, ring in self.dims]
        return self.link * min(ways) if ways else math.inf


def lay(where: Slice, mesh: Mapping[str, int]) -> dict[str, Links]:
    """The links of every mesh axis within one slice.

    Raises:
        UserError: several slices, and a `data` that they don't divide.
    """
    if mesh["data"] % where.slices:
        raise UserError(
            f"mesh.data {mesh['data']} does not divide by --slices {where.slices}: only the axis data runs between "
            f"slices; --set mesh.data={where.slices} keeps the other axes within one"
        )
    left = [*where.shape]
    found = {}
    for axis in ("tensor", "fsdp", "data"):
        need = mesh[axis] // (where.slices if axis == "data" else 1)
        dims = []
        for place in reversed(range(len(left))):
            taken = gcd(need, left[place])
            if taken > 1:
                dims.append((taken, taken == where.shape[place] and where.closed(place)))
                left[place] //= taken
                need //= taken
        found[axis] = Links((*dims, *([(need, False)] if need > 1 else [])), where.chip.link_bandwidth)
    return found


@dataclass(frozen=True)
class Sent:
    """A collective to be timed. bytes: sent by one chip under the ring algorithm. group: chips that take part."""

    kind: str
    axis: str
    """`fsdp`, `data+fsdp`; `?` is taken as the whole slice."""
    bytes: float
    group: int


def seconds(sent: Sequence[Sent], where: Slice, mesh: Mapping[str, int], efficiency: float) -> tuple[float, float]:
    """Time of collectives one after the other: on the links of the slices, and between slices.

    One that crosses slices is taken apart: within each slice first, then of each chip's piece between them. An
    all-to-all is also bound by the bisection of its box.
    """
    axes = lay(where, mesh)
    inside = across = 0.0
    for one in sent:
        names = [name for name in one.axis.split("+") if name in axes] or list(axes)
        box = Links(tuple(dim for name in names for dim in axes[name].dims), where.chip.link_bandwidth)
        size = prod(length for length, _ in box.dims)
        within = one.bytes
        if where.slices > 1 and "data" in names and one.group > 1:
            array = one.bytes * one.group / (one.group - 1)  # as often as the kind sends it
            within = array * (size - 1) / size
            across += array / size * (where.slices - 1) / where.slices / where.chip.dcn_bandwidth
        if size > 1:
            longest = within / box.bandwidth
            if one.kind == "all-to-all":
                longest = max(longest, within * size / 4 / box.bisection)
            inside += longest / efficiency
    return inside, across
