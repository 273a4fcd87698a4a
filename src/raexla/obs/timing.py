"""Where the time went.

Conventions. *Goodput* = seconds in which steps were trained / seconds since the program's loop began; compiling,
waiting for input, evaluating and saving are not training. *MFU* = model FLOPs of a step / (step seconds x peak FLOP/s
of all devices); model FLOPs count the multiply-adds of matrix products (x 2) and attention of the forward pass
(`models/flops.py` has the formulas), three times for trained parts and twice where gradients only pass through; nothing
for rematerialisation or for networks that only judge (critic, perceptual distance). The peak and its source are written
into `run.json`.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Accumulates seconds by name."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the block's duration to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self.seconds[name] += seconds

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.began

    def goodput(self) -> float:
        """Fraction of the elapsed time that trained."""
        return max(0.0, 1.0 - sum(self.seconds.values()) / max(self.elapsed, 1e-9))
