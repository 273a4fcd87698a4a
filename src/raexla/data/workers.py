"""Processes that make rows: each one those of its share of a process's streams.

A worker runs a `RowMaker` and nothing else. It is forked from a server process that is started afresh and has imported
this module only, never from the trainer (an accelerator's client doesn't survive a fork). Arrays come back in memory
that both processes map; the rest (uids, refusals) is small and goes through a pipe. A worker has `AHEAD` such pieces of
memory: when all of them wait to be fetched it stops until one has been. It ignores the signals that ask the trainer to
stop, holds nothing that needs to be put away, and so is ended by killing it; and it ends itself when the trainer is
gone, however that went.
"""

import mmap
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from multiprocessing.util import Finalize

import numpy as np

from raexla.data.cursor import Cursor
from raexla.data.rows import RowMaker, Rows, Work
from raexla.recipe import RaexlaError, UserError

AHEAD = 2
"""Batches of which a worker may have made its rows before they are fetched."""

_ALIGNED = 64  # bytes; where an array begins


class WorkerDied(UserError):
    """A worker process ended by itself or was killed."""


@dataclass(frozen=True)
class _Layout:
    """Where the arrays of a `Rows` stand in a piece of memory: (group, name, dtype, shape, offset) each."""

    slot: int
    arrays: list[tuple[str, str, str, tuple[int, ...], int]]
    grown: int | None
    """The size of the memory if it is a new one, whose descriptor follows."""


class Worker:
    """One worker process, as the trainer sees it."""

    def __init__(self, number: int, work: Work, cursor: Cursor, streams: range) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self.streams, self._number = streams, number
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, work, cursor, streams), name=f"data-{number}", daemon=True
        )
        self._process.start()
        theirs.close()
        self._memory: dict[int, mmap.mmap] = {}
        # at the interpreter's end, too, and before it waits for its children
        self._end = Finalize(self, _kill, args=(self._process,), exitpriority=10)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid or 0

    def next(self) -> tuple[Rows, Callable[[], None]]:
        """The rows of the next batch, whose arrays are views that stand until the function is called.

        Raises what the worker met: `UserError` as itself, a bug as `RuntimeError` with the worker's traceback;
        `WorkerDied` if it is no more.
        """
        wait([self._connection, self._process.sentinel])
        if not self._connection.poll():
            raise self._death()
        try:
            layout, rows, error = self._connection.recv()
            if layout is not None and layout.grown is not None:
                descriptor = recv_handle(self._connection)
                self._memory[layout.slot] = mmap.mmap(descriptor, layout.grown)
                os.close(descriptor)
        except (EOFError, OSError, RuntimeError):
            raise self._death() from None
        if isinstance(error, str):
            raise RuntimeError(f"data worker {self._number} (pid {self.pid}):\n{error}")
        if error is not None:
            raise error
        for group, name, dtype, shape, offset in layout.arrays:
            view: np.ndarray = np.ndarray(shape, dtype, buffer=self._memory[layout.slot], offset=offset)
            rows.arrays.setdefault(group, {})[name] = view
        return rows, lambda: self._free(layout.slot)

    def close(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self._end()

    def _free(self, slot: int) -> None:
        try:
            self._connection.send(slot)
        except OSError:  # it is dead: the next batch that is asked for says so
            return

    def _death(self) -> WorkerDied:
        self._process.join(5)
        _kill(self._process)  # if it has closed its end and lives on
        code = self._process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        advice = ": the machine may be out of memory (fewer data.loader.workers or a smaller cache_mib take less)"
        return WorkerDied(
            f"data worker {self._number} (pid {self.pid}, streams {self.streams.start}..{self.streams.stop - 1}) {how}"
            f"{advice if code == -signal.SIGKILL else ''}; the same command goes on from the last checkpoint"
        )


def split(streams: range, count: int) -> list[range]:
    """Neighbouring shares of `streams`, as even as it goes."""
    bounds = [streams.start + len(streams) * number // count for number in range(count + 1)]
    return [range(low, high) for low, high in pairwise(bounds)]


def start_workers(count: int, work: Work, cursor: Cursor, streams: range) -> list[Worker]:
    """`count` workers that share `streams` in their order."""
    shares = split(streams, count)
    return [Worker(number, work, cursor.part(share.start, len(share)), share) for number, share in enumerate(shares)]


def _serve(connection: Connection, work: Work, cursor: Cursor, streams: range) -> None:
    """A worker's life."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    threading.Thread(target=_end_with, args=(trainer.sentinel,), daemon=True).start()
    with ThreadPoolExecutor(1) as thread:  # its future takes whatever is raised
        error = thread.submit(_make_rows, connection, work, cursor, streams).exception()
    if isinstance(error, _Unasked):
        return
    told = error if isinstance(error, RaexlaError) else "".join(traceback.format_exception(error))
    connection.send((None, None, told))


class _Unasked(Exception):
    """The trainer's end of the pipe is closed."""


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _make_rows(connection: Connection, work: Work, cursor: Cursor, streams: range) -> None:
    """Rows into free memory, until nobody asks any more (`_Unasked`)."""
    maker = RowMaker(work, cursor, streams)
    memory: list[mmap.mmap | None] = [None] * AHEAD
    free = deque(range(AHEAD))
    while True:
        rows = maker.next()
        if not free:
            try:
                free.append(connection.recv())
            except (EOFError, OSError):
                raise _Unasked from None
        slot = free.popleft()
        flat = [
            (group, name, np.asarray(array)) for group, named in rows.arrays.items() for name, array in named.items()
        ]
        rows.arrays = {}
        starts, size = _places([array for _, _, array in flat])
        held, descriptor, grown = memory[slot], None, None
        if held is None or len(held) < size:
            descriptor, grown = _anonymous(size), size
            held = memory[slot] = mmap.mmap(descriptor, size)
        arrays = []
        for (group, name, array), start in zip(flat, starts, strict=True):
            np.ndarray(array.shape, array.dtype, buffer=held, offset=start)[...] = array
            arrays.append((group, name, array.dtype.str, array.shape, start))
        try:
            connection.send((_Layout(slot, arrays, grown), rows, None))
            if descriptor is not None:
                send_handle(connection, descriptor, None)
                os.close(descriptor)
        except OSError:
            raise _Unasked from None


def _places(arrays: Sequence[np.ndarray]) -> tuple[list[int], int]:
    """Where each array begins, and how much memory they take together (at least a byte)."""
    starts, end = [], 0
    for array in arrays:
        if array.dtype.hasobject:
            raise ValueError(
                f"collate gave an array of {array.dtype}: only plain numbers and fixed strings can be sent"
            )
        starts.append(end)
        end += -(-array.nbytes // _ALIGNED) * _ALIGNED
    return starts, max(end, 1)


def _anonymous(size: int) -> int:
    """A descriptor of memory without a name, which is gone with the last process that maps it. Not in /dev/shm, which
    is 64 MB in many containers."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("raexla-batch")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
