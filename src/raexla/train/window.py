"""The steps since the last record: their time and rates."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from raexla.obs import Clock
from raexla.runtime import Runtime


class Window:
    """Times steps between two records.

    Args:
        images: of a step. flops: of a step, by the convention of `obs/timing.py`. peak: FLOP/s of all devices.
    """

    def __init__(self, runtime: Runtime, clock: Clock, images: int, flops: float, peak: float) -> None:
        self._runtime, self._clock, self._images, self._flops, self._peak = runtime, clock, images, flops, peak
        self._rates: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Forget the steps since the last record."""
        self.steps, self.waited, self._began = 0, 0.0, time.perf_counter()
        self._compiled = self._runtime.counters().compile_seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside is no training: wait for the device, then leave the time out."""
        self._runtime.finish()
        paused = time.perf_counter()
        compiled = self._runtime.counters().compile_seconds
        yield
        self._began += time.perf_counter() - paused
        self._compiled += self._runtime.counters().compile_seconds - compiled

    def rates(self) -> Mapping[str, float]:
        """Seconds, images a second and so on of a step since the last call, and totals since the start."""
        counters = self._runtime.counters()
        self._clock.seconds["compile"] = counters.compile_seconds
        if self.steps:
            compile_seconds = counters.compile_seconds - self._compiled
            seconds = max(time.perf_counter() - self._began - compile_seconds, 1e-9) / self.steps
            self._rates = {
                "seconds": seconds,
                "images_per_second": self._images / seconds,
                "input_wait_seconds": self.waited / self.steps,
                "mfu": self._flops / seconds / self._peak,
            }
            self.restart()
        return self._rates | {
            "compile_seconds": counters.compile_seconds,
            "compilations": counters.compilations,
            "goodput": self._clock.goodput(),
        }
