"""The progress bar: on a terminal a live line, elsewhere a plain line now and then."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Counts steps towards `total` for a person.

    Args:
        quiet: print nothing (processes other than the first).
        every_seconds: interval of plain lines where the output is no terminal.
    """

    def __init__(self, what: str, total: int, done: int = 0, quiet: bool = False, every_seconds: float = 15.0) -> None:
        self._what, self._total, self._done = what, total, done
        self._every, self._last = every_seconds, time.monotonic()
        self._quiet, self._note = quiet, ""
        console = Console(file=sys.stderr)
        self._bar: Bar | None = None
        if console.is_terminal and not quiet:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Bar(*columns, console=console)
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def advance(self, values: Mapping[str, float] | None = None) -> None:
        """One more step is done; `values` are shown beside the bar until the next ones come."""
        self._done += 1
        self.show(values, redraw=False)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, note=self._note)
        elif not self._quiet and (time.monotonic() - self._last > self._every or self._done == self._total):
            self._last = time.monotonic()
            print(f"{self._what} {self._done}/{self._total}  {self._note}", file=sys.stderr, flush=True)

    def stand_at(self, done: int) -> None:
        """So many steps are done: a resume, or a run that went back."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def show(self, values: Mapping[str, float] | None, redraw: bool = True) -> None:
        """Change what is shown beside the bar."""
        if values:
            self._note = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None and redraw:
            self._bar.update(self._task, note=self._note)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
