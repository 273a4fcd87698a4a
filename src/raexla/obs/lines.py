"""Files of one JSON object a line, in the order of the steps, that are cut back when a run goes back to a step.

What is in such a file is what the surviving lineage of a run has done: a program that is killed may have written lines
of steps that will be taken again, and a last line that is not whole.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, oldest first; a last line that a kill has cut is left out. No file: none."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    return
                yield json.loads(line)


class Lines:
    """Writes such a file.

    Args:
        path: of the file.
        step: the step that the run goes on from; later records, and what a kill has cut, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    break  # a kill in the middle of a line: what follows a cut line belongs to nothing
                if record["step"] <= step:
                    kept.append(line)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One record; `step` is the number of optimiser steps done. It survives the end of this program."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def keep(self) -> None:
        """Make what was written survive the end of this machine too: before a checkpoint that relies on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
