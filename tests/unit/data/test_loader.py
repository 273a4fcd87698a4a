"""The order is one for any number of processes, a cursor resumes exactly, refused samples are replaced and counted."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raexla.data import DataRecipe, Loader, Refused, Sample, TooMuchBadData, merge_cursors, open_loader, open_pass
from raexla.data.mixture import Mixture, Share
from raexla.data.order import OrderRecipe, SourceOrder
from raexla.recipe import BadDataError, UserError

ROWS = 16
Make = Callable[..., str]


def keep(sample: Sample, rng: np.random.Generator) -> tuple[Sample, float]:
    return sample, float(rng.random())


def stack(group: str, items: list[Any]) -> dict[str, np.ndarray]:
    return {"pixels": np.stack([sample.image for sample, _ in items]), "draw": np.asarray([draw for _, draw in items])}


def recipe(folders: dict[str, tuple[str, float]], **loader: Any) -> DataRecipe:
    sources = tuple({"name": name, "path": path, "weight": weight} for name, (path, weight) in folders.items())
    order = {"streams": 8, "piece": 4, "window": 20, "block": 16}
    return DataRecipe.model_validate({"sources": sources, "order": order, "loader": loader})


def open_all(data: DataRecipe, processes: int, cursor: dict[str, Any] | None = None, seed: int = 7) -> list[Loader]:
    return [
        open_loader(
            data,
            transform=keep,
            collate=stack,
            global_batch_images=ROWS,
            seed=seed,
            process_index=index,
            process_count=processes,
            cursor=cursor,
        )
        for index in range(processes)
    ]


def consume(loaders: list[Loader], batches: int) -> Iterator[tuple[list[str], np.ndarray, dict[str, Any]]]:
    """(uids, draws, cursor) of whole batches."""
    try:
        for _ in range(batches):
            parts = [next(loader) for loader in loaders]
            rows = np.concatenate([part.arrays["generation/rows"] for part in parts])
            assert rows.tolist() == list(range(ROWS))
            uids = [uid for part in parts for uid in part.uids["generation"]]
            draws = np.concatenate([part.arrays["generation/draw"] for part in parts])
            yield uids, draws, json.loads(json.dumps(merge_cursors([part.cursor for part in parts])))
    finally:
        for loader in loaders:
            loader.close()


@pytest.fixture
def folders(make_shards: Make) -> dict[str, tuple[str, float]]:
    return {"web": (make_shards("web", 100, bad={5, 50}), 3.0), "art": (make_shards("art", 60, bad={3}), 1.0)}


def test_order_is_one_for_any_number_of_processes(folders: dict[str, tuple[str, float]]) -> None:
    whole = list(consume(open_all(recipe(folders), 1), 40))
    for processes, options in [(2, {"read_ahead": 0}), (4, {"threads": 3}), (8, {})]:
        parts = list(consume(open_all(recipe(folders, **options), processes), 40))
        assert [batch[0] for batch in parts] == [batch[0] for batch in whole]
        assert [batch[2] for batch in parts] == [batch[2] for batch in whole]
        assert all((one[1] == other[1]).all() for one, other in zip(parts, whole, strict=True))


def test_another_seed_is_another_order(folders: dict[str, tuple[str, float]]) -> None:
    (one,) = consume(open_all(recipe(folders), 1), 1)
    (other,) = consume(open_all(recipe(folders), 1, seed=8), 1)
    assert one[0] != other[0]


def test_resume_is_exact_with_read_ahead_and_other_process_counts(folders: dict[str, tuple[str, float]]) -> None:
    whole = list(consume(open_all(recipe(folders), 1), 30))
    rng = np.random.default_rng(0)
    for stop in rng.integers(1, 29, size=5).tolist():
        before, after = rng.choice([1, 2, 4], size=2).tolist()
        first = list(consume(open_all(recipe(folders, read_ahead=3, threads=2), before), stop))
        rest = list(consume(open_all(recipe(folders, read_ahead=2), after, cursor=first[-1][2]), 30 - stop))
        assert [batch[0] for batch in first + rest] == [batch[0] for batch in whole]
        assert rest[-1][2] == whole[-1][2]


def test_an_epoch_has_every_good_sample_once(make_shards: Make) -> None:
    bad = {0, 33, 63}
    data = recipe({"web": (make_shards("web", 64, bad=bad), 1.0)}, max_bad_fraction=0.2)
    (loader,) = open_all(data, 1)
    refused = [row for _ in range(8) for row in next(loader).refused]
    loader.close()
    seen = Counter(uid for uids, _, _ in consume(open_all(data, 1), 4) for uid in uids)
    assert {row.uid[-6:] for row in refused} == {f"{number:06d}" for number in bad}
    assert all(row.reason == "truncated_image" and row.source == "web" for row in refused)
    assert loader.refusals[("web", "truncated_image")] == len(refused)
    # 8 streams of 8 samples: a stream that lost one has begun its next epoch by then
    assert len(seen) + len(bad) >= 64 - len(bad)
    assert not {f"{number:06d}" for number in bad} & {uid[-6:] for uid in seen}
    whole = recipe({"web": (make_shards("good", 64), 1.0)})
    once = Counter(uid for uids, _, _ in consume(open_all(whole, 1), 4) for uid in uids)
    assert len(once) == 64
    assert set(once.values()) == {1}


def test_weights_hold_exactly_over_blocks(folders: dict[str, tuple[str, float]]) -> None:
    uids = [uid for batch in consume(open_all(recipe(folders), 1), 8) for uid in batch[0]]  # 8 x 2 slots = one block
    assert Counter(uid.split("/")[0] for uid in uids) == {"web": 96, "art": 32}


def test_bad_data_stops_the_run_with_both_numbers(make_shards: Make) -> None:
    data = recipe({"web": (make_shards("web", 60, bad=set(range(0, 60, 4))), 1.0)})
    with pytest.raises(TooMuchBadData, match=r"source web: 6 of the .* more than the 5.0%") as caught:
        list(consume(open_all(data, 1), 40))
    assert isinstance(caught.value, BadDataError)
    assert caught.value.refused[-1].reason == "truncated_image"


def test_transform_may_refuse(make_shards: Make) -> None:
    data = recipe({"web": (make_shards("web", 60), 1.0)}, max_bad_fraction=0.5)

    def odd_only(sample: Sample, rng: np.random.Generator) -> tuple[Sample, float]:
        if int(sample.uid[-1]) % 5 == 0:
            raise Refused("text_too_long", "9 tokens")
        return sample, 0.0

    with open_loader(data, transform=odd_only, collate=stack, global_batch_images=ROWS, seed=0) as loader:
        uids = [uid for _ in range(10) for uid in next(loader).uids["generation"]]
    assert {int(uid[-1]) % 5 for uid in uids} == {1, 2, 3, 4}
    assert set(loader.refusals) == {("web", "text_too_long")}


def test_a_cursor_of_another_order_is_refused_with_what_differs(folders: dict[str, tuple[str, float]]) -> None:
    ((_, _, cursor),) = consume(open_all(recipe(folders), 1), 1)
    with pytest.raises(UserError, match=r"data.seed: was 7, is 8"):
        open_all(recipe(folders), 1, cursor=cursor, seed=8)
    heavier = folders | {"art": (folders["art"][0], 2.0)}
    with pytest.raises(UserError, match=r"data.sources.art.weight: was 1.0, is 2.0"):
        open_all(recipe(heavier), 1, cursor=cursor)


def test_a_part_of_a_cursor_is_not_a_cursor(folders: dict[str, tuple[str, float]]) -> None:
    loaders = open_all(recipe(folders), 2)
    parts = [next(loader).cursor for loader in loaders]
    for loader in loaders:
        loader.close()
    with pytest.raises(UserError, match="parts of the other processes are missing"):
        open_all(recipe(folders), 1, cursor=parts[1])
    with pytest.raises(UserError, match="parts of 4 of 8 streams"):
        merge_cursors(parts[:1])


@pytest.mark.parametrize(
    ("rows", "processes", "samples", "message"),
    [
        (12, 1, 20, "global_batch_images is 12, data.order.streams is 8"),
        (16, 3, 20, "streams is 8, processes are 3"),
        (16, 1, 5, "web has 5 samples for 8 streams"),
    ],
)
def test_numbers_that_do_not_divide(make_shards: Make, rows: int, processes: int, samples: int, message: str) -> None:
    data = recipe({"web": (make_shards("web", samples), 1.0)})
    with pytest.raises(UserError, match=message):
        open_loader(data, transform=keep, collate=stack, global_batch_images=rows, seed=0, process_count=processes)


def test_groups_have_whole_constant_rows() -> None:
    shares = [Share("a", "generation", 2), Share("b", "generation", 1), Share("c", "understanding", 1)]
    mixture = Mixture(shares, batch_rows=32, streams=4, block=12, seed=0)
    assert mixture.rows_per_stream == {"generation": 6, "understanding": 2}
    assert mixture.first_row("understanding") == 24
    assert mixture.effective_weights() == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25})
    with pytest.raises(
        UserError, match=r"generation has 3 of 4 of the weights, which is 4\.5 of the 6 rows of a stream"
    ):
        Mixture(shares, batch_rows=24, streams=4, block=12, seed=0)
    with pytest.raises(UserError, match=r"b gets 0.3\d+ samples in a block of 1"):
        Mixture(shares, batch_rows=32, streams=4, block=1, seed=0)


@given(
    weights=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    slots=st.integers(0, 300),
    step=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_consumed_agrees_with_slots(weights: list[int], slots: int, step: int) -> None:
    shares = [Share(str(number), "g", weight) for number, weight in enumerate(weights)]
    mixture = Mixture(shares, batch_rows=2, streams=2, block=96, seed=3)
    found: list[int] = []
    while len(found) < slots:
        found += mixture.slots("g", 1, len(found), min(step, slots - len(found)))
    assert {number: found.count(number) for number in range(len(weights))} == mixture.consumed("g", 1, slots)


@given(
    shards=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    streams=st.integers(1, 6),
    piece=st.integers(1, 9),
    window=st.integers(1, 30),
    shuffle=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_streams_cover_each_epoch_exactly(
    shards: list[int], streams: int, piece: int, window: int, shuffle: bool
) -> None:
    order = OrderRecipe(streams=streams, piece=piece, window=window, shuffle=shuffle)
    if sum(shards) < streams:
        with pytest.raises(UserError, match="every stream needs at least one"):
            SourceOrder("s", shards, 0, order)
        return
    source = SourceOrder("s", shards, 0, order)
    everything = sorted((shard, row) for shard, count in enumerate(shards) for row in range(count))
    for epoch in range(2):
        places = []
        for stream in range(streams):
            low, high = source.bounds(stream)
            for position in range(epoch * (high - low), (epoch + 1) * (high - low)):
                place = source.locate(stream, position)
                assert place.epoch == epoch
                places.append((place.shard, place.row))
        assert sorted(places) == everything
        if not shuffle:
            assert places == everything


def test_epochs_differ_and_mix_shards() -> None:
    source = SourceOrder("s", [100] * 10, 0, OrderRecipe(streams=2, piece=10, window=100))
    first = [source.locate(0, position)[1:] for position in range(500)]
    second = [source.locate(0, position)[1:] for position in range(500, 1000)]
    assert first != second
    assert len({shard for shard, _ in first[:50]}) >= 4


def test_read_ahead_is_bounded_and_an_error_arrives_in_its_place(make_shards: Make) -> None:
    data = recipe({"web": (make_shards("web", 64), 1.0)}, read_ahead=2)
    made: list[int] = []
    reached = threading.Event()

    def collate(group: str, items: list[Any]) -> dict[str, np.ndarray]:
        made.append(len(items))
        if len(made) == 3:
            reached.set()
        if len(made) == 5:
            raise UserError("the fifth batch")
        return stack(group, items)

    with open_loader(data, transform=keep, collate=collate, global_batch_images=ROWS, seed=0) as loader:
        next(loader)
        assert reached.wait(10)
        assert len(made) <= 4
        for _ in range(3):
            assert next(loader).wait_seconds >= 0
        with pytest.raises(UserError, match="the fifth batch"):
            next(loader)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_one_pass_gives_every_sample_once_in_order(make_shards: Make, processes: int) -> None:
    source = recipe({"web": (make_shards("web", 21, bad={4}), 1.0)}).sources[0]
    seen: dict[int, dict[int, str]] = {}
    for index in range(processes):
        batches = open_pass(
            source,
            transform=keep,
            collate=stack,
            global_batch_images=8,
            process_index=index,
            process_count=processes,
        )
        for number, batch in enumerate(batches):
            assert batch.arrays["pixels"].shape == (8 // processes, 6, 8, 3)
            for row, mask, uid in zip(batch.arrays["rows"], batch.arrays["mask"], batch.uids[""], strict=False):
                if mask:
                    seen.setdefault(number, {})[int(row)] = uid
        assert number == 2
    found = [uid for number in sorted(seen) for _, uid in sorted(seen[number].items())]
    assert [int(uid[-6:]) for uid in found] == [number for number in range(21) if number != 4]
