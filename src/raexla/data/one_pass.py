"""Every sample of a source once, in the order of the shards: for statistics, evaluation and export."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from raexla.data.batches import Batch
from raexla.data.draws import generator
from raexla.data.rows import Collate, Transform
from raexla.data.sample import Refusal, Refused
from raexla.data.shards.index import Say
from raexla.data.source import Source, SourceRecipe
from raexla.recipe import BadDataError


def open_pass(
    recipe: SourceRecipe,
    *,
    transform: Transform,
    collate: Collate,
    global_batch_images: int,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    limit: int | None = None,
    say: Say | None = None,
) -> Iterator[Batch]:
    """Batches of this process, the same number and shapes on each; the caller counts `batch.refused` and decides.

    Sample i of the first `limit` is row i % B of batch i // B; rows are dealt to processes in order. A row whose sample
    was refused, or that lies behind the end, holds some good sample and has `mask` 0. `arrays` have `rows` int32 `[n]`
    (row in the global batch) and `mask` float32 `[n]`.

    Raises `ValueError` if the processes don't divide the batch, `BadDataError` if no sample is good, `UserError` for
    the storage.
    """
    if global_batch_images % process_count:
        raise ValueError(f"{process_count} processes don't divide a batch of {global_batch_images}")
    source = Source(recipe, say=say)
    places = [(shard, row) for shard, count in enumerate(source.shard_samples) for row in range(count)][:limit]
    share = global_batch_images // process_count

    def load(place: tuple[int, int]) -> tuple[Any, Refusal | None]:
        uid = source.uid(*place)
        try:
            sample = source.load(*place, seed=seed, epoch=0, at_least=getattr(transform, "at_least", None))
            return transform(sample, generator(seed, "transform", uid, 0)), None
        except Refused as refusal:
            return None, Refusal(uid, recipe.name, refusal.reason, refusal.detail, stream=0, epoch=0)

    spare = next((item for item, refusal in map(load, places) if refusal is None), None)
    if spare is None:
        raise BadDataError(f"{recipe.path}: none of the {len(places)} samples can be used")
    for first in range(process_index * share, len(places) + process_index * share, global_batch_images):
        mine = places[first : first + share]
        results = [load(place) for place in mine]
        good = [refusal is None for _, refusal in results] + [False] * (share - len(mine))
        items = [item if refusal is None else spare for item, refusal in results] + [spare] * (share - len(mine))
        arrays = collate("", items)
        arrays["mask"] = np.asarray(good, dtype=np.float32)
        arrays["rows"] = np.arange(process_index * share, (process_index + 1) * share, dtype=np.int32)
        refused = [refusal for _, refusal in results if refusal is not None]
        yield Batch(arrays, {}, refused, {"": [source.uid(*place) for place in mine]})
