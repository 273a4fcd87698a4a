"""PyTorch's traces (`torch.profiler`, Chrome's JSON) -> the operations that each device ran."""

import gzip
import json
from collections import defaultdict
from typing import Any

from raexla.obs.kinds import kind_of_torch
from raexla.obs.trace import Event, Lane, Trace

_KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
_MICROSECOND = 1_000_000  # in picoseconds


def read_torch(data: bytes) -> Trace:
    """The kernels of a trace's GPUs, by stream, or, where it has none, its operators by thread.

    Raises:
        ValueError: not a trace.
    """
    try:
        found = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        events = found["traceEvents"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None
    kernels = _lanes(events, _KERNELS)
    lanes = kernels or _lanes(events, ("cpu_op",))
    return Trace(lanes, devices=len({lane.device for lane in kernels}))


def _lanes(events: list[dict[str, Any]], categories: tuple[str, ...]) -> tuple[Lane, ...]:
    lanes: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in categories and event.get("dur"):
            start, duration = (round(float(event[key]) * _MICROSECOND) for key in ("ts", "dur"))
            name = str(event["name"])
            lanes[str(event["pid"]), str(event["tid"])].append(Event(name, kind_of_torch(name), start, duration))
    return tuple(Lane(device, name, tuple(of)) for (device, name), of in lanes.items())
