"""`raexla latents`: the pictures of a recipe's sources through its codec's encoder, once.

Rows of one shard at a time, in batches of one shape: the last of a shard is filled up. So a latent depends on its
shard and the batch's size alone, not on stops, processes or what else is made. B: rows of this process, S: side of the
pictures, N: tokens, C: channels.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raexla.data import SourceRecipe
from raexla.data.latents import FORMAT, LATENT, RECORD, VERSION, LatentType, pack_latent, unpack_latent
from raexla.data.rows import too_many
from raexla.data.shards import LeftOut, MadeReport
from raexla.data.shards.parallel import Workers, ordered, workers
from raexla.data.shards.writer import ShardFile
from raexla.data.transforms import AnyTransformRecipe
from raexla.recipe import BadDataError, UserError
from raexla.runtime import Runtime
from raexla.sampling.codec import OpenCodec
from raexla.sampling.draw import versions
from raexla.train.latents.folder import LatentFolder, ShardNote
from raexla.train.latents.identity import made_by, refuse_draws
from raexla.train.latents.reading import Chunk, open_tars, read_rows
from raexla.train.pretrain import image_of

_FEW = 256  # pictures that are decoded sooner than a second process starts

Ticks = Callable[[str, int], Callable[[int], Any]]


@dataclass(frozen=True)
class Storing:
    """How latents are made and kept."""

    dtype: LatentType = "float16"
    keep_pixels: bool = False
    """The pictures stay in the shards, beside their latents."""
    batch_images: int = 64
    """Pictures at a time on each device."""
    processes: int = 1
    """On each host, that read and decode."""
    overwrite: bool = False


@dataclass(frozen=True)
class Stored:
    """What became of a source."""

    source: SourceRecipe
    folder: LatentFolder
    report: MadeReport
    grid: tuple[int, int]
    channels: int
    dtype: LatentType

    def lines(self) -> list[str]:
        """For the user: totals, what can't be used, and the source as a recipe names it."""
        told, report = self.folder.outcome(), self.report
        tokens, bytes_each = self.grid[0] * self.grid[1], 4 if self.dtype == "float32" else 2
        lines = [f"{self.folder.folder}:", *report.lines()]
        lines = [line.replace("left out, ", "kept without a latent, ") for line in lines]
        lines.append(
            f"{told.get('latents', 0)} latents of {tokens} tokens x {self.channels} channels, {self.dtype}: "
            f"{tokens * self.channels * bytes_each:,} bytes each; rounding adds an error of "
            f"{told.get('rounding_error', 0.0):.1e} of their size (root mean square)"
        )
        named = f"name: {self.source.name}, path: {self.folder.folder}, kind: {self.source.kind}"
        return [*lines, f"in a recipe: {{{named}, weight: {self.source.weight:g}, latents: {self.dtype}}}"]


class LatentsRun:
    """Encodes sources on the devices of a runtime, on which the codec has been placed.

    Args:
        max_bad_fraction: of a source's pictures; where more can't be used, it stops.
    """

    def __init__(
        self,
        opened: OpenCodec,
        transform: AnyTransformRecipe,
        runtime: Runtime,
        storing: Storing,
        max_bad_fraction: float = 0.05,
    ) -> None:
        refuse_draws(transform)
        self._opened, self._transform, self._runtime, self._storing = opened, transform, runtime, storing
        self._max_bad_fraction = max_bad_fraction
        size = opened.codec.image_size
        if transform.size != size:
            raise UserError(f"transform.size is {transform.size}, the codec takes images of {size}")
        self._rows = storing.batch_images * runtime.device_count // runtime.process_count
        self._blank = np.zeros((self._rows, size, size, 3), np.uint8)
        self._places: np.ndarray | None = None
        """Where this process's rows stand in what a host sees of a batch."""
        self._encode = runtime.compile(self._encoded)

    def _encoded(self, pixels: Tensor) -> Tensor:
        # in float32 whatever the compute type, as a training step encodes its targets
        with torch.no_grad():
            return self._opened.codec.encode(image_of(pixels[0])).float()

    def run(self, source: SourceRecipe, out: str, ticks: Ticks) -> Stored:
        """Make the latents of one source into `out` (path or URL); shards that stand there are left as they are.

        Raises:
            UserError: the source, the folder, the storage, or latents that are not finite as they are to be stored.
            BadDataError: too many pictures can't be used; what was made stays.
        """
        runtime, storing = self._runtime, self._storing
        reader = open_tars(source)
        shards = list(zip(reader.shard_names, reader.shard_samples, strict=True))
        folder = LatentFolder(out, self._record(source, reader.order_hash, reader.manifest_hash), shards)
        begun = self._on_first(lambda: _as_json(folder.begin(storing.overwrite)))
        if begun is None:
            return self._stored(source, folder, complete_already=True)
        done = {number: (seen, bad) for number, seen, bad in begun}
        mine, batches = self._deal(shards, set(done))
        tick = ticks(f"latents of {source.name}", sum(shards[number][1] for number in mine))
        seen, bad = (sum(values) for values in zip((0, 0), *done.values(), strict=True))
        with _Shards(folder, runtime.process_index) as kept, self._pool(shards, mine) as pool:
            for number, notes in self._made(source, reader.order_hash, mine, shards, batches, pool, kept):
                seen, bad = seen + shards[number][1], bad + len(notes)
                tick(shards[number][1])
                if too_many(bad, seen - bad, self._max_bad_fraction):
                    named = "; ".join(f"{row.name}: {row.reason}: {row.detail}" for row in notes[:5])
                    raise BadDataError(
                        f"{source.name}: {bad} of {seen} pictures can't be used, more than the "
                        f"{self._max_bad_fraction:.0%} of data.loader.max_bad_fraction: {named}"
                    )
        runtime.barrier()
        how = {"runtime": runtime.type, "devices": runtime.device_count, "versions": versions()}
        self._on_first(lambda: folder.finish(how))
        return self._stored(source, folder, complete_already=False)

    def _record(self, source: SourceRecipe, order_hash: str, manifest_hash: str | None) -> dict[str, Any]:
        path = source.path if isinstance(source.path, str) else list(source.path)
        return {
            "format": FORMAT,
            "version": VERSION,
            **made_by(self._opened, self._transform),
            "dtype": self._storing.dtype,
            "keep_pixels": self._storing.keep_pixels,
            "batch_images": self._storing.batch_images,
            "max_pixels": source.max_pixels,
            "source": {"path": path, "order_hash": order_hash, "manifest_hash": manifest_hash},
        }

    def _deal(self, shards: Sequence[tuple[str, int]], done: set[int]) -> tuple[list[int], int]:
        """This process's shards, and the batches that every process takes: all run the same program in step."""
        counts = {number: -(-samples // self._rows) for number, (_, samples) in enumerate(shards) if number not in done}
        piles: list[tuple[int, int, list[int]]] = [(0, place, []) for place in range(self._runtime.process_count)]
        for number in sorted(counts, key=lambda number: (-counts[number], number)):
            batches, place, pile = heapq.heappop(piles)
            heapq.heappush(piles, (batches + counts[number], place, [*pile, number]))
        mine = next(pile for _, place, pile in piles if place == self._runtime.process_index)
        return sorted(mine), max(batches for batches, *_ in piles)

    def _pool(self, shards: Sequence[tuple[str, int]], mine: Sequence[int]) -> Any:
        return workers(self._storing.processes, sum(shards[number][1] for number in mine), _FEW)

    def _made(
        self,
        source: SourceRecipe,
        order_hash: str,
        mine: Sequence[int],
        shards: Sequence[tuple[str, int]],
        batches: int,
        pool: Workers | None,
        kept: "_Shards",
    ) -> Iterator[tuple[int, list[LeftOut]]]:
        """Encode and write; after each shard its number and the pictures of it that can't be used."""
        places = [(number, first) for number in mine for first in range(0, shards[number][1], self._rows)]
        read = partial(read_rows, source, order_hash, self._transform, self._storing.keep_pixels)
        jobs = (partial(read, number, first, min(self._rows, shards[number][1] - first)) for number, first in places)
        chunks = ordered(pool, jobs)
        coming = self._fetched(self._sent(chunk) for chunk in chunks)
        for number in mine:
            making = _Making(number, *shards[number], self._storing.dtype)
            for _ in range(-(-making.samples // self._rows)):
                making.add(*next(coming))
            kept.add(making)
            yield number, making.refused
        for _ in range(batches - len(places)):  # others are not done yet
            self._runtime.to_host(self._encode(self._runtime.put({"pixels": self._blank})["pixels"]))

    def _sent(self, chunk: Chunk) -> tuple[Chunk, Tensor]:
        pixels = self._blank.copy()
        for row, picture in enumerate(chunk.pixels):
            if picture is not None:
                pixels[row] = picture
        return chunk, self._encode(self._runtime.put({"pixels": pixels})["pixels"])

    def _fetched(self, sent: Iterator[tuple[Chunk, Tensor]]) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Latents [B, N, C] on the host, the next batch being computed meanwhile."""
        waiting: tuple[Chunk, Tensor] | None = None
        for pair in sent:
            if waiting is not None:
                yield waiting[0], self._own_rows(waiting[1])
            waiting = pair
        if waiting is not None:
            yield waiting[0], self._own_rows(waiting[1])

    def _own_rows(self, latent: Tensor) -> np.ndarray:
        """This process's rows [B, N, C]: a host sees those of all processes, or its own."""
        runtime = self._runtime
        if runtime.process_count == 1:
            return runtime.to_host(latent)
        if self._places is None:
            numbers = runtime.process_index * self._rows + np.arange(self._rows, dtype=np.int32)
            seen = runtime.to_host(runtime.put({"rows": numbers})["rows"])[0]
            self._places = np.array([int(np.flatnonzero(seen == number)[0]) for number in numbers])
        return runtime.to_host(latent)[self._places]

    def _on_first(self, work: Callable[[], Any]) -> Any:
        """What the first process's work gives (JSON values), on every process; its error likewise."""
        value: Any = None
        if self._runtime.process_index == 0:
            try:
                value = {"value": work()}
            except UserError as error:
                value = {"error": str(error)}
        told = self._runtime.exchange(value)[0]
        if "error" in told:
            raise UserError(told["error"])
        return told["value"]

    def _stored(self, source: SourceRecipe, folder: LatentFolder, complete_already: bool) -> Stored:
        codec, report = self._opened.codec, folder.report()
        report.complete_already = complete_already
        return Stored(source, folder, report, codec.grid, codec.channels, self._storing.dtype)


class _Making:
    """A shard of latents, being filled."""

    def __init__(self, number: int, name: str, samples: int, dtype: LatentType) -> None:
        self.number, self.name, self.samples, self._dtype = number, name, samples, dtype
        self.file = ShardFile()
        self.refused: list[LeftOut] = []
        self.pictures, self.error = 0, 0.0

    def add(self, chunk: Chunk, latents: np.ndarray) -> None:
        """Append rows with their latents [B, N, C]; B may be more.

        Raises:
            UserError: a latent that is not finite as it is to be stored.
        """
        first, power, difference = len(self.file) == 0, 0.0, 0.0
        self.refused += chunk.refused
        for key, members, picture, latent in zip(chunk.keys, chunk.members, chunk.pixels, latents, strict=False):
            if picture is not None:
                try:
                    data = pack_latent(latent, self._dtype)
                except ValueError as error:
                    wider = {"float16": "bfloat16", "bfloat16": "float32"}.get(self._dtype)
                    raise UserError(
                        f"{self.name.removesuffix('.tar')}/{key}: {error}"
                        + (f"; store them with --dtype {wider}" if wider else "")
                    ) from None
                members = {**members, LATENT: data}
                self.pictures += 1
                if first:
                    power += float(np.square(latent, dtype=np.float64).sum())
                    difference += float(np.square(unpack_latent(data) - latent, dtype=np.float64).sum())
            self.file.write(key, members)
        if first and power:
            self.error = (difference / power) ** 0.5

    def finish(self, folder: LatentFolder) -> ShardNote:
        """Write it."""
        entry, table = self.file.finish(folder.store, self.name)
        return ShardNote(self.number, entry, table, self.pictures, tuple(self.refused), self.error)


class _Shards:
    """Writes and notes finished shards in a thread, one at a time, while the next is made."""

    def __init__(self, folder: LatentFolder, process: int) -> None:
        self._folder, self._journal = folder, folder.journal(process)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write shard")
        self._writing: Future[None] | None = None

    def add(self, making: _Making) -> None:
        """Begin to write one, when the one before it stands. Raises what that one met."""
        self._wait()
        self._writing = self._thread.submit(self._write, making)

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._thread.shutdown(wait=True)  # one that is being written is finished, whatever else has happened
            self._journal.flush()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _write(self, making: _Making) -> None:
        self._journal.add(making.finish(self._folder).as_json())


def _as_json(notes: Sequence[ShardNote] | None) -> list[tuple[int, int, int]] | None:
    """Number, samples and refused pictures of shards that stand."""
    return None if notes is None else [(note.number, note.entry.samples, len(note.refused)) for note in notes]


def refuse_nested(sources: Sequence[SourceRecipe], out: str) -> None:
    """Refuse to write into a source.

    Raises:
        UserError: a source lies in `out`, or `out` in it.
    """
    for source in sources:
        for path in [source.path] if isinstance(source.path, str) else source.path:
            inside, around = out.rstrip("/"), path.rstrip("/")
            if inside == around or inside.startswith(f"{around}/"):
                raise UserError(f"--out {out}: lies in {path}, where the pictures of {source.name} are ({RECORD})")
