"""Other people's state dicts <-> ours: which released key holds which of our tensors, in which shape.

A `ReleasedLayout` is plain data made from sizes: entries (a rename, at most a reshape), derived keys (tables that
follow from the sizes, copies of another key) and tensors that the file leaves to a rule. Everything else is common to
all models: checking a state dict, reading it, writing it. Each family makes its layouts in its `official.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from raexla.recipe import UserError

Shape = tuple[int, ...]

TABLE_TOLERANCE = 1e-4
"""Largest difference at which a stored position or rotation table counts as the one that the sizes give."""


@dataclass(frozen=True)
class Entry:
    """Where a released key's tensor goes."""

    ours: str
    shape: Shape
    """In the released file."""
    our_shape: Shape
    """In our module: the same numbers in the same order."""


@dataclass(frozen=True)
class Derived:
    """A released key that carries nothing new. It may be absent; if it is there, its values are checked."""

    shape: Shape
    table: Callable[[], Tensor] | None = None
    """Makes the values that the sizes give."""
    copy_of: str | None = None
    """Or: the released key whose values it repeats, bit for bit."""
    ignored: bool = False
    """Or: our models have no use for it, whatever it holds."""
    written: bool = True
    """Whether released files usually hold it, so that an exported one does and its absence is worth a word."""


@dataclass
class KeyReport:
    """What a released state dict has that the layout doesn't explain, and the other way round."""

    name: str = ""
    """What the layout is of, for messages."""
    entries: int = 0
    """Keys that carry weights and fit."""
    numbers: int = 0
    """Numbers in them."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mis_shaped: list[str] = field(default_factory=list)
    """"key: [has], expected [wants]"."""
    wrong_tables: list[str] = field(default_factory=list)
    """Derived keys whose values are not what they have to be: another model."""
    checked_tables: list[str] = field(default_factory=list)
    """Derived keys that are in the file and hold what they have to."""
    absent_tables: list[str] = field(default_factory=list)
    """Derived keys that are not in the file; no harm."""
    unchecked_tables: list[str] = field(default_factory=list)
    """Derived keys on `meta`, whose values cannot be compared."""
    ignored: list[str] = field(default_factory=list)
    """Keys in the file that our models have no use for."""
    made: list[str] = field(default_factory=list)
    """Our tensors that the file leaves to a rule."""

    def problems(self) -> list[str]:
        """One line each; empty if the state dict fits."""
        return (
            [f"missing: {key}" for key in self.missing]
            + [f"unexpected: {key}" for key in self.unexpected]
            + [f"wrong shape: {line}" for line in self.mis_shaped]
            + [f"wrong values: {line}" for line in self.wrong_tables]
        )

    def counts(self) -> str:
        """The numbers of `problems`, in one line."""
        counts = [f"{len(self.missing)} missing", f"{len(self.unexpected)} unexpected"]
        return ", ".join([*counts, f"{len(self.mis_shaped)} mis-shaped", f"{len(self.wrong_tables)} with wrong values"])

    def refuse(self) -> None:
        """Raise a `UserError` that gives the counts, then names every key, if there is any problem."""
        if problems := self.problems():
            raise UserError("\n  ".join([f"this is not {self.name}: {self.counts()}", *problems]))

    def lines(self) -> list[str]:
        """What a person wants to know about a state dict that fits."""
        lines = [f"{self.name}: {self.entries} tensors, {self.numbers:,} numbers; {self.counts()}"]
        for what, keys in (
            ("derived, values as they must be", self.checked_tables),
            ("derived, not in the file", self.absent_tables),
            ("derived, not checked (no values)", self.unchecked_tables),
            ("in the file, not used", self.ignored),
            ("not in the file, made by its rule", self.made),
        ):
            if keys:
                lines.append(f"{what}: {', '.join(keys)}")
        return lines


@dataclass(frozen=True)
class ReleasedLayout:
    """A released state dict of one model at given sizes."""

    name: str
    """For messages: "a Scale-RAE DiT, 2048 wide"."""
    entries: Mapping[str, Entry]
    """Released key -> where it goes."""
    derived: Mapping[str, Derived] = field(default_factory=dict)
    """Released key -> what it follows from."""
    made: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    """Our name -> the rule by which the released reader makes it up."""

    def check(self, state: Mapping[str, Tensor]) -> KeyReport:
        """Compare a released state dict with the layout. Tensors may be on `meta`; only derived ones are read."""
        known = self.entries.keys() | self.derived.keys()
        report = KeyReport(
            self.name,
            missing=sorted(self.entries.keys() - state.keys()),
            unexpected=sorted(state.keys() - known),
            absent_tables=sorted(key for key, item in self.derived.items() if key not in state and item.written),
            made=sorted(self.made),
        )
        for key, entry in self.entries.items():
            if key in state and self._fits(key, state[key], entry.shape, report):
                report.entries += 1
                report.numbers += prod(entry.shape)
        for key, item in self.derived.items():
            if key in state and self._fits(key, state[key], item.shape, report):
                _check_values(key, item, state, report)
        return report

    @staticmethod
    def _fits(key: str, value: Tensor, shape: Shape, report: KeyReport) -> bool:
        if tuple(value.shape) != shape:
            report.mis_shaped.append(f"{key}: {list(value.shape)}, expected {list(shape)}")
        return tuple(value.shape) == shape

    def read(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict (views of the given tensors) from one that `check` has no problem with."""
        ours = {entry.ours: state[key].reshape(entry.our_shape) for key, entry in self.entries.items()}
        return ours | {name: rule() for name, rule in self.made.items()}

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The released state dict, derived tables included, from ours; the inverse of `read`, bit for bit.

        Raises:
            UserError: a tensor that the file leaves to a rule is not what the rule gives.
        """
        for name, rule in self.made.items():
            if not torch.equal(ours[name].float().cpu(), rule()):
                raise UserError(
                    f"{self.name} does not store {name}, and this model's values are not the ones that its reader "
                    "would make up: it can't be written in this layout"
                )
        released = {key: ours[entry.ours].reshape(entry.shape) for key, entry in self.entries.items()}
        for key, item in self.derived.items():
            if item.written and item.table is not None:
                released[key] = item.table().reshape(item.shape)
        return released

    def prefixed(self, theirs: str, ours: str) -> "ReleasedLayout":
        """The layout of a part inside a bigger model."""
        return ReleasedLayout(
            self.name,
            {theirs + key: Entry(ours + e.ours, e.shape, e.our_shape) for key, e in self.entries.items()},
            {
                theirs + key: Derived(d.shape, d.table, theirs + d.copy_of if d.copy_of else None, d.ignored, d.written)
                for key, d in self.derived.items()
            },
            {ours + name: rule for name, rule in self.made.items()},
        )


def joined(name: str, *parts: ReleasedLayout) -> ReleasedLayout:
    """One layout of several parts whose keys don't overlap."""
    entries: dict[str, Entry] = {}
    derived: dict[str, Derived] = {}
    made: dict[str, Callable[[], Tensor]] = {}
    for part in parts:
        entries |= part.entries
        derived |= part.derived
        made |= part.made
    return ReleasedLayout(name, entries, derived, made)


def entries_of(
    module: nn.Module, names: Mapping[str, str], shapes: Mapping[str, Shape] | None = None
) -> dict[str, Entry]:
    """Entries from released key -> our name, with the shapes that our module has (it may be on `meta`).

    Args:
        shapes: released shapes where they are not ours.
    """
    ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return {key: Entry(name, (shapes or {}).get(key, ours[name]), ours[name]) for key, name in names.items()}


def _check_values(key: str, item: Derived, state: Mapping[str, Tensor], report: KeyReport) -> None:
    value = state[key]
    if item.ignored:
        report.ignored.append(key)
    elif value.is_meta or (item.copy_of is not None and item.copy_of in state and state[item.copy_of].is_meta):
        report.unchecked_tables.append(key)
    elif item.table is not None:
        difference = float((value.float().cpu() - item.table().reshape(item.shape)).abs().max())
        if not difference <= TABLE_TOLERANCE:
            report.wrong_tables.append(f"{key}: differs from the table for this grid by {difference:.3g}")
        else:
            report.checked_tables.append(key)
    elif item.copy_of is not None and item.copy_of in state:
        if torch.equal(value, state[item.copy_of]):
            report.checked_tables.append(key)
        else:
            report.wrong_tables.append(f"{key}: is not the same as {item.copy_of}, which it has to repeat")
