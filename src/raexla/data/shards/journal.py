"""How far a long piece of work has come, kept beside its shards: what is noted is not done again after a stop.

Object stores can't append, so notes are gathered and written as numbered files `NAME-00000.progress`, each whole or
absent. They are removed when the work is complete.
"""

import json
import time
from typing import Any

from raexla.data.shards.store import Store
from raexla.recipe import UserError

SUFFIX = ".progress"
Note = dict[str, Any]


class Journal:
    """Notes of one piece of work. `seconds`: how long notes may wait in memory; a stop loses no more than these."""

    def __init__(self, store: Store, name: str, seconds: float = 0.0) -> None:
        self._store = store
        self._name = name
        self._seconds = seconds
        self._waiting: list[Note] = []
        self._written = time.monotonic()
        self._next = 0

    def read(self) -> list[Note]:
        """All notes of earlier runs, in their order; files that can't be read end them."""
        notes: list[Note] = []
        for name in self._files():
            try:
                rows = [json.loads(line) for line in self._store.read(name).splitlines()]
            except ValueError:
                break
            notes += [row for row in rows if isinstance(row, dict)]
            self._next = int(name[len(self._name) + 1 : -len(SUFFIX)]) + 1
        return notes

    def add(self, note: Note) -> None:
        """Note something that is done."""
        self._waiting.append(note)
        if time.monotonic() - self._written >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises `UserError` where nothing can be written."""
        if self._waiting:
            plain = "".join(json.dumps(note, ensure_ascii=True) + "\n" for note in self._waiting)
            try:
                self._store.write_bytes(f"{self._name}-{self._next:05d}{SUFFIX}", plain.encode())
            except OSError as error:
                raise UserError(f"{self._store.url}: can't be written to: {error.strerror or error}") from None
            self._next += 1
            self._waiting = []
        self._written = time.monotonic()

    def clear(self) -> None:
        """Forget all: the work is complete, or begins anew. The last note goes first, so that a stop leaves a start."""
        for name in reversed(self._files()):
            self._store.remove(name)
        self._waiting, self._next = [], 0

    def _files(self) -> list[str]:
        if not self._store.exists():
            return []
        start = f"{self._name}-"
        names = (name for name in self._store.names() if name.startswith(start) and name.endswith(SUFFIX))
        found = [name for name in names if name[len(start) : -len(SUFFIX)].isdigit()]
        return sorted(found, key=lambda name: int(name[len(start) : -len(SUFFIX)]))
