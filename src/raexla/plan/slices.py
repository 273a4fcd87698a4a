"""TPU chips and slices: peaks, memory, links.

Sources: Google's system architecture pages (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e) for FLOP/s, HBM and the
number of links; "How to Scale Your Model" (jax-ml.github.io/scaling-book, TPU specifications) for the bandwidth of one
link in one direction and of the data-centre network.
"""

import math
import re
from dataclasses import dataclass

from raexla.recipe import UserError

GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """One TPU chip. Bandwidths in bytes/s, `hbm_gib` as the compiler can use it (`docs/plan.md`)."""

    name: str
    bf16_flops: float
    """Peak of dense bf16 matrix products, FLOP/s."""
    hbm_gib: float
    hbm_bandwidth: float
    link_bandwidth: float
    """One link, one direction."""
    dims: int
    """Dimensions of the torus: 2 links each."""
    dcn_bandwidth: float = 6.25e9
    """Out of a slice over the data-centre network, per chip, one direction."""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32.0, 1.2e12, 4.5e10, 3),
        Chip("v5e", 197e12, 16.0, 8.1e11, 4.5e10, 2),
        Chip("v5p", 459e12, 95.0, 2.765e12, 9.0e10, 3),
        Chip("v6e", 918e12, 32.0, 1.64e12, 9.0e10, 2),
    )
}

_TOPOLOGY = re.compile(r"(?P<chip>[a-z0-9]+):(?P<shape>\d+(?:x\d+)*)\Z")
_WHOLE_AXIS = {"v4": 4, "v5p": 4, "v5e": 16, "v6e": 16}
"""From this many chips on an axis is closed to a ring (v4 and v5p: multiples of 4; v5e and v6e: the full 16)."""


@dataclass(frozen=True)
class Slice:
    """`slices` equal slices of chips, `v5p:4x4x4`: joined by the data-centre network if there are several."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, topology: str, slices: int = 1) -> "Slice":
        """From the command line's form.

        Raises:
            UserError: another form, an unknown chip, or a shape with the wrong number of dims.
        """
        match = _TOPOLOGY.match(topology)
        if match is None or match["chip"] not in CHIPS:
            raise UserError(
                f"--topology {topology}: wanted CHIP:SHAPE with one of {', '.join(CHIPS)}, e.g. v5p:4x4x4 or v6e:8x8"
            )
        chip, shape = CHIPS[match["chip"]], tuple(int(n) for n in match["shape"].split("x"))
        if len(shape) != chip.dims or 0 in shape:
            raise UserError(
                f"--topology {topology}: {chip.name} slices have {chip.dims} dimensions, this has {len(shape)}"
            )
        if slices < 1:
            raise UserError(f"--slices {slices}: at least 1")
        return cls(chip, shape, slices)

    @property
    def name(self) -> str:
        """`v5p:4x4x4`, `2 x v5p:4x4x4`."""
        one = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return one if self.slices == 1 else f"{self.slices} x {one}"

    @property
    def chips_in_slice(self) -> int:
        """Chips of one slice."""
        return math.prod(self.shape)

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.chips_in_slice * self.slices

    @property
    def peak_flops(self) -> float:
        """bf16 FLOP/s of all chips."""
        return self.chip.bf16_flops * self.chips

    def closed(self, dim: int) -> bool:
        """Whether the chips along a dim of the shape form a ring."""
        return self.shape[dim] % _WHOLE_AXIS[self.chip.name] == 0

    @property
    def hosts(self) -> int:
        """Machines that feed the chips: of four chips each; v5e and v6e slices of up to eight have one."""
        alone = self.chip.dims == 2 and self.chips_in_slice <= 8
        return self.slices * (1 if alone else -(-self.chips_in_slice // 4))

    @property
    def ring_bandwidth(self) -> float:
        """Bytes/s that a chip can send while an all-gather or reduce-scatter runs over the whole slice, all its links
        at work: two for each axis that is closed to a ring, one for an open axis of more than one chip."""
        links = sum(2 if self.closed(dim) else 1 for dim, size in enumerate(self.shape) if size > 1)
        return links * self.chip.link_bandwidth

    @property
    def bisection_bandwidth(self) -> float:
        """Bytes/s across the narrowest middle of a slice, one direction."""
        longest = max(self.shape)
        if longest == 1:
            return math.inf
        crossing = self.chips_in_slice // longest
        return crossing * self.chip.link_bandwidth * (2 if self.closed(self.shape.index(longest)) else 1)
