"""Counter-based random draws: the same numbers on every back end, mesh, process count and accumulation.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) in int32
tensor operations. A draw is keyed by (run seed, purpose, step) and by the sample's global row in the batch, so it
depends neither on which device computes it nor on what else stands in the batch.
"""

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_TO_UNIT = 2.0**-24


def _signed(word: int) -> int:
    """The int32 that has the bits of an unsigned 32-bit word."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift. int32 >> is arithmetic in PyTorch, and a division that rounds to zero in torch_xla 2.9: clearing
    the low bits first makes the two agree, and the mask removes the copies of the sign bit."""
    return ((x & -(1 << bits)) >> bits) & ((1 << (32 - bits)) - 1)


def _rotate_left(x: Tensor, bits: int) -> Tensor:
    return (x << bits) | _shift_right(x, 32 - bits)


def threefry(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20 of broadcastable int32 words; additions wrap around."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = counter[0] + k0, counter[1] + k1
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, bits) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + (group + 1)
    return x0, x1


class Draws:
    """Random tensors for one step of a run.

    Args:
        seed: the run's seed, 0 <= seed < 2**64.
        step: int32 scalar tensor, the optimiser step (or an int).
        rows: int32 [B], global row of each sample in the step's global batch.
    """

    def __init__(self, seed: int, step: Tensor | int, rows: Tensor) -> None:
        self.rows = rows.to(torch.int32)
        self._step = torch.as_tensor(step, dtype=torch.int32, device=rows.device)
        self._seed = (_signed(seed), _signed(seed >> 32))

    def _words(self, purpose: str, count: int) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), dtype=torch.int32, device=self.rows.device)
        seed = (zero + self._seed[0], zero + self._seed[1])
        key = threefry(seed, (zero + _signed(zlib.crc32(purpose.encode())), self._step))
        row = threefry(key, (self.rows, zero))
        element = torch.arange(count, dtype=torch.int32, device=self.rows.device)
        return threefry((row[0][:, None], row[1][:, None]), (element[None], zero))

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """float32 [B, *shape] in [0, 1), multiples of 2**-24."""
        size = math.prod(shape)
        first, second = self._words(purpose, (size + 1) // 2)
        words = torch.cat([first, second], dim=1)[:, :size]
        return (_shift_right(words, 8).float() * _TO_UNIT).reshape(len(self.rows), *shape)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """float32 [B, *shape] ~ N(0, 1) by Box-Muller; magnitudes end at 5.77."""
        size = math.prod(shape)
        first, second = self._words(purpose, (size + 1) // 2)
        radius = torch.sqrt(-2.0 * torch.log((_shift_right(first, 8) + 1).float() * _TO_UNIT))
        angle = _shift_right(second, 8).float() * (2.0 * math.pi * _TO_UNIT)
        values = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :size]
        return values.reshape(len(self.rows), *shape)
