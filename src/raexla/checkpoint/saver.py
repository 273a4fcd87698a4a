"""Saving beside training: the step is held for a copy to the host, a thread writes and commits.

Every process writes its own pieces, then all of them agree (on connections of their own, so that the training's
exchanges are not disturbed), then process 0 writes the manifest and the marker. One checkpoint is written at a time.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from raexla.checkpoint import layout
from raexla.checkpoint.pieces import DTYPE_NAMES, Block, PieceFile, as_bytes, cut, deal, pack
from raexla.checkpoint.reading import Checkpoint, complete, latest
from raexla.checkpoint.recipe import CheckpointRecipe
from raexla.checkpoint.retention import kept
from raexla.files import Store
from raexla.recipe import RaexlaError, UserError
from raexla.runtime import Runtime

WRITERS = 4
"""Files that a process writes at a time."""


class SaveFailed(UserError):
    """A checkpoint could not be written; the ones before are as they were."""


@dataclass
class Saves:
    """What saving has cost this process so far."""

    count: int = 0
    bytes: int = 0
    """Of this process's files."""
    held_seconds: float = 0.0
    """In which training stood still for the copies."""
    waited_seconds: float = 0.0
    """In which it stood still because the checkpoint before was not yet committed."""
    written_seconds: float = 0.0
    """From the copy to the commit, training or not."""

    def as_dict(self) -> dict[str, float]:
        """JSON values."""
        return dict(vars(self))


@dataclass
class _Job:
    """A checkpoint whose values are on the host, to be written."""

    step: int
    tensors: dict[str, dict[str, Any]]
    blocks: list[Block]
    meta: dict[str, Any]
    metrics: dict[str, float]
    began: float = field(default_factory=time.perf_counter)


class Saver:
    """Writes a run's checkpoints. Everything but `busy`, `told` and `close` is collective: all processes call it.

    Use `open_saver`.
    """

    def __init__(self, store: Store, runtime: Runtime, recipe: CheckpointRecipe) -> None:
        self.store, self.recipe, self.saves = store, recipe, Saves()
        self._runtime, self._peers = runtime, runtime.another_group()
        self._first = runtime.process_index == 0
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._job: Future[None] | None = None
        self._told: list[str] = []
        self._remarked = False
        self._buffers: dict[tuple[str, torch.Size], Tensor] = {}
        cleaned = self._together(lambda: layout.clean(store))
        self.cleaned: list[str] = cleaned
        """Leftovers of a killed program that were taken away when this saver was opened."""

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._job is not None and not self._job.done()

    def told(self) -> list[str]:
        """What there is to say to a person since this was last asked: checkpoints that are there now."""
        lines, self._told = self._told, []
        return lines

    def save(
        self,
        step: int,
        state: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copy `state` to the host and begin to write it as the checkpoint of `step`.

        Args:
            state: name -> placed tensor, the same names in the same order on every process.
            meta: JSON values that go with it (cursor, recipe, versions ...); process 0's count.
            metrics: figures of this step, for `best`.

        Raises:
            SaveFailed: the one before could not be written.
        """
        began = time.perf_counter()
        self.wait()
        waited = time.perf_counter()
        self.saves.waited_seconds += waited - began
        tensors, blocks = self._to_host(state)
        figures = {name: float(value) for name, value in (metrics or {}).items()}
        best = self.recipe.best
        if best is not None and figures and best.metric not in figures and not self._remarked:
            self._remarked = True
            self._told.append(
                f"step {step} can't be the best: it has no {best.metric}, only {', '.join(sorted(figures))}"
            )
        job = _Job(step, tensors, blocks, dict(meta), figures)
        self.saves.held_seconds += time.perf_counter() - waited
        self._job = self._thread.submit(self._work, job)
        if not self.recipe.background:
            self.wait()

    def wait(self) -> None:
        """Until the checkpoint in flight is committed on all processes.

        Raises:
            SaveFailed: it could not be written.
        """
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint, the same one for every process.

        Raises:
            UserError: it is damaged.
        """
        self.wait()
        step = self._together(lambda: found.step if (found := latest(self.store.url)) is not None else None)
        return Checkpoint.open(self.store.below(layout.step_name(step))) if step is not None else None

    def close(self) -> RaexlaError | None:
        """Wait for what is in flight; an error that nobody has been told of yet."""
        try:
            self.wait()
        except RaexlaError as error:
            return error
        finally:
            self._thread.shutdown()
            self._buffers.clear()
        return None

    # -- on the main thread --

    def _together(self, work: Callable[[], Any]) -> Any:
        """What process 0 finds, for all; its errors too. Only while no checkpoint is in flight."""
        found, error = None, None
        if self._first:
            try:
                found = work()
            except RaexlaError as raised:
                error = raised
        said = self._peers.exchange([found, str(error) if error else None])[0]
        if error is not None:
            raise error
        if said[1] is not None:
            raise UserError(said[1])
        return said[0]

    def _to_host(self, state: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Any]], list[Block]]:
        """What every process knows of the tensors, and the blocks that this one writes, copied."""
        tensors = {key: {"shape": list(t.shape), "dtype": DTYPE_NAMES[t.dtype]} for key, t in state.items()}
        blocks: list[Block] = []
        live: set[str] = set()
        for key, tensor in state.items():
            for piece in self._runtime.local_pieces(tensor):
                mine = list(cut(key, piece.offset, piece.values))
                blocks.extend(mine)
                live.update(block.name for block in mine if piece.live)
        if self._runtime.holds_all and self._runtime.process_count > 1:
            blocks = deal(blocks, self._runtime.process_index, self._runtime.process_count)
        return tensors, [self._copy(block) if block.name in live else _contiguous(block) for block in blocks]

    def _copy(self, block: Block) -> Block:
        """A block in memory that no step overwrites; the same memory at every save."""
        place = (block.name, block.values.shape)
        if place not in self._buffers:
            self._buffers[place] = torch.empty(block.values.shape, dtype=block.values.dtype)
        self._buffers[place].copy_(block.values)
        return Block(block.key, block.offset, self._buffers[place])

    # -- on the writer's thread --

    def _work(self, job: _Job) -> None:
        place = self._write(job)
        self._told.append(f"saved {place}")
        self.saves.count += 1
        self.saves.written_seconds += time.perf_counter() - job.began

    def _write(self, job: _Job) -> str:
        name = layout.step_name(job.step)
        self._agreed("making room", lambda: self._first and layout.begin(self.store, name) is None)
        folder = layout.place(self.store, name)
        index = self._runtime.process_index
        files = pack(job.blocks, self.recipe.file_mib << 20, f"pieces-{index:05d}")
        parts = self._agreed("writing pieces", lambda: self._write_files(folder, files), name)
        self._agreed("committing", lambda: self._commit(name, job, parts) if self._first else None, name)
        self._agreed("removing old ones", lambda: self._prune(job.step) if self._first else None)
        return f"{self.store.url}/{name}"

    def _agreed(self, doing: str, work: Callable[[], Any], name: str | None = None) -> list[Any]:
        """Do a part of saving on every process, and go on only if it went well everywhere."""
        found, error = None, None
        try:
            found = work()
        except (RaexlaError, OSError, MemoryError, RuntimeError) as raised:
            error = raised
        said = self._peers.exchange([found, _said(error) if error else None])
        failed = [(process, text) for process, (_, text) in enumerate(said) if text is not None]
        if not failed:
            return [value for value, _ in said]
        if name is not None and self._first:
            layout.abandon(self.store, name)
        who = f" on process {failed[0][0]} of {len(said)}" if len(said) > 1 else ""
        raise SaveFailed(
            f"{self.store.url}: saving {name or 'a checkpoint'} failed while {doing}{who}: {failed[0][1]}; "
            "the checkpoints before are as they were"
        ) from error

    def _write_files(self, folder: Store, files: list[PieceFile]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        pieces: dict[str, list[dict[str, Any]]] = {}
        with ThreadPoolExecutor(WRITERS, "checkpoint-writer") as writers, ThreadPoolExecutor(WRITERS) as hashers:
            written: list[tuple[PieceFile, Future[None], list[Future[str]]]] = [
                (
                    file,
                    writers.submit(folder.write, file.name, file),  # type: ignore[arg-type]
                    [hashers.submit(lambda b: sha256(as_bytes(b.values)).hexdigest(), b) for b in file.blocks],
                )
                for file in files
            ]
            for file, done, hashes in written:
                done.result()
                entries[file.name], more = file.describe([digest.result() for digest in hashes])
                for key, found in more.items():
                    pieces.setdefault(key, []).extend(found)
        self.saves.bytes += sum(file.size for file in files)
        return {"files": entries, "pieces": pieces}

    def _commit(self, name: str, job: _Job, parts: list[Any]) -> None:
        """Manifest, marker, and the name under which it is found."""
        tensors: dict[str, Any] = {key: {**entry, "pieces": []} for key, entry in job.tensors.items()}
        files: dict[str, Any] = {}
        for part in parts:
            files.update(part["files"])
            for key, pieces in part["pieces"].items():
                tensors[key]["pieces"].extend(pieces)
        if lacking := complete(tensors):
            raise RuntimeError(f"the pieces of all processes are not the whole of {', '.join(lacking[:4])}")
        manifest = {
            "format": layout.FORMAT,
            "step": job.step,
            "time": time.time(),
            "metrics": job.metrics,
            "files": files,
            "tensors": tensors,
            "meta": job.meta,
        }
        written = layout.dump(manifest)
        layout.publish(self.store, name, written, layout.marker(manifest, written))

    def _prune(self, newest: int) -> None:
        """Take away what the recipe does not keep; never the newest."""
        saved = {entry.step: entry for entry in layout.entries(self.store) if entry.complete}
        figures: dict[int, Mapping[str, float]] = {}
        for step, entry in saved.items():
            needed = self.recipe.best is not None
            figures[step] = layout.read_marker(self.store.below(entry.name))["metrics"] if needed else {}
        for step, reasons in kept(figures, self.recipe).items():
            if not reasons and step != newest:
                layout.remove(self.store, saved[step].name)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, RaexlaError | OSError) else f"{type(error).__name__}: {error}"


def _contiguous(block: Block) -> Block:
    return Block(block.key, block.offset, block.values.contiguous())


def open_saver(folder: str | os.PathLike[str] | Store, runtime: Runtime, recipe: CheckpointRecipe) -> Saver:
    """The writer of the checkpoints in `folder`, a path or any fsspec URL; takes away what a killed program left there.

    All processes call this, from the main thread.
    """
    return Saver(folder if isinstance(folder, Store) else Store(folder), runtime, recipe)


def save(
    folder: str | os.PathLike[str], step: int, state: Mapping[str, Tensor], meta: Mapping[str, Any], runtime: Runtime
) -> str:
    """Write one checkpoint and wait for it; keeps all others. Returns its place."""
    saver = open_saver(folder, runtime, CheckpointRecipe(keep=1 << 30))
    saver.save(step, state, meta)
    saver.wait()
    return f"{saver.store.url}/{layout.step_name(step)}"
