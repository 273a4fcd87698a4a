"""Batches with cursors: order + mixture + sources, read ahead by a thread and, if asked for, by worker processes.

The work is in `BatchMaker`, which turns a cursor into the next batch; `Loader` runs it ahead of the consumer, in
another thread and a bounded number of batches. Because every batch carries the cursor that stood after *it*,
what has been read ahead and not been consumed is simply made again after a resume.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from pydantic import Field, model_validator

from raexla.data.batches import Batch, BatchMaker, TooMuchBadData
from raexla.data.cursor import Cursor
from raexla.data.mixture import Mixture, Share
from raexla.data.order import OrderRecipe, SourceOrder
from raexla.data.rows import Collate, Transform, Work, too_many
from raexla.data.sample import Refusal
from raexla.data.shards.index import Say
from raexla.data.shards.reader import BoundedCache
from raexla.data.shards.store import Retry
from raexla.data.source import Source, SourceRecipe
from raexla.recipe import Recipe, UserError

GROUPS: Mapping[str, str] = {
    "caption": "generation",
    "conversation": "understanding",
    "text": "understanding",
    "image": "",
}
"""Kind -> group. Arrays of group `generation` are called `generation/...`; those of group "" have no prefix."""

Exchange = Callable[[Any], list[Any]]
"""A JSON value of this process -> those of all processes, in their order."""


class LoaderRecipe(Recipe):
    """How batches are made; nothing here changes which samples they hold."""

    read_ahead: int = Field(default=4, ge=0)
    """Batches that are held ready; 0 makes each one when it is asked for."""
    workers: int = Field(default=0, ge=0)
    """Processes that read, decode and transform, each for its share of the streams (so at most one a stream) and at
    most two batches further ahead; 0: this process does it."""
    threads: int = Field(default=1, gt=0)
    """Threads that read, decode and transform, in each worker or, without any, in this process."""
    cache_mib: int = Field(default=1024, gt=0)
    """Bound of the bytes of remote shards that are held in memory, over all sources and workers."""
    max_bad_fraction: float = Field(default=0.05, ge=0, lt=1)
    """The run stops when more than this part of a source's samples (of at least 100) was refused, over all
    processes."""


class DataRecipe(Recipe):
    """All that decides what a run reads."""

    sources: tuple[SourceRecipe, ...] = Field(min_length=1)
    order: OrderRecipe = OrderRecipe()
    loader: LoaderRecipe = LoaderRecipe()

    @model_validator(mode="after")
    def _names_differ(self) -> "DataRecipe":
        names = Counter(source.name for source in self.sources)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"two sources are called {twice[0]}: a name stands for one source")
        return self


class Loader:
    """Endless batches, made ahead by a thread. Use as a context manager, or call `close`.

    `refusals` counts what the consumed batches brought, by (source, reason). An error is raised where the batch that it
    happened in would have come. `TooMuchBadData` is judged on each batch as it is consumed, on the counts of all
    processes, so that all of them raise it at the same one.
    """

    def __init__(self, maker: BatchMaker, read_ahead: int, max_bad_fraction: float, exchange: Exchange | None) -> None:
        self.maker = maker
        self.read_ahead, self.max_bad_fraction, self._exchange = read_ahead, max_bad_fraction, exchange
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.wait_seconds = 0.0
        self._coming: deque[Future[tuple[Batch, bool]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead") if read_ahead else None
        self._closed = False

    @property
    def mixture(self) -> Mixture:
        """The mixture, for its effective weights and rows."""
        return self.maker.work.mixture

    @property
    def samples(self) -> dict[str, int]:
        """Source -> samples of one epoch."""
        return {order.name: order.samples for order in self.maker.work.orders}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        began = time.monotonic()
        batch, hopeless = self._next()
        batch.wait_seconds = time.monotonic() - began
        self.wait_seconds += batch.wait_seconds
        self._judge(batch, hopeless)
        self.refusals.update((refusal.source, refusal.reason) for refusal in batch.refused)
        return batch

    def close(self) -> None:
        """Stop reading ahead: workers end at once, without them the batch that is being made is waited for."""
        self._closed = True
        self.maker.interrupt()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()
        self.maker.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> tuple[Batch, bool]:
        if self._thread is None:
            return self.maker.next()
        while len(self._coming) < self.read_ahead + 1:  # the one that is wanted now, and those behind it
            self._coming.append(self._thread.submit(self.maker.next))
        return self._coming.popleft().result()

    def _judge(self, batch: Batch, hopeless: bool) -> None:
        """Raise `TooMuchBadData` if the samples refused so far, over all processes, are too many."""
        names = list(self.samples)
        bad = [sum(batch.cursor["skips"].get(name, {}).values()) for name in names]
        if self._exchange is not None:
            bad = [sum(counts) for counts in zip(*self._exchange(bad), strict=True)]
        rows = self.mixture.rows_per_stream
        for number, name in enumerate(names):
            group = self.mixture.shares[number].group
            slots = batch.cursor["slots"][group][0] + (rows[group] if hopeless else 0)
            good = self.mixture.good(number, slots)
            if too_many(bad[number], good, self.max_bad_fraction):
                raise TooMuchBadData(self._complaint(name, bad[number], good, batch.refused), batch.refused)

    def _complaint(self, name: str, bad: int, good: int, refused: list[Refusal]) -> str:
        here = [row for row in refused if row.source == name]
        last = f"; last: {here[-1].reason} {here[-1].uid} {here[-1].detail}" if here else "; none by this process"
        reasons = dict(Counter(row.reason for row in here))
        return (
            f"source {name}: {bad} of the {good + bad} samples read were refused, more than the "
            f"{self.max_bad_fraction:.1%} of data.loader.max_bad_fraction (of at least 100){last}; in this batch: "
            f"{reasons}"
        )


def open_loader(
    recipe: DataRecipe,
    *,
    transform: Transform,
    collate: Collate,
    global_batch_images: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    cursor: Mapping[str, Any] | None = None,
    groups: Mapping[str, str] | None = None,
    exchange: Exchange | None = None,
    retry: Retry | None = None,
    say: Say | None = None,
) -> Loader:
    """Open a run's data for one process.

    `global_batch_images` rows per batch over all groups and processes; `cursor` is a batch's, merged over the
    processes; `groups` replaces entries of `GROUPS`; `exchange` gives every process's counts of refused samples, once a
    batch and on the thread that consumes it (without it a process judges by its own); `say` gets the lines that the
    user should see (missing index, odd shards). With `data.loader.workers`, `transform` and `collate` must be such that
    they can be pickled: functions of a module, or objects.

    Raises `UserError`: a source without samples or with fewer than streams, a batch that doesn't divide, group rows
    that aren't whole, a number of processes that doesn't divide the streams, a cursor of another order.
    """
    streams = recipe.order.streams
    if streams % process_count:
        raise UserError(
            f"data.order.streams is {streams}, processes are {process_count}: streams must be a multiple of the "
            f"processes"
        )
    share = streams // process_count
    mine = range(process_index * share, (process_index + 1) * share)
    names = {**GROUPS, **(groups or {})}
    shares = [
        Share(source.name, names[source.kind] if source.group is None else source.group, source.weight)
        for source in recipe.sources
    ]
    mixture = Mixture(shares, batch_rows=global_batch_images, streams=streams, block=recipe.order.block, seed=seed)
    workers = min(recipe.loader.workers, share)
    cache: BoundedCache[bytes] = BoundedCache((recipe.loader.cache_mib << 20) // max(1, workers))
    sources = [Source(row, piece=recipe.order.piece, cache=cache, retry=retry, say=say) for row in recipe.sources]
    orders = [SourceOrder(source.recipe.name, source.shard_samples, seed, recipe.order) for source in sources]
    _check_cache(recipe, sources, share, say)
    described = {
        "seed": seed,
        **recipe.order.model_dump(),
        "sources": {
            share.name: {"order_hash": source.order_hash, "group": share.group, "weight": share.weight}
            for share, source in zip(shares, sources, strict=True)
        },
    }
    if cursor is None:
        start = Cursor.start(described, mine.start, share, mixture.groups, [row.name for row in recipe.sources])
    else:
        start = Cursor.of(cursor, described, mine.start, share)
    work = Work(
        sources,
        orders,
        mixture,
        transform,
        collate,
        seed,
        max_bad_fraction=recipe.loader.max_bad_fraction,
        threads=recipe.loader.threads,
        at_least=getattr(transform, "at_least", None),
    )
    maker = BatchMaker(work, start, mine, workers)
    return Loader(
        maker, recipe.loader.read_ahead, recipe.loader.max_bad_fraction, exchange if process_count > 1 else None
    )


def _check_cache(recipe: DataRecipe, sources: list[Source], streams: int, say: Say | None) -> None:
    """Every stream of every remote source works on one window; without room for all, pieces are fetched again and
    again."""
    need = sum(source.cached_sample_bytes * recipe.order.window * streams for source in sources)
    if say is not None and need > recipe.loader.cache_mib << 20:
        say(
            f"data.loader.cache_mib is {recipe.loader.cache_mib}, the shuffle windows of {streams} streams hold about "
            f"{need / (1 << 20):.0f} MiB: pieces will be fetched more than once; raise it or lower data.order.window"
        )
