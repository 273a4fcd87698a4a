"""Where the data stream stands: JSON-able, a few numbers per stream, the same for any number of processes.

    {"version": 1, "order": {...}, "first_stream": 0,
     "slots": {"generation": [12, 12, 12, 12]},       slots consumed, per group and stream
     "skips": {"web": {"3": 2}},                      samples refused, per source and stream (zeros left out)
     "passed": {"web": {"3": 7}}}                     samples passed over as another source's, likewise; may be absent

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
    passed: dict[str, list[int]]

    @classmethod
    def start(
        cls, order: dict[str, Any], first: int, count: int, groups: Sequence[str], sources: Sequence[str]
    ) -> "Cursor":
        """The beginning."""
        slots, skips, passed = ({name: [0] * count for name in names} for names in (groups, sources, sources))
        return cls(order, first, slots, skips, passed)

    def advance(self, rows: Mapping[str, int]) -> None:
        """Past a batch of so many rows of each group in every stream."""
        for name, count in rows.items():
            self.slots[name] = [slots + count for slots in self.slots[name]]

    def part(self, first: int, count: int) -> "Cursor":
        """A copy for the streams `[first, first + count)` of these."""
        low, high = first - self.first, first - self.first + count
        cut = [{name: row[low:high] for name, row in rows.items()} for rows in (self.slots, self.skips, self.passed)]
        return Cursor(self.order, first, *cut)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; only `order`, which nobody changes, is shared with this object."""
        plain = {
            "version": VERSION,
            "order": self.order,
            "first_stream": self.first,
            "slots": {name: list(counts) for name, counts in self.slots.items()},
            "skips": self._sparse(self.skips),
        }
        passed = self._sparse(self.passed)
        return plain | {"passed": passed} if passed else plain

    def _sparse(self, rows: Mapping[str, list[int]]) -> dict[str, dict[str, int]]:
        found = {
            name: {str(self.first + place): count for place, count in enumerate(counts) if count}
            for name, counts in rows.items()
        }
        return {name: counts for name, counts in found.items() if counts}

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
        streams = range(first, first + count)
        skips, passed = (
            {name: [int(rows.get(name, {}).get(str(stream), 0)) for stream in streams] for name in order["sources"]}
            for rows in (plain["skips"], plain.get("passed", {}))
        )
        return cls(order, first, slots, skips, passed)


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
                f"end ({have}) or is of another order"
            )
        for name, counts in part["slots"].items():
            whole["slots"][name].extend(counts)
        for kind in ("skips", "passed"):
            for name, counts in part.get(kind, {}).items():
                whole.setdefault(kind, {}).setdefault(name, {}).update(counts)
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
