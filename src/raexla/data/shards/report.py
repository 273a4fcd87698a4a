"""What became of the candidates that shards were made from: counted by reason, and named."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from raexla.data.shards.manifest import Index

LEFT_OUT = "left-out.jsonl"
"""Beside the shards, where something was left out or got another key: a line for each, {name, reason, detail}."""
RENAMED = "renamed"

_NAMED = 5  # of each reason, in reports


@dataclass(frozen=True)
class LeftOut:
    """A candidate that became no sample."""

    name: str
    """As its owner would call it."""
    reason: str
    detail: str = ""

    def line(self) -> bytes:
        """A line of `LEFT_OUT`."""
        plain = {"name": self.name, "reason": self.reason, "detail": self.detail}
        return json.dumps(plain, ensure_ascii=True).encode() + b"\n"


@dataclass
class MadeReport:
    """What a folder of made samples holds, and what was left out of it."""

    index: Index = field(default_factory=lambda: Index([]))
    seen: int = 0
    """Candidates that were looked at."""
    counts: Counter[str] = field(default_factory=Counter)
    """Reason -> number, `renamed` among them."""
    first: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> the first few names."""
    complete_already: bool = False
    details: list[str] = field(default_factory=list)
    """The first few whole lines: name: reason: detail."""

    @property
    def samples(self) -> int:
        """Samples of the folder."""
        return self.index.samples

    def note(self, row: LeftOut) -> None:
        """Count one."""
        self.counts[row.reason] += 1
        names = self.first.setdefault(row.reason, [])
        if len(names) < _NAMED:
            names.append(row.name)
            self.details = [*self.details, f"{row.name}: {row.reason}: {row.detail}"][:_NAMED]

    def lines(self) -> list[str]:
        """For the user: what was written, and each reason with its number and the first names."""
        index = self.index
        state = ", complete already" if self.complete_already else ""
        lines = [
            f"{index.samples} samples in {len(index.shards)} shards, {index.bytes} bytes, {index.manifest_hash}{state}"
        ]
        for reason, count in sorted(self.counts.items(), key=lambda item: (item[0] == RENAMED, item[0])):
            more = f" and {count - len(self.first[reason])} more" if count > len(self.first[reason]) else ""
            said = "another key" if reason == RENAMED else f"left out, {reason}"
            lines.append(f"{said}: {count}: {', '.join(self.first[reason])}{more}")
        if self.counts:
            lines.append(f"{LEFT_OUT} beside the shards names all of them")
        return lines

    def outcome(self) -> dict[str, Any]:
        """As plain JSON values, for the record."""
        return {"seen": self.seen, "counts": dict(sorted(self.counts.items())), "first": self.first}
