"""Work shared among processes, its results in order and never many of them waiting."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from raexla.recipe import UserError

R = TypeVar("R")
Job = Callable[[], R]
"""Goes to another process: a `partial` of a function of a module."""


class Workers:
    """Processes that run jobs; made by `workers`."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        # a worker that the system kills breaks this pool with an error; multiprocessing.Pool would wait for ever
        self.pool = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=_live_with_parent
        )

    def ordered(self, jobs: Iterable[Job[R]]) -> Iterator[R]:
        """The results of `jobs` in their order; at most a few more are begun than have been taken."""
        coming: deque[Future[R]] = deque()
        try:
            for job in jobs:
                coming.append(self.pool.submit(job))
                if len(coming) > 2 * self.processes:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                f"one of {self.processes} processes was killed, most likely for want of memory; the same command with "
                f"a smaller --processes goes on"
            ) from None
        finally:
            for future in coming:
                future.cancel()


def ordered(pool: Workers | None, jobs: Iterable[Job[R]]) -> Iterator[R]:
    """`Workers.ordered`, or, without a pool, one after another in this process."""
    if pool is None:
        return (job() for job in jobs)
    return pool.ordered(jobs)


@contextmanager
def workers(processes: int, count: int, few: int) -> Iterator[Workers | None]:
    """Processes for `ordered`; None where this one will do: only one asked for, or no more than `few` of `count`."""
    if processes == 1 or count <= few:
        yield None
        return
    made = Workers(min(processes, count))
    try:
        yield made
    finally:
        made.pool.shutdown(wait=True, cancel_futures=True)


def usual_processes() -> int:
    """The cores that this process may use, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _live_with_parent() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when that is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()
