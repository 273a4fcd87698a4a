"""What a profiler's trace says, whoever wrote it: events on lanes, and where their time goes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One run of an operation. Times are picoseconds."""

    name: str
    kind: str
    start: int
    duration: int


@dataclass(frozen=True)
class Lane:
    """Events one after another or one inside another, as a device's core or a host's thread runs them."""

    device: str
    name: str
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Trace:
    """The operations of one file."""

    lanes: tuple[Lane, ...]
    devices: int
    """Accelerators; 0 where the lanes are a host's threads."""


def self_times(events: Iterable[Event]) -> Iterator[tuple[Event, int]]:
    """Each event of a lane with its duration less that of the events directly inside it, in picoseconds."""
    open_events: list[tuple[Event, list[int]]] = []

    def close(until: int | None) -> Iterator[tuple[Event, int]]:
        while open_events and (until is None or open_events[-1][0].start + open_events[-1][0].duration <= until):
            event, inner = open_events.pop()
            yield event, max(event.duration - sum(inner), 0)

    for event in sorted(events, key=lambda event: (event.start, -event.duration)):
        yield from close(event.start)
        if open_events:
            outer = open_events[-1][0]
            open_events[-1][1].append(min(event.duration, outer.start + outer.duration - event.start))
        open_events.append((event, []))
    yield from close(None)
