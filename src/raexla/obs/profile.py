"""`raexla profile`: which operations the time of some steps went into.

A traced run (`train.profile`) has `profile/steps-XXXXXXXX-XXXXXXXX/`, which holds the profiler's own file and, in
`steps.json`, how many steps it covers. Any other `*.xplane.pb`, or trace of `torch.profiler`, can be read as well.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raexla.obs.torch_trace import read_torch
from raexla.obs.trace import Trace, self_times
from raexla.obs.xplane import read_xplane
from raexla.recipe import UserError

STEPS = "steps.json"
"""Beside a trace: `first`, `last` (steps that it covers)."""
XPLANE, TORCH = ".xplane.pb", (".pt.trace.json.gz", ".pt.trace.json")
_MILLISECOND = 1e9  # in picoseconds


@dataclass(frozen=True)
class Row:
    """An operation, or a kind of them, all its runs together."""

    name: str
    kind: str
    milliseconds: float
    """Of a step where their number is known, else of the whole trace; of a device where there are any."""
    share: float
    """Of the time of all operations."""
    count: float
    """Runs, by the same measure."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))


@dataclass(frozen=True)
class Profile:
    """What a trace says."""

    path: Path
    steps: tuple[int, int] | None
    devices: int
    """Accelerators; 0: a host's threads, whose times are added up."""
    lanes: int
    span_milliseconds: float
    """From the first operation's start to the last one's end."""
    kinds: tuple[Row, ...]
    operations: tuple[Row, ...]
    others: tuple[Path, ...] = ()
    """Older traces that were found as well."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "path": str(self.path),
            "steps": self.steps,
            "devices": self.devices,
            "lanes": self.lanes,
            "span_milliseconds": self.span_milliseconds,
            "kinds": [row.as_dict() for row in self.kinds],
            "operations": [row.as_dict() for row in self.operations],
        }


def profile(place: Path) -> Profile:
    """The profile of a file, or the newest below a folder.

    Raises:
        UserError: there is none, it is damaged, or no operation is in it.
    """
    found = list(_traces(place))
    if not found:
        raise UserError(
            f"{place}: no trace there (*{XPLANE}, *{TORCH[0]}); a run makes one with --set train.profile=10-12"
        )
    path = found[0]
    try:
        data = path.read_bytes()
        trace = read_xplane(data) if path.name.endswith(XPLANE) else read_torch(data)
    except ValueError as error:
        raise UserError(f"{path}: can't be read as a trace: {error}") from None
    if not trace.lanes:
        raise UserError(f"{path}: the trace holds no operation: was a step taken while it was recorded?")
    return _summed(trace, path, _steps(path), tuple(found[1:]))


def _traces(place: Path) -> Iterator[Path]:
    """Newest first. XLA writes a viewer's JSON beside each of its files, which isn't one of PyTorch's."""
    if place.is_file():
        yield place
        return
    found = [path for path in place.rglob("*") if path.name.endswith((XPLANE, *TORCH)) and path.is_file()]
    yield from sorted(found, key=lambda path: (path.stat().st_mtime, str(path)), reverse=True)


def _steps(path: Path) -> tuple[int, int] | None:
    """What stands beside a trace, in its folder or above the profiler's own (`plugins/profile/TIME`)."""
    for folder in list(path.parents)[:4]:
        file = folder / STEPS
        if file.is_file():
            try:
                said = json.loads(file.read_text(encoding="utf-8"))
                return int(said["first"]), int(said["last"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: can't be read: {error}") from None
    return None


def _summed(trace: Trace, path: Path, steps: tuple[int, int] | None, others: tuple[Path, ...]) -> Profile:
    times: dict[tuple[str, str], int] = defaultdict(int)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for lane in trace.lanes:
        for event, own in self_times(lane.events):
            times[event.name, event.kind] += own
            counts[event.name, event.kind] += 1
    parts = (steps[1] - steps[0] + 1 if steps else 1) * max(trace.devices, 1)
    total = max(sum(times.values()), 1)
    operations = [
        Row(name, kind, own / _MILLISECOND / parts, own / total, counts[name, kind] / parts)
        for (name, kind), own in times.items()
    ]
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in operations:
        grouped[row.kind].append(row)
    kinds = [
        Row(kind, kind, sum(r.milliseconds for r in rows), sum(r.share for r in rows), sum(r.count for r in rows))
        for kind, rows in grouped.items()
    ]
    begin = min(event.start for lane in trace.lanes for event in lane.events)
    end = max(event.start + event.duration for lane in trace.lanes for event in lane.events)
    return Profile(
        path,
        steps,
        trace.devices,
        len(trace.lanes),
        (end - begin) / _MILLISECOND,
        tuple(sorted(kinds, key=_by_time)),
        tuple(sorted(operations, key=_by_time)),
        others,
    )


def _by_time(row: Row) -> tuple[float, str]:
    return -row.milliseconds, row.name


def profile_lines(found: Profile, top: int) -> list[str]:
    """For a person: the kinds, then the `top` operations."""
    unit = "ms a step" if found.steps else "ms"
    steps = f"steps {found.steps[0]} to {found.steps[1]}" if found.steps else "one trace"
    where = (
        f"mean of {found.devices} device{'s' if found.devices > 1 else ''}"
        if found.devices
        else f"{found.lanes} thread{'s' if found.lanes > 1 else ''} of the host added up"
    )
    busy = sum(row.milliseconds for row in found.kinds)
    lines = [f"{found.path}", f"{steps}, {where}: {busy:,.1f} {unit} in {len(found.operations)} operations"]
    if found.devices:
        whole = found.span_milliseconds / (found.steps[1] - found.steps[0] + 1 if found.steps else 1)
        lines.append(f"busy {busy / max(whole, 1e-9):.1%} of {whole:,.1f} {unit}, from the first operation to the last")
    lines += ["", *_table("kind", found.kinds, unit, kinds=False)]
    shown = found.operations[:top]
    lines += ["", *_table("operation", shown, unit, kinds=True)]
    if len(found.operations) > len(shown):
        rest = found.operations[len(shown) :]
        lines.append(f"{len(rest)} more: {sum(r.milliseconds for r in rest):,.2f} {unit}; --top shows more")
    lines += [f"older: {path}" for path in found.others]
    return lines


def _table(head: str, rows: tuple[Row, ...], unit: str, kinds: bool) -> list[str]:
    width = max(len(head), *(min(len(row.name), 60) for row in rows))
    lines = [f"{head:<{width}}  {unit:>10}   share       runs" + ("  kind" if kinds else "")]
    for row in rows:
        name = row.name if len(row.name) <= 60 else f"{row.name[:59]}…"
        line = f"{name:<{width}}  {row.milliseconds:>10,.3f}  {row.share:>6.1%}  {row.count:>9,.6g}"
        lines.append(line + (f"  {row.kind}" if kinds else ""))
    return lines
