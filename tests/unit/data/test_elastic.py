"""The order is one, whatever processes and workers there are; a resume goes on exactly; weights hold in every block."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raexla.data import Loader, Refused, Sample, TooMuchBadData, merge_cursors
from raexla.data.cursor import Cursor
from raexla.data.mixture import Mixture, Share
from raexla.data.order import OrderRecipe, SourceOrder
from raexla.data.rows import RowMaker, Rows, Work, too_many
from raexla.data.workers import split
from tests.unit.data.elastic import ROWS, opened, recipe

Make = Callable[..., str]
STREAMS, BATCH, SEED = 24, 96, 3


class Named:
    """A source that has names only; every 50th is refused, every seventh belongs to another source."""

    def __init__(self, name: str, shard_samples: Sequence[int]) -> None:
        self.recipe, self.shard_samples = SimpleNamespace(name=name), list(shard_samples)

    def uid(self, shard: int, row: int) -> str:
        return f"{self.recipe.name}/{shard}/{row}"

    def load(self, shard: int, row: int, *, seed: int, epoch: int, at_least: int | None = None) -> Sample:
        if (shard * 31 + row) % 50 == 7:
            raise Refused("bad_caption")
        if (shard * 31 + row) % 7 == 0:
            raise Refused("other_kind")
        return Sample(self.uid(shard, row), self.recipe.name, "text", caption=f"{epoch}")


def names_only() -> tuple[Work, Cursor]:
    sources: list[Any] = [Named("web", [300, 7, 1200, 64, 0, 801]), Named("art", [500, 99])]
    order = OrderRecipe(streams=STREAMS, piece=16, window=40, block=32)
    orders = [SourceOrder(source.recipe.name, source.shard_samples, SEED, order) for source in sources]
    shares = [Share("web", "g", 3), Share("art", "g", 1)]
    mixture = Mixture(shares, batch_rows=BATCH, streams=STREAMS, block=32, seed=SEED)
    work = Work(sources, orders, mixture, lambda sample, rng: sample, lambda group, items: {}, SEED, 0.5)
    return work, Cursor.start({}, 0, STREAMS, ["g"], ["web", "art"])


def uids_of(processes: int, workers: int, batches: int) -> list[str]:
    """The uids of as many batches, by makers of the streams that so many processes and workers have."""
    work, start = names_only()
    ranges = [share for process in split(range(STREAMS), processes) for share in split(process, max(1, workers))]
    makers = [RowMaker(work, start.part(share.start, len(share)), share) for share in ranges]
    return [uid for _ in range(batches) for maker in makers for uid in maker.next().uids["g"]]


def test_first_ten_thousand_uids_for_any_number_of_processes_and_workers() -> None:
    batches = -(-10_000 // BATCH)
    whole = uids_of(1, 0, batches)
    assert len(whole) >= 10_000
    assert len(set(whole)) > 2000  # several epochs: all good samples
    for processes, workers in itertools.product((1, 2, 4, 8), (0, 1, 3)):
        assert uids_of(processes, workers, batches) == whole


def test_weights_hold_exactly_in_every_block_and_epochs_have_every_sample_once() -> None:
    work, start = names_only()
    maker = RowMaker(work, start, range(STREAMS))
    per_stream = BATCH // STREAMS
    made: list[Rows] = [maker.next() for _ in range(32 * 30 // per_stream)]
    for stream in range(STREAMS):
        uids = [uid for rows in made for uid in rows.uids["g"][stream * per_stream : (stream + 1) * per_stream]]
        for block in range(30):
            names = Counter(uid.split("/")[0] for uid in uids[block * 32 : block * 32 + 32])
            assert names == {"web": 24, "art": 8}
        low, high = work.orders[1].bounds(stream)
        first = [work.orders[1].locate(stream, position)[1:] for position in range(high - low)]
        bad = sum(
            row.source == "art" and row.stream == stream and row.epoch == 0 for rows in made for row in rows.refused
        )
        good = {f"art/{shard}/{row}" for shard, row in first if (shard * 31 + row) % 7 and (shard * 31 + row) % 50 != 7}
        art = [uid for uid in uids if uid.startswith("art/")]
        assert set(art[: len(good)]) == good
        assert bad == sum((shard * 31 + row) % 50 == 7 for shard, row in first)


def take(loaders: list[Loader], batches: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """(rows, cursors) of whole batches; the loaders are closed."""
    rows, cursors = [], []
    for _ in range(batches):
        parts = [next(loader) for loader in loaders]
        rows.append([(part.uids, part.arrays["generation/draw"].tolist()) for part in parts])
        cursors.append(json.loads(json.dumps(merge_cursors([part.cursor for part in parts]))))
    for loader in loaders:
        loader.close()
    return rows, cursors


def test_a_resume_at_twenty_random_batches_goes_on_exactly(make_shards: Make) -> None:
    data = recipe({"web": (make_shards("web", 90, bad={5, 50}), 3.0), "art": (make_shards("art", 40), 1.0)})
    whole, cursors = take([opened(data)], 40)
    for stop in np.random.default_rng(1).integers(1, 37, size=20).tolist():
        rest, ends = take([opened(data, cursor=cursors[stop - 1])], 3)
        assert rest == whole[stop : stop + 3]
        assert ends[-1] == cursors[stop + 2]
    assert len(json.dumps(cursors[-1])) < 1500


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_ten_thousand_decoded_rows(make_shards: Make, processes: int, workers: int) -> None:
    """Real files, real worker processes; the first case of each is what the others are held against."""
    folders = {
        "web": (make_shards("web", 2000, bad={5, 500}, per_shard=300), 3.0),
        "art": (make_shards("art", 900), 1.0),
    }
    batches = 10_000 // ROWS

    def uids(processes: int, workers: int) -> list[str]:
        data = recipe(folders, order={"streams": 8}, workers=workers)
        loaders = [opened(data, process_index=index, process_count=processes) for index in range(processes)]
        found = [uid for _ in range(batches) for loader in loaders for uid in next(loader).uids["generation"]]
        for loader in loaders:
            loader.close()
        return found

    assert uids(processes, workers) == uids(1, 0)


class Together:
    """Threads that stand for processes: `exchange` gives each one the values of all."""

    def __init__(self, count: int) -> None:
        self.values: list[Any] = [None] * count
        self.barrier = threading.Barrier(count, timeout=60)

    def exchange(self, index: int, value: Any) -> list[Any]:
        self.values[index] = value
        self.barrier.wait()
        found = list(self.values)
        self.barrier.wait()
        return found


def test_too_much_bad_data_stops_every_process_at_the_same_batch(make_shards: Make) -> None:
    data = recipe({"web": (make_shards("web", 400, bad=set(range(200, 400, 3))), 1.0)}, max_bad_fraction=0.14)

    def stops_at(processes: int) -> list[int]:
        together = Together(processes)

        def run(index: int) -> int:
            options = {"process_index": index, "process_count": processes}
            with opened(data, exchange=partial(together.exchange, index), **options) as loader:
                for batch in range(60):
                    try:
                        next(loader)
                    except TooMuchBadData:
                        return batch
            return -1

        with ThreadPoolExecutor(processes) as threads:
            return list(threads.map(run, range(processes)))

    (alone,) = stops_at(1)
    assert alone > 3
    assert stops_at(4) == [alone] * 4


def test_more_bad_samples_never_make_it_better() -> None:
    for good in (0, 50, 95, 1000):
        judged = [too_many(bad, good, 0.05) for bad in range(200)]
        assert judged == sorted(judged)
    assert not too_many(5, 0, 0.05)
    assert too_many(6, 0, 0.05)
    assert not too_many(50, 950, 0.05)
    assert too_many(51, 950, 0.05)
