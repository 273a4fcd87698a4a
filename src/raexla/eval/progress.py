"""Bars for work that is counted in other steps than one by one, and that has several parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raexla.obs import Progress

Tick = Callable[[int], None]
"""Told how many more are done."""


def ticks_of(progress: Progress) -> Tick:
    """Advances a bar by any number."""

    done = 0

    def tick(count: int) -> None:
        nonlocal done
        if count > 0:
            done += count
            progress.stand_at(done - 1)  # a resume may find millions done
            progress.advance()

    return tick


@contextmanager
def bars() -> Iterator[Callable[[str, int], Tick]]:
    """Gives a function that opens the next bar: (what, how many) -> its tick. The last one is closed at the end."""
    opened: list[Progress] = []

    def open_next(what: str, count: int) -> Tick:
        close()
        opened.append(Progress(what, count))
        return ticks_of(opened[-1])

    def close() -> None:
        if opened:
            opened.pop().close()

    try:
        yield open_next
    finally:
        close()
