"""Sharding tables resolved against parameters: names and shapes only, no device needed."""

import re
from collections.abc import Mapping, Sequence

from raexla.runtime.mesh import AXES

#: One entry per tensor dim: a mesh axis, several axes, or None for "not split".
Axes = tuple[str | tuple[str, ...] | None, ...]
#: Rows of (parameter-path pattern, axes). In a pattern `*` stands for one path component.
Table = Sequence[tuple[str, Axes]]


class ShardingTableError(Exception):
    """A sharding table does not fit the module it was written for (a bug in the table, not in the recipe)."""


def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(r"\.".join(re.escape(part).replace(r"\*", r"[^.]+") for part in glob.split(".")) + r"\Z")


def resolve(table: Table, shapes: Mapping[str, Sequence[int]]) -> dict[str, Axes]:
    """The axes of every parameter.

    Args:
        table: rows of (pattern, axes).
        shapes: parameter name -> shape.

    Raises:
        ShardingTableError: a parameter matches no row or several, a row matches nothing, a row has another number
            of dims than its parameter, or names an axis that is not in the mesh. All problems at once.
    """
    rows = [(glob, _pattern(glob), axes) for glob, axes in table]
    used: set[str] = set()
    problems: list[str] = []
    resolved: dict[str, Axes] = {}
    for name, shape in shapes.items():
        hits = [(glob, axes) for glob, pattern, axes in rows if pattern.match(name)]
        used.update(glob for glob, _ in hits)
        if len(hits) != 1:
            found = " and ".join(glob for glob, _ in hits) or "no row"
            problems.append(f"{name} {list(shape)} matches {found}")
            continue
        glob, axes = hits[0]
        if len(axes) != len(shape):
            problems.append(f"{name} has {len(shape)} dims, row {glob} has {len(axes)}")
            continue
        flat = [a for entry in axes if entry for a in ((entry,) if isinstance(entry, str) else entry)]
        if unknown := set(flat) - set(AXES):
            problems.append(f"row {glob} names {', '.join(sorted(unknown))}; the axes are {', '.join(AXES)}")
        if len(flat) != len(set(flat)):
            problems.append(f"row {glob} uses an axis twice")
        resolved[name] = axes
    problems.extend(f"row {glob} matches no parameter" for glob, _, _ in rows if glob not in used)
    if problems:
        raise ShardingTableError("sharding table: " + "; ".join(problems))
    return resolved


def prefixed(prefix: str, table: Table) -> list[tuple[str, Axes]]:
    """The table of a module that stands at `prefix` inside another one."""
    return [(f"{prefix}.{glob}", axes) for glob, axes in table]


def replicated(shapes: Mapping[str, Sequence[int]]) -> list[tuple[str, Axes]]:
    """A table that splits nothing, for modules small enough to stand whole on every device."""
    return [(name, (None,) * len(shape)) for name, shape in shapes.items()]
