"""Where the data stream stands: JSON-able, a few numbers per stream, the same for any number of processes.

    {"version": 1, "order": {...}, "first_stream": 0,
     "slots": {"generation": [12, 12, 12, 12]},       slots consumed, per group and stream
     "skips": {"web": {"3": 2}}}                      samples refused, per source and stream (zeros left out)

A process's batches carry the part of its own streams; `merge_cursors` puts the parts together for a checkpoint. `order`
says what the order was a function of, so that a cursor is never used with another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raexla.recipe import UserError

VERSION = 1


@dataclass
class Cursor:
    """Positions of the streams `[first, first + count)`."""

    order: dict[str, Any]
    first: int
    slots: dict[str, list[int]]
    skips: dict[str, list[int]]

    @classmethod
    def start(
        cls, order: dict[str, Any], first: int, count: int, groups: Sequence[str], sources: Sequence[str]
    ) -> "Cursor":
        """The beginning."""
        return cls(order, first, {name: [0] * count for name in groups}, {name: [0] * count for name in sources})

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, none shared with this object."""
        skips = {
            name: {str(self.first + place): count for place, count in enumerate(counts) if count}
            for name, counts in self.skips.items()
        }
        return {
            "version": VERSION,
            "order": self.order,
            "first_stream": self.first,
            "slots": {name: list(counts) for name, counts in self.slots.items()},
            "skips": {name: counts for name, counts in skips.items() if counts},
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any], order: dict[str, Any], first: int, count: int) -> "Cursor":
        """The part for the streams `[first, first + count)` of a saved cursor.

        Raises `UserError` when it belongs to another order (naming what differs) or doesn't have these streams.
        """
        if plain.get("version") != VERSION:
            raise UserError(f"data cursor: version {plain.get('version')}, this program reads version {VERSION}")
        differing = _differences(plain["order"], order)
        if differing:
            raise UserError(
                "data cursor: the run's order was made from other settings, so it can't go on exactly:\n"
                + "\n".join(f"  {line}" for line in differing)
                + "\nrestore these, or start the data over with --fresh"
            )
        skip = first - plain["first_stream"]
        have = min((len(counts) for counts in plain["slots"].values()), default=0)
        if skip < 0 or skip + count > have:
            raise UserError(
                f"data cursor: it has the streams {plain['first_stream']}..{plain['first_stream'] + have - 1}, streams "
                f"{first}..{first + count - 1} are wanted: parts of the other processes are missing (merge_cursors)"
            )
        slots = {name: list(counts[skip : skip + count]) for name, counts in plain["slots"].items()}
        skips = {
            name: [int(plain["skips"].get(name, {}).get(str(stream), 0)) for stream in range(first, first + count)]
            for name in order["sources"]
        }
        return cls(order, first, slots, skips)


def merge_cursors(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cursors of all processes after one batch -> the cursor of the run. Raises `UserError` if they don't fit
    together."""
    ordered = sorted(parts, key=lambda part: part["first_stream"])
    whole: dict[str, Any] = {
        "version": VERSION,
        "order": ordered[0]["order"],
        "first_stream": 0,
        "slots": {name: [] for name in ordered[0]["slots"]},
        "skips": {},
    }
    for part in ordered:
        have = len(next(iter(whole["slots"].values())))
        if part["order"] != whole["order"] or part["first_stream"] != have:
            raise UserError(
                f"data cursor: the part that begins at stream {part['first_stream']} doesn't go on where the others "
                f"end ({have}) "
                "or is of another order"
            )
        for name, counts in part["slots"].items():
            whole["slots"][name].extend(counts)
        for name, counts in part["skips"].items():
            whole["skips"].setdefault(name, {}).update(counts)
    have, streams = len(next(iter(whole["slots"].values()))), whole["order"]["streams"]
    if have != streams:
        raise UserError(f"data cursor: parts of {have} of {streams} streams")
    return whole


def _differences(old: Any, new: Any, path: str = "data") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in sorted({*old, *new}):
            lines += _differences(old.get(name), new.get(name), f"{path}.{name}")
        return lines
    return [] if old == new else [f"{path}: was {old!r}, is {new!r}"]
